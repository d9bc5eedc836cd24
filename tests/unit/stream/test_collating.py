"""Examples of different shapes as batches: padded, or by a function; a function of the examples, whoever reads them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import WorkerLost
from streamtrain.shards import read_manifest
from streamtrain.stream.ahead import ring
from streamtrain.stream.ahead.ring import RingReader, RingShape, RingWriter
from streamtrain.stream.ahead.streamer import Streamer, open_stream, selections_read, selections_streamed
from streamtrain.stream.examples import Decoding
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.loops.opened import Examples
from streamtrain.stream.reader import Reader
from streamtrain.values import Selection
from tests.support.tokens import LONGEST, PADS, pack_ragged, sequences

EXAMPLES = 101
LENGTHS = np.random.default_rng(5).integers(0, LONGEST + 1, EXAMPLES).tolist()
TOKENS = [row[:length] for row, length in zip(sequences(LENGTHS)["tokens"], LENGTHS, strict=True)]


@pytest.fixture(scope="module", params=["samples", "blocks"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = st.PackOptions(splits=(1, 0, 0), shard_examples=16, blocks=request.param == "blocks")
    return pack_ragged(tmp_path_factory.mktemp("ragged") / "d", EXAMPLES, options)


@pytest.fixture(scope="module")
def examples(folder: Path) -> Examples:
    return st.open(folder)


def padded(numbers: list[int], value: int, multiple_of: int) -> np.ndarray:
    """The naive twin of `st.Pad`: these sequences in a row each."""
    longest = max(len(TOKENS[number]) for number in numbers)
    width = max(1, -(-longest // multiple_of)) * multiple_of
    return np.array([[*TOKENS[n], *[value] * (width - len(TOKENS[n]))] for n in numbers])


@pytest.mark.parametrize("reshuffle", ["stored", "shards", "examples"])
@pytest.mark.parametrize("lane", [None, 2])
def test_every_lanes_part_is_padded_to_its_own_longest(examples: Examples, reshuffle: Any, lane: int | None) -> None:
    """Also where it comes out of several shards."""
    chosen = {"lanes": 3, "lane": lane, "reshuffle": reshuffle, "seed": 4}
    batches = examples.batches(12, **chosen, collate=(st.Pad("tokens", -1, 4), st.Pad("next", -100, 2)))
    seen: list[int] = []
    widths = set()
    for batch in [*batches, *batches]:
        numbers = batch["label"].tolist()
        seen += numbers
        if not numbers:
            continue
        assert np.array_equal(batch["tokens"], padded(numbers, -1, 4)) and batch["tokens"].dtype == torch.int64
        assert batch["tokens_length"].tolist() == [len(TOKENS[n]) for n in numbers]
        assert batch["tokens_length"].dtype == batch["next_length"].dtype == torch.int64
        assert batch["word"] == [str(number) for number in numbers]
        widths.add(batch["tokens"].shape[1])
    assert lane is not None or sorted(seen) == sorted(2 * list(range(EXAMPLES)))
    assert len(widths) > (lane is not None), "of one lane some parts are short"


@pytest.mark.parametrize("chosen", [{}, {"lanes": 3, "lane": 1}, {"ahead": 2}], ids=str)
def test_promise_2_any_number_of_streamers_and_threads_collates_alike(folder: Path, chosen: dict[str, Any]) -> None:
    found = []
    for reading in ({}, {"decode_threads": 3}, {"streamers": 1}, {"streamers": 3}):
        given = {name: value for name, value in chosen.items() if name != "ahead" or "streamers" in reading}
        opened = st.open(folder, fields=("tokens", "next", "label"), augment=shortened, **reading)
        batches = opened.batches(12, collate=PADS, seed=3, **given)
        found.append([{name: each.numpy().tobytes() for name, each in batch.items()} for batch in batches])
    assert all(each == found[0] for each in found)


def shortened(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    length = rng.integers(0, 1 + len(example["tokens"]))
    return {**example, "tokens": example["tokens"][:length], "next": example["next"][:length]}


def test_the_longest_is_refused_by_key_or_cut_or_passed_over(folder: Path) -> None:
    long = [number for number in range(EXAMPLES) if LENGTHS[number] > 6]
    pad = st.Pad("tokens", longest=6)
    fields = ("tokens", "label")
    for streamers in (0, 2):
        with pytest.raises(st.ShardError) as said:
            list(st.open(folder, fields=fields, streamers=streamers).batches(20, collate=pad))
        assert "train/0000" in str(said.value) and "field 'tokens': expected at most 6 entries, found " in str(
            said.value
        )
        assert "; raise longest, or set cut=True" in str(said.value) and ", example '" in str(said.value)
        skipping = st.open(folder, fields=fields, streamers=streamers, on_bad_example="skip")
        kept = [n for batch in skipping.batches(20, collate=pad) for n in batch["label"].tolist()]
        assert sorted(kept) == [number for number in range(EXAMPLES) if number not in long]
        assert len(skipping.reader.skipped) == len(long)
        cut = st.open(folder, fields=fields, streamers=streamers).batches(
            20, collate=dataclasses.replace(pad, cut=True)
        )
        for batch in cut:
            assert batch["tokens"].shape[1] == 6, "a multiple of 8 would be more than the longest"
            for number, row, length in zip(
                batch["label"].tolist(), batch["tokens"], batch["tokens_length"], strict=True
            ):
                assert np.array_equal(row[:length], TOKENS[number][:6]) and not row[length:].any()


def mapped(change: Any) -> Any:
    return lambda example: {"tokens": example["tokens"], "label": example["label"], **change(example)}


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "another field of different lengths": (
        lambda example: {"tokens": example["tokens"], "next": example["next"]},
        st.Pad("tokens"),
        r"example '\d+', field 'next': expected int64 of shape \(\d,\) as in .*; pad it with st.Pad\('next'\)",
    ),
    "no such field": (dict, st.Pad("token"), "expected a field 'token' to collate, found label, next, tokens, word; "),
    "the lengths' name": (
        mapped(lambda example: {"tokens_length": 3}),
        st.Pad("tokens"),
        "field 'tokens_length': expected no such field, found one; rename it",
    ),
    "a number": (mapped(lambda e: {}), st.Pad("label"), "expected an array of numbers, found a single number;"),
    "an empty list, which has no type": (
        mapped(lambda e: {"tokens": [t for t in e["tokens"].tolist() if t > 99]}),
        st.Pad("tokens"),
        "field 'tokens': expected numbers that have a type, found an empty list; make it an array of the others' type",
    ),
    "a text": (
        mapped(lambda e: {"word": "a"}),
        st.Pad("word"),
        "field 'word': expected an array of numbers, found str",
    ),
    "lists of lists": (
        mapped(lambda example: {"tokens": [[1], [1, 2]]}),
        st.Pad("tokens"),
        "field 'tokens': expected an array of numbers, found list; make it an array in data.map",
    ),
    "another type": (
        mapped(lambda example: {"tokens": example["tokens"].astype("f4" if example["label"] % 2 else "f8")}),
        st.Pad("tokens"),
        r"field 'tokens': expected float\d\d of shape .*, but for the first axis, found float.*; bring all to one form",
    ),
    "a value that the type does not hold": (
        mapped(lambda example: {"tokens": example["tokens"].astype(np.uint8)}),
        st.Pad("tokens", value=-1),
        "field 'tokens', st.Pad: expected a value of uint8, found -1; choose another value",
    ),
    "a value beyond the type's largest": (
        mapped(lambda example: {"tokens": example["tokens"].astype(np.float16)}),
        st.Pad("tokens", value=-1e9),
        "field 'tokens', st.Pad: expected a value of float16, found -1000000000.0; choose another value",
    ),
    "no number of whole ones": (
        mapped(lambda example: {}),
        st.Pad("tokens", value=float("nan")),
        "st.Pad: expected a value of int64, found nan",
    ),
    "other fields": (
        lambda e: {name: e[name] for name in ("tokens", "next", "label")[: 2 + e["label"] % 2]},
        PADS,
        "expected the fields .* as in .*; return the same ones from data.map",
    ),
    "a failing function": (
        None,
        lambda examples: examples[0]["nothing"],
        r"data.collate failed: KeyError: 'nothing' \(",
    ),
    "an average": (
        None,
        lambda examples: {"tokens": [1, 2, 3]},
        r"example '\d+' and 19 more: data.collate, field 'tokens': expected 20 along the first axis, one for each "
        r"example that it is given, found shape \(3,\); keep the examples along",
    ),
    "one number": (None, lambda examples: {"tokens": 3}, r"expected 20 along the first axis.*found shape \(\)"),
    "nothing": (None, lambda examples: {}, "data.collate: expected a dict of fields, found an empty one"),
    "None": (None, lambda examples: None, "data.collate: expected a dict of fields, found NoneType; return"),
    "a tuple": (
        None,
        lambda examples: (1, 2),
        "data.collate: expected a dict of fields, found tuple; return",
    ),
    "lists": (None, lambda examples: {"x": [e["tokens"] for e in examples]}, "data.collate failed: ValueError: "),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("threads", [1, 2])
def test_what_makes_no_batch_is_one_line(folder: Path, name: str, threads: int) -> None:
    change, collate, said = REFUSED[name]
    opened = st.open(folder, map=change, decode_threads=threads)
    with pytest.raises(st.StreamtrainError, match=said) as found:
        list(opened.batches(20, collate=collate))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("collate", "said"),
    [
        (3, r"collate: expected st.Pad\(\"field\"\), a tuple of them, st.Pack\(.*\), or a function, found 3"),
        ((), "collate: expected st.Pad"),
        ((st.Pad("a"), "b"), "collate: expected st.Pad"),
        ((st.Pad("a"), st.Pad("a", 1)), "collate: expected each field padded once, found 'a'"),
    ],
)
def test_what_is_no_collate_is_refused_where_it_is_declared(folder: Path, collate: Any, said: str) -> None:
    with pytest.raises(st.ConfigError, match=said):
        st.Data("data/x", collate=collate)
    with pytest.raises(st.ConfigError, match=said):
        st.open(folder).batches(20, collate=collate)


def test_a_pad_that_cannot_be_is_refused() -> None:
    for given, said in (
        ({"field": ""}, "st.Pad, field: expected a field's name"),
        ({"field": "a", "multiple_of": 0}, "st.Pad, multiple_of: expected a whole number of at least 1"),
        ({"field": "a", "longest": 0}, "st.Pad, longest: expected a whole number of at least 1"),
        ({"field": "a", "cut": True}, "st.Pad, longest: expected a number beside cut, found None"),
        ({"field": "a", "value": "b"}, "st.Pad, value: expected a number"),
    ):
        with pytest.raises(st.ConfigError, match=said):
            st.Pad(**given)


def counted(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Texts, arrays and numbers of all kinds that a function may give."""
    width = max(len(example["tokens"]) for example in examples)
    tokens = torch.zeros(len(examples), width, dtype=torch.int32)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example["tokens"])] = torch.from_numpy(example["tokens"])
    return {"tokens": tokens.T.contiguous().T, "word": [e["word"] + "\0" for e in examples], "one": [1.5] * len(tokens)}


def test_a_function_makes_the_batch(examples: Examples) -> None:
    plain = [row for batch in examples.batches(20) for row in batch["label"].tolist()]
    made = list(examples.batches(20, collate=counted))
    assert [word for batch in made for word in batch["word"]] == [f"{number}\0" for number in plain]
    for batch in made:
        assert batch["tokens"].is_contiguous() and batch["tokens"].dtype == torch.int32
        assert batch["one"].dtype == torch.float64
    lengths = [int(row.ne(0).sum()) for batch in made for row in batch["tokens"]]
    assert lengths == [int((TOKENS[number] != 0).sum()) for number in plain]


def test_single_examples_of_open_are_as_they_are(examples: Examples) -> None:
    number = int(examples[5]["label"])
    assert np.array_equal(examples[5]["tokens"], TOKENS[number])
    batches = examples.batches(20, collate=PADS)
    next(iter(batches))
    assert len(examples[0:5]["tokens"]) == 5, "still objects"


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_stream_carries_batches_of_all_forms(address: str | None, folder: Path) -> None:
    fields = ("tokens", "next", "label")
    reader, its_own = (
        Reader(LocalFiles(folder), read_manifest(folder), "train", fields, Decoding(collate=PADS)) for _ in range(2)
    )
    parts = [Selection(0, ((start, min(start + 1 + start % 9, EXAMPLES)),)) for start in range(EXAMPLES)]
    streamer = Streamer(its_own, parts, largest=9, address=address)
    stream = open_stream(streamer.start(), 5.0)
    for expected, found in zip(selections_read(reader, parts), selections_streamed([stream]), strict=False):
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    stream.close()
    streamer.stop()
    assert streamer.failure() is None


def test_slots_grow_and_what_they_were_is_given_back() -> None:
    writer = RingWriter(RingShape(2, 4, {"x": ("<i8", (1,)), "y": ("<i8", ())}, varies=True))
    reader = RingReader(writer.handle)
    held = []
    for width in (1, 10_000, 0, 200_000, 300_000, 3):
        arrays = {"x": np.random.default_rng(width).integers(0, 9, (4, width)), "y": np.arange(4)}
        assert writer.put(arrays, lambda: False)
        found = reader.get()
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())
        stat = Path(f"/proc/self/fd/{writer.handle.descriptor}").stat()
        held.append(512 * stat.st_blocks)
    assert held[-1] < 8 * 4 * (200_000 + 300_000) + 2**17, "the largest batch of each slot, and no more"
    writer.close()
    assert writer.put({"x": np.zeros((4, 5), np.int64), "y": np.arange(4)}, lambda: False), "there is room"
    assert len(reader.get()["x"]) == 4, "who has the ring reads on"
    assert not writer.put({"x": np.zeros((4, 10**6), np.int64), "y": np.arange(4)}, lambda: False), "it is closed"
    reader.close()


def test_who_waits_for_the_other_end_sleeps_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cores are wanted by whom it waits for; a batch that comes soon is taken soon."""
    writer = RingWriter(RingShape(1, 1, {"x": ("int64", (1,))}))
    reader = RingReader(writer.handle)
    batch = {"x": np.ones((1, 1), np.int64)}
    waited: list[float] = []
    full: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if sum(waited) > 0.2:
            writer.put(batch, lambda: False)

    monkeypatch.setattr(ring, "time", SimpleNamespace(sleep=sleep))
    assert np.array_equal(reader.get()["x"], batch["x"])
    writer.put(batch, lambda: False)
    monkeypatch.setattr(ring, "time", SimpleNamespace(sleep=full.append))
    assert not writer.put(batch, lambda: sum(full) > 0.2), "its only slot is full"
    for each in (waited, full):
        assert len(each) < 150 and each == sorted(each) and each[0] <= 1e-4 and max(each) <= 2e-3
        before = np.cumsum([0.0, *each[:-1]])
        assert (np.array(each) <= 1.01e-4 + before / 7.9).all()
    writer.close()
    reader.close()


def other_axes(examples: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = np.array([example["label"] for example in examples])
    return {"label": numbers if len(numbers) == 1 else numbers[:, None]}


def other_names(examples: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = np.array([example["label"] for example in examples])
    return {"label" if len(numbers) == 1 else "n": numbers}


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_stream_refuses_other_axes_and_other_fields(address: str | None, folder: Path) -> None:
    for function, said in (
        (
            other_axes,
            r"streamers, field 'label' of a batch: expected int64 with 0 axes for an example as in the first",
        ),
        (other_names, "streamers, a batch: expected the fields label as in the first one, found n; return the same"),
    ):
        decoding = Decoding(collate=function)
        reader = Reader(LocalFiles(folder), read_manifest(folder), "train", ("label",), decoding)
        streamer = Streamer(reader, [Selection(0, ((1, 9),))] * 3, largest=9, address=address)
        streamed = selections_streamed([open_stream(streamer.start(), 5.0)])
        with pytest.raises(WorkerLost):
            for _ in range(2):
                next(streamed)
        streamer.stop()
        with pytest.raises(st.JobError, match=said):
            raise streamer.failure() or AssertionError


def test_batches_go_on_from_a_position_and_in_another_process(examples: Examples) -> None:
    import pickle

    expected = [batch["tokens"].numpy().tobytes() for batch in examples.batches(12, collate=PADS)]
    batches = examples.batches(12, collate=PADS)
    for _ in zip(range(4), batches, strict=False):
        pass
    again = pickle.loads(pickle.dumps(batches))
    assert [batch["tokens"].numpy().tobytes() for batch in again] == expected[4:]
