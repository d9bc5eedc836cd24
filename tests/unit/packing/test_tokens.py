"""Texts become rows of tokens: as the naive twin lays them, for any memory and tasks, and no text in two splits."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import streamtrain as st
from streamtrain.errors import ConfigError, SourceError
from streamtrain.inspect.places import AllOrigins
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.packing.report import as_text, read_report, report_file
from tests.support.packing import AnyOrder, files
from tests.support.texts import END, WORDS, ids_of, naive_rows, random_texts, save_texts, save_tokenizer

TOKENS = 16


def options(folder: Path, **settings: Any) -> PackOptions:
    file = folder / "tokenizer.json"
    if not file.exists():
        save_tokenizer(file)
    given = {"splits": (0.6, 0.2, 0.2), "seed": 3, "tokens": TOKENS, "tokenizer": str(file), **settings}
    return PackOptions(**given)


def rows_of(texts: list[str], tokens: int, counts: tuple[int, ...], seed: int = 3) -> list[tuple[Any, Any]]:
    """Tokens and starts of each row, in stored order."""
    return pairs(*naive_rows([ids_of(text) for text in texts], tokens, seed, counts))


def pairs(tokens: Any, starts: Any) -> list[tuple[Any, Any]]:
    return list(zip(tokens.tolist(), starts.tolist(), strict=True))


def stored_rows(dest: Path) -> list[tuple[Any, Any]]:
    found = []
    for split, part in st.open(dest).manifest.splits.items():
        rows = st.open(dest, split=split)[0 : part.examples]
        found += pairs(rows["tokens"], rows["starts"])
    return found


@pytest.mark.parametrize("tokens", [2, 16, 61])
@pytest.mark.parametrize(("memory_bytes", "tasks"), [(1 << 30, 1), (20_000, 1), (40_000, 4)])
def test_rows_are_the_naive_twins(tmp_path: Path, tokens: int, memory_bytes: int, tasks: int) -> None:
    texts = random_texts(120)
    save_texts(tmp_path / "texts", texts)
    given = options(tmp_path, tokens=tokens, memory_bytes=memory_bytes, tasks=tasks, shard_examples=64)
    pack(tmp_path / "texts", tmp_path / "d", given, spread=AnyOrder(tokens))
    assert stored_rows(tmp_path / "d") == rows_of(texts, tokens, (72, 24, 24))
    field = st.open(tmp_path / "d").manifest.field_named("tokens")
    assert field is not None and field.dtype == "uint16" and field.shape == (tokens,)


def test_the_bytes_are_the_same_for_any_memory_and_tasks(tmp_path: Path) -> None:
    save_texts(tmp_path / "texts", random_texts(400, seed=1))
    made = []
    for name, memory, tasks in (("a", 1 << 30, 1), ("b", 20_000, 1), ("c", 60_000, 3)):
        given = options(tmp_path, memory_bytes=memory, tasks=tasks)
        pack(tmp_path / "texts", tmp_path / name, given, spread=AnyOrder(memory))
        made.append(files(tmp_path / name))
    assert made[0] == made[1] == made[2]
    pack(tmp_path / "texts", tmp_path / "other", options(tmp_path, seed=4))
    assert files(tmp_path / "other") != made[0]


def test_each_text_is_in_one_split_and_nothing_but_the_ends_is_missing(tmp_path: Path) -> None:
    """Texts of words that no other has: a word in two splits would be a token of a held-out text in training."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [[f"t{text}n{number}" for number in range(3 + text % 9)] for text in range(90)]
    vocabulary = {word: number for number, word in enumerate(word for text in words for word in text)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "own.json"))
    save_texts(tmp_path / "texts", [" ".join(text) for text in words])
    given = options(tmp_path, tokens=5, tokenizer=str(tmp_path / "own.json"))
    manifest = pack(tmp_path / "texts", tmp_path / "d", given)
    found = {}
    for split, part in manifest.splits.items():
        rows = st.open(tmp_path / "d", split=split)[0 : part.examples]
        found[split] = rows["tokens"].reshape(-1).tolist()
    assert sum(len(ids) for ids in found.values()) == len({token for ids in found.values() for token in ids})
    text_of = np.repeat(range(90), [len(text) for text in words])
    of_splits = [set(text_of[ids].tolist()) for ids in found.values()]
    assert not of_splits[0] & of_splits[1] and not of_splits[0] & of_splits[2] and not of_splits[1] & of_splits[2]
    report = read_report((tmp_path / "d" / report_file(0)).read_bytes(), "report")
    ends = len(vocabulary) - sum(len(ids) for ids in found.values())
    assert list(report.counted.values()) == [90, len(vocabulary), manifest.examples, ends] and ends < 15
    assert "counted: 90 texts" in as_text(report) and "whole texts, by fractions: train" in as_text(report)


def test_folders_tables_and_functions_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(60, seed=2)
    save_texts(tmp_path / "texts", texts)
    table = pa.table({"Body": texts, "label": pa.array([None, *range(59)], pa.int64())})
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=20)
    pa.csv.write_csv(table, tmp_path / "t.csv")
    (tmp_path / "own_texts.py").write_text(
        f"def texts():\n    for text in {texts!r}:\n        yield {{'text': text}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pack(tmp_path / "texts", tmp_path / "folder", options(tmp_path))
    expected = stored_rows(tmp_path / "folder")
    assert expected == rows_of(texts, TOKENS, (36, 12, 12))
    for name in ("t.parquet", "t.csv"):
        pack(tmp_path / name, tmp_path / f"of_{name}", options(tmp_path, columns=("Body",)))
        assert stored_rows(tmp_path / f"of_{name}") == expected
        report = read_report((tmp_path / f"of_{name}" / report_file(0)).read_bytes(), "report")
        fields = [(column.name, column.field) for column in report.columns]
        assert fields == [("Body", "tokens"), ("label", None), ("(first tokens)", "starts")]
    pack("own_texts:texts", tmp_path / "function", options(tmp_path))
    assert stored_rows(tmp_path / "function") == expected


def test_splits_that_a_source_has_and_splits_by_a_column(tmp_path: Path) -> None:
    texts = random_texts(40, seed=3)
    for number, text in enumerate(texts):
        file = tmp_path / "texts" / ("train" if number % 2 else "val") / f"{number:03d}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    given = options(tmp_path, splits=None)
    manifest = pack(tmp_path / "texts", tmp_path / "d", given)
    assert list(manifest.splits) == ["train", "validation"]
    assert manifest.segments[0].split_by == "whole texts, as the source has them"
    rows = {split: part.examples for split, part in manifest.splits.items()}
    for split, odd in (("train", 1), ("validation", 0)):
        assert rows[split] == sum(len(ids_of(text)) for text in texts[odd::2]) // TOKENS
    table = pa.table({"text": texts * 2, "book": [number % 7 for number in range(80)]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    by_group = pack(tmp_path / "t.parquet", tmp_path / "g", options(tmp_path, group="book"))
    assert "7 values of 'book'" in by_group.segments[0].split_by
    once = pack(tmp_path / "t.parquet", tmp_path / "o", options(tmp_path, unique="once"))
    report = read_report((tmp_path / "o" / report_file(0)).read_bytes(), "report")
    repeated = report.counted["texts that repeat an earlier one, left out"]
    assert repeated >= 40 and report.counted["texts"] == 80 - repeated and once.examples < by_group.examples


def test_a_text_is_never_cut_nor_filled_up_by_what_the_tokenizer_says(tmp_path: Path) -> None:
    texts = random_texts(50, seed=4)
    save_texts(tmp_path / "texts", texts)
    cutting = save_tokenizer(tmp_path / "cutting.json", cut_at=4)
    pack(tmp_path / "texts", tmp_path / "d", options(tmp_path, tokenizer=str(cutting)))
    assert stored_rows(tmp_path / "d") == rows_of(texts, TOKENS, (30, 10, 10))


def test_a_large_vocabulary_has_a_wider_type(tmp_path: Path) -> None:
    texts = random_texts(50, seed=4)
    save_texts(tmp_path / "texts", texts)
    for first, dtype in (((1 << 16) - len(WORDS) - 1, "uint16"), ((1 << 16) - len(WORDS), "int32")):
        large = save_tokenizer(tmp_path / f"{first}.json", first)
        manifest = pack(tmp_path / "texts", tmp_path / str(first), options(tmp_path, tokenizer=str(large)))
        field = manifest.field_named("tokens")
        assert field is not None and field.dtype == dtype
        rows = st.open(tmp_path / str(first))[0:5]["tokens"]
        assert rows.dtype == dtype
        expected = [tokens for tokens, _ in rows_of(texts, TOKENS, (30, 10, 10))][:5]
        assert (rows.astype(np.int64) - first).tolist() == expected


def test_batches_of_rows_as_tensors(tmp_path: Path) -> None:
    texts = random_texts(50, seed=4)
    save_texts(tmp_path / "texts", texts)
    pack(tmp_path / "texts", tmp_path / "d", options(tmp_path))
    batches = list(st.open(tmp_path / "d").batches(8))
    found = [row for batch in batches for row in batch["tokens"].long().tolist()]
    expected = [tokens for tokens, _ in rows_of(texts, TOKENS, (30, 10, 10))][: len(found)]
    assert found == expected
    documents = batches[0]["starts"].cumsum(1)
    assert documents.tolist() == [np.cumsum(starts).tolist() for starts in batches[0]["starts"].numpy()]


def test_a_row_tells_in_which_text_it_begins(tmp_path: Path) -> None:
    texts = random_texts(50, seed=4)
    save_texts(tmp_path / "texts", texts)
    manifest = pack(tmp_path / "texts", tmp_path / "d", options(tmp_path))
    origins = AllOrigins(str(tmp_path / "d"), manifest)
    rows = st.open(tmp_path / "d")[0 : manifest.splits["train"].examples]["tokens"]
    for number, row in enumerate(rows.tolist()):
        place = origins.place("train", number)
        assert place is not None
        file, _, token = place.partition(", token ")
        text = ids_of((tmp_path / file).read_text())
        rest = text[int(token) :][:TOKENS]
        assert rest and row[: len(rest)] == rest
        assert origins.find(place) == ("train", number)


def test_the_tokenizer_stays_with_the_rows_and_a_segment_must_have_it(tmp_path: Path) -> None:
    save_texts(tmp_path / "texts", random_texts(50, seed=4))
    given = options(tmp_path)
    before = pack(tmp_path / "texts", tmp_path / "d", given)
    kept = tmp_path / "d" / "about" / "tokenizer.json"
    assert kept.read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    field = before.field_named("tokens")
    assert field is not None and field.unit is not None and f"ids below {len(WORDS) + 1}," in field.unit
    more = save_texts(tmp_path / "more", random_texts(30, seed=5))
    other = dataclasses.replace(given, tokenizer=str(save_tokenizer(tmp_path / "other.json", first=1)))
    with pytest.raises(ConfigError, match="as they were"):
        append(more, tmp_path / "d", other)
    with pytest.raises(ConfigError, match="rows of 16, ids.*found rows of 8"):
        append(more, tmp_path / "d", dataclasses.replace(given, tokens=8))
    joined = append(more, tmp_path / "d", given)
    assert joined.examples > before.examples and len(joined.segments) == 2
    expected = rows_of(random_texts(30, seed=5), TOKENS, (18, 6, 6), joined.segments[1].seed)
    first = before.splits["train"].examples
    rows = st.open(tmp_path / "d")[first : joined.splits["train"].examples]["tokens"].tolist()
    assert rows == [tokens for tokens, _ in expected][: len(rows)]


def test_texts_that_cannot_be_read_stop_the_packing_or_are_listed(tmp_path: Path) -> None:
    texts = random_texts(50, seed=4)
    save_texts(tmp_path / "texts", texts)
    (tmp_path / "texts" / "a" / "00003.txt").write_bytes(b"w1 \xff w2")
    (tmp_path / "texts" / "b" / "00040.txt").write_text("w1 strange w2")  # the tokenizer has no word for it
    with pytest.raises(SourceError, match=r"2 that cannot: .*00003\.txt.*00040\.txt"):
        pack(tmp_path / "texts", tmp_path / "d", options(tmp_path))
    assert not (tmp_path / "d").exists()
    pack(tmp_path / "texts", tmp_path / "d", options(tmp_path, on_bad_example="skip"))
    report = read_report((tmp_path / "d" / report_file(0)).read_bytes(), "report")
    assert report.bad == 2 and report.counted["texts"] == 48
    listed = [json.loads(line) for line in (tmp_path / "d" / report.listed).read_text().splitlines()]
    assert [entry["example"] for entry in listed] == ["texts/a/00003.txt", "texts/b/00040.txt"]
    assert "UTF-8" in listed[0]["reason"]


def test_a_files_name_that_is_no_utf8(tmp_path: Path) -> None:
    texts = random_texts(40, seed=4)
    save_texts(tmp_path / "texts", texts)
    given = options(tmp_path)
    for number in (3, 33):
        file = tmp_path / "texts" / ("a" if number < 20 else "b") / f"{number:05d}.txt"
        os.rename(file, os.fsencode(file.with_suffix("")) + b"\xff.txt")
    pack(tmp_path / "texts", tmp_path / "d", given)
    assert stored_rows(tmp_path / "d") == rows_of(texts, TOKENS, (24, 8, 8))
    manifest = st.open(tmp_path / "d").manifest
    origins = AllOrigins(str(tmp_path / "d"), manifest)
    places = [origins.place(split, n) or "" for split, part in manifest.splits.items() for n in range(part.examples)]
    assert any("00003\udcff.txt, token " in place for place in places)


def test_a_text_longer_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamtrain.packing.tokens.tokenized_texts.BATCH_TEXT", 500)
    texts = [*random_texts(50, seed=4), " ".join(["w1"] * 400)]
    save_texts(tmp_path / "texts", texts)
    for memory, refused in ((64 * 500, True), (64 * 1199, False)):
        given = options(tmp_path, memory_bytes=memory)
        if refused:
            with pytest.raises(
                SourceError, match=r"00050\.txt: expected a text of at most 500 characters, found 1,199"
            ):
                pack(tmp_path / "texts", tmp_path / "d", given)
        else:
            pack(tmp_path / "texts", tmp_path / "d", given)


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("a tokenizer that is missing", {"tokenizer": "none.json"}, ConfigError, "none.json: expected a tokenizer.json"),
    ("a folder for a tokenizer", {"tokenizer": "texts"}, ConfigError, "texts: expected a tokenizer.json"),
    ("a broken tokenizer", {"tokenizer": "broken.json"}, ConfigError, "broken.json: expected a tokenizer.json"),
    ("another JSON", {"tokenizer": "other.json"}, ConfigError, "other.json: expected a tokenizer.json"),
    ("no vocabulary", {"tokenizer": "empty.json"}, ConfigError, "empty.json: .*found an empty vocabulary"),
    ("too large ids", {"tokenizer": "large.json"}, ConfigError, "large.json: .*found the id 4294967200"),
    ("a row too long", {"tokens": 1 << 14}, SourceError, "texts: expected at least 16,384 tokens for train, a row"),
    ("splits without a text", {"splits": (0.999, 0.001, 0)}, SourceError, "at least one example for validation"),
    (
        "a column that a folder lacks",
        {"columns": ("body",)},
        SourceError,
        "expected a field 'body' of texts, found text",
    ),
    ("a label", {"label": "text"}, ConfigError, "tokens: expected texts that become tokens, and nothing else"),
    ("images", {"image_size": (8, 8)}, ConfigError, "nothing else, found image_size"),
]


@pytest.mark.parametrize(("settings", "error", "message"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_bad_input_is_one_line(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_texts(Path("texts"), random_texts(40))
    good = json.loads(save_tokenizer(tmp_path / "tokenizer.json").read_text())
    Path("broken.json").write_text(json.dumps(good)[:200])
    Path("other.json").write_text('{"a": 1}')
    Path("empty.json").write_text(json.dumps(good | {"model": {**good["model"], "vocab": {}}, "post_processor": None}))
    large = {**good["model"], "vocab": {**good["model"]["vocab"], "w0": (1 << 32) - 96}}
    Path("large.json").write_text(json.dumps(good | {"model": large}))
    with pytest.raises(error, match=message) as raised:
        pack("texts", "d", options(tmp_path, **settings))
    assert "\n" not in str(raised.value) and "; " in str(raised.value)
    assert not Path("d").exists() and not list(tmp_path.glob(".d*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": None}, "both tokens, the length of a row, and tokenizer, a file, found tokens alone"),
        ({"tokens": None}, "found tokenizer alone"),
        ({"tokens": 1}, "tokens: expected at least 2, one token and the next, found 1"),
        ({"tokens": 0}, "found 0"),
        ({"columns": ("a", "b")}, "columns: expected one column, of the texts, found a, b"),
        ({"tokens": 8.0}, "tokens: expected a whole number"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PackOptions(**{"tokens": 8, "tokenizer": "tokenizer.json", **settings})


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    """A special token that only the post-processor knows."""
    save_texts(tmp_path / "texts", random_texts(30))
    said = json.loads(save_tokenizer(tmp_path / "tokenizer.json").read_text())
    said["post_processor"]["special_tokens"][END]["ids"] = [70_000]
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(SourceError, match="expected ids below 51, the vocabulary's, found 70000"):
        pack(tmp_path / "texts", tmp_path / "d", options(tmp_path))


def test_sources_without_texts(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(b"1")
    with pytest.raises(SourceError, match=r"expected text files, e\.g\. .*, found \.bin"):
        pack(tmp_path / "folder", tmp_path / "d", options(tmp_path))
    pa.parquet.write_table(pa.table({"title": ["a"], "n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="expected a column 'text', found title, n; set --columns"):
        pack(tmp_path / "t.parquet", tmp_path / "d", options(tmp_path))
    np.savez(tmp_path / "x.npz", x=np.arange(4))
    with pytest.raises(SourceError, match="expected a field 'text' of texts, found x"):
        pack(tmp_path / "x.npz", tmp_path / "d", options(tmp_path))
    with pytest.raises(SourceError, match="expected a text, found int"):
        pack(tmp_path / "x.npz", tmp_path / "d", options(tmp_path, columns=("x",)))


KILLED = """
import os, signal, sys
from pathlib import Path
from streamtrain.packing import PackOptions, pack
calls = 0
def progress(phase, done, total):
    global calls
    calls += phase == sys.argv[1]
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
given = PackOptions((0.6, 0.2, 0.2), seed=3, tokens=16, tokenizer="tokenizer.json", memory_bytes=20_000)
pack("texts", "d", given, progress)
"""


@pytest.mark.parametrize("phase", ["tokenizing", "reading", "writing"])
def test_a_killed_pack_goes_on(tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_texts(Path("texts"), random_texts(5000, seed=6, longest=4))
    save_tokenizer(Path("tokenizer.json"))
    given = PackOptions((0.6, 0.2, 0.2), seed=3, tokens=16, tokenizer="tokenizer.json", memory_bytes=20_000)
    pack("texts", "whole", given)
    assert subprocess.run([sys.executable, "-c", KILLED, phase], check=False).returncode == -signal.SIGKILL
    there = {run: run.stat().st_ino for run in tmp_path.glob(".d.pack.partial/*/texts/[0-9]*")}
    assert there and not Path("d").exists()
    told: list[tuple[str, int]] = []

    def progress(name: str, done: int, _: int | None) -> None:
        told.append((name, done))
        assert all(run.stat().st_ino == inode for run, inode in there.items() if run.exists())

    pack("texts", "d", given, progress)
    assert told[0][0] == "tokenizing" and told[0][1] > 0
    assert files(Path("d")) == files(Path("whole"))
