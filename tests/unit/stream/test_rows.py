"""Several sequences in a row, as loops and streams get them: a function of the examples, whoever reads them."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.shards import read_manifest
from streamtrain.stream.ahead.streamer import Streamer, open_stream, selections_read, selections_streamed
from streamtrain.stream.examples import Decoding
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.values import Position, Selection
from tests.support.tokens import LONGEST, pack_ragged, sequences

EXAMPLES = 101
LENGTHS = np.random.default_rng(5).integers(0, LONGEST + 1, EXAMPLES).tolist()
TOKENS = [row[:length].tolist() for row, length in zip(sequences(LENGTHS)["tokens"], LENGTHS, strict=True)]
ROWS = st.Pack(("tokens", "next"), length=15, value=-1)
FIELDS = ("tokens", "next", "label")


@pytest.fixture(scope="module", params=["samples", "blocks"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = st.PackOptions(splits=(1, 0, 0), shard_examples=16, blocks=request.param == "blocks")
    return pack_ragged(tmp_path_factory.mktemp("ragged") / "d", EXAMPLES, options)


def rows_of(numbers: list[int]) -> list[list[int]]:
    """The naive twin: the sequences of these examples in rows, padded."""
    rows: list[list[int]] = [[]]
    for number in numbers:
        if len(rows[-1]) + len(TOKENS[number]) > ROWS.length:
            rows.append([])
        rows[-1] += TOKENS[number]
    return [[*row, *[-1] * (ROWS.length - len(row))] for row in rows]


@pytest.mark.parametrize("reshuffle", ["stored", "shards", "examples"])
@pytest.mark.parametrize("lane", [None, 2])
def test_every_lanes_part_is_laid_into_rows_of_its_own(folder: Path, reshuffle: Any, lane: int | None) -> None:
    batches = st.open(folder).batches(12, lanes=3, lane=lane, reshuffle=reshuffle, seed=4, collate=ROWS)
    seen: list[int] = []
    for batch in [*batches, *batches]:
        numbers = batch["label"].tolist()
        seen += numbers
        if not numbers:
            assert batch["tokens"].shape == (0, 15) and batch["tokens_length"].shape == (0,)
            continue
        assert batch["tokens"].tolist() == rows_of(numbers)
        assert batch["tokens_length"].tolist() == [len(TOKENS[number]) for number in numbers]
        assert batch["word"] == [str(number) for number in numbers]
        assert {batch[name].dtype for name in ROWS.made} == {torch.int64}
        assert batch["next"].shape == batch["tokens_example"].shape == batch["tokens_position"].shape
    assert lane is not None or sorted(seen) == sorted(2 * list(range(EXAMPLES)))


def shortened(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    length = rng.integers(0, 1 + len(example["tokens"]))
    return {**example, "tokens": example["tokens"][:length], "next": example["next"][:length]}


def as_bytes(batches: Any) -> list[dict[str, bytes]]:
    return [{name: each.numpy().tobytes() for name, each in batch.items()} for batch in batches]


@pytest.mark.parametrize("chosen", [{}, {"lanes": 3, "lane": 1}, {"ahead": 2}], ids=str)
def test_promise_2_any_number_of_streamers_and_threads_lays_alike(folder: Path, chosen: dict[str, Any]) -> None:
    found = []
    for reading in ({}, {"decode_threads": 3}, {"streamers": 1}, {"streamers": 3}):
        given = {name: value for name, value in chosen.items() if name != "ahead" or "streamers" in reading}
        opened = st.open(folder, fields=FIELDS, augment=shortened, **reading)
        found.append(as_bytes(opened.batches(12, collate=ROWS, seed=3, **given)))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("reading", [{}, {"streamers": 2}], ids=str)
def test_promise_3_a_loop_goes_on_from_a_position(folder: Path, reading: dict[str, int]) -> None:
    """Saved in the middle of a pass and gone to in another loop, by a seek, and over the end of a pass."""

    def batches() -> Any:
        opened = st.open(folder, fields=FIELDS, **reading)
        return opened.batches(12, lanes=3, reshuffle="examples", seed=3, collate=ROWS)

    straight = batches()
    expected = [as_bytes(straight), as_bytes(straight)]
    first = batches()
    head = list(itertools.islice(first, 4))
    other = batches()
    other.load_state_dict(first.state_dict())
    assert as_bytes(head) + as_bytes(other) == expected[0]
    other.seek(Position(1, 2))
    assert as_bytes(other) == expected[1][2:]


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_stream_carries_rows(address: str | None, folder: Path) -> None:
    """Their first axis is not that of the other fields."""
    reader, its_own = (
        Reader(LocalFiles(folder), read_manifest(folder), "train", FIELDS, Decoding(collate=ROWS)) for _ in range(2)
    )
    parts = [Selection(0, ((start, min(start + 1 + start % 9, EXAMPLES)),)) for start in range(EXAMPLES)]
    streamer = Streamer(its_own, parts, largest=9, address=address)
    stream = open_stream(streamer.start(), 5.0)
    counts = set()
    for expected, found in zip(selections_read(reader, parts), selections_streamed([stream]), strict=False):
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
        counts.add((len(found["tokens"]), len(found["label"])))
    assert any(rows < examples for rows, examples in counts) and len(counts) > 9
    stream.close()
    streamer.stop()
    assert streamer.failure() is None


def test_a_sequence_longer_than_a_row_is_refused_by_key_or_cut_or_passed_over(folder: Path) -> None:
    rows = dataclasses.replace(ROWS, length=7)
    with pytest.raises(st.ShardError) as said:
        list(st.open(folder, fields=FIELDS).batches(20, collate=rows))
    assert "train/0000" in str(said.value) and ", example '" in str(said.value)
    assert "field 'tokens': expected at most 7 entries, found " in str(said.value)
    assert "; raise st.Pack's length, or set cut=True" in str(said.value) and "\n" not in str(said.value)
    skipping = st.open(folder, fields=FIELDS, on_bad_example="skip")
    kept = [n for batch in skipping.batches(20, collate=rows) for n in batch["label"].tolist()]
    assert sorted(kept) == [number for number in range(EXAMPLES) if LENGTHS[number] <= 7]
    for batch in st.open(folder, fields=FIELDS).batches(20, collate=dataclasses.replace(rows, cut=True)):
        assert batch["tokens_length"].tolist() == [min(7, LENGTHS[n]) for n in batch["label"].tolist()]


def mapped(change: Any) -> Any:
    return lambda example: {"tokens": example["tokens"], "next": example["next"], **change(example)}


REFUSED: dict[str, tuple[Any, st.Pack, str]] = {
    "no such field": (
        dict,
        st.Pack("token", 9),
        "expected a field 'token' to collate, found label, next, tokens, word;",
    ),
    "a made name": (
        mapped(lambda example: {"tokens_row": 3}),
        ROWS,
        "field 'tokens_row': expected no such field, found one; rename it: data.collate makes a field of this name",
    ),
    "a number": (dict, st.Pack("label", 9), "expected an array of numbers, found a single number; make it an array in"),
    "a text": (dict, st.Pack("word", 9), "field 'word': expected an array of numbers, found str; make it an array in"),
    "other lengths": (
        mapped(lambda example: {"next": [*example["next"], 1]}),
        ROWS,
        r"example '\d+', field 'next': expected \d entries, as 'tokens' has, found \d+; make them as long as ",
    ),
    "another type": (
        mapped(lambda example: {"next": example["next"].astype("f4" if example["label"] % 2 else "f8")}),
        ROWS,
        r"field 'next': expected float\d\d of shape .*, but for the first axis, found float.*; bring all to one form",
    ),
    "a value that the type does not hold": (
        mapped(lambda example: {"next": example["next"].astype(np.uint8)}),
        ROWS,
        "field 'next', st.Pack: expected a value of uint8, found -1; choose another value",
    ),
    "a field that looks like rows": (
        mapped(lambda example: {"x": np.zeros(15)}),
        ROWS,
        r"field 'x': expected no field of the size of a row, found shape \(15,\); choose another length for st.Pack",
    ),
    "a field of different lengths": (
        dict,
        st.Pack("tokens", 15),
        r"field 'next': expected int64 of shape \(\d,\) as in .*; name it in st.Pack too, or bring all to one form in",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("threads", [1, 2])
def test_what_makes_no_rows_is_one_line(folder: Path, name: str, threads: int) -> None:
    change, collate, said = REFUSED[name]
    opened = st.open(folder, map=change, decode_threads=threads)
    with pytest.raises(st.StreamtrainError, match=said) as found:
        list(opened.batches(20, collate=collate))
    assert "\n" not in str(found.value)


def test_rows_that_cannot_be_are_refused_where_they_are_declared(folder: Path) -> None:
    for given, said in (
        ({"fields": "", "length": 3}, "st.Pack, fields: expected names of fields, found ''"),
        ({"fields": (), "length": 3}, r"st.Pack, fields: expected names of fields, found \(\); name one, or several"),
        ({"fields": ("a", "a"), "length": 3}, "st.Pack, fields: expected each field once"),
        ({"fields": "a", "length": 0}, "st.Pack, length: expected a whole number of at least 1"),
        ({"fields": "a", "length": 2.5}, "st.Pack, length: expected a whole number"),
        ({"fields": "a", "length": 3, "value": "b"}, "st.Pack, value: expected a number"),
    ):
        with pytest.raises(st.ConfigError, match=said):
            st.Pack(**given)  # type: ignore[arg-type]
    beside: Any = (ROWS, st.Pad("x"))
    said = r"collate: expected st.Pad\(.field.\), .*; let st.Pack alone lay several fields into rows, and pad others in"
    with pytest.raises(st.ConfigError, match=said):
        st.Data("data/x", collate=beside)
    with pytest.raises(st.ConfigError, match=said):
        st.open(folder).batches(20, collate=beside)
