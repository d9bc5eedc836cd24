"""Blocks with texts and whatever else differs in size: read back bit for bit, by us and by plain WebDataset."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import webdataset

import streamtrain as st
from streamtrain.inspect.card import inspect_dataset
from streamtrain.inspect.card import report as card_report
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.packing.shuffling.phases import Here
from streamtrain.shards import Manifest, read_manifest, stored_order
from tests.support.packing import AnyOrder, files

EXAMPLES = 230
SHARD, MANY_SHARDS = PackOptions(splits=(1, 0, 0)), PackOptions(splits=(1, 0, 0), shard_examples=50)

SOURCE = f"""
import numpy as np

def one(i):
    return {{
        "text": ["", "plain", "zero\\0\\0", "käse 🧀", "\\0"][i % 5] * (i % 7),
        "raw": bytes([i % 256, 0, 0, 0])[: 1 + i % 4] * (i % 3),
        "meta": {{"n": i, "tags": ["a"] * (i % 4), "empty": None}},
        "listed": [[i], [i, 2]] if i % 2 else [],
        "x": np.float32([i, i / 3]),
        "below": 1 - i,
        "flag": bool(i % 2),
        "label": i % 3,
    }}

def examples():
    for i in range({EXAMPLES}):
        yield one(i)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("source")
    (folder / "texts_of_all_kinds.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import texts_of_all_kinds  # type: ignore[import-not-found]

        yield texts_of_all_kinds.one


def packed(folder: Path, options: PackOptions = MANY_SHARDS) -> tuple[Path, Manifest]:
    return folder, pack("texts_of_all_kinds:examples", folder, options)


def same(found: Any, expected: Any) -> bool:
    """Of the same values, and of the same type where it is text, bytes, list or dict."""
    if isinstance(expected, str | bytes | dict | list):
        return type(found) is type(expected) and bool(found == expected)
    return bool(np.array_equal(np.asarray(found), np.asarray(expected)))


def check(found: dict[str, Any], examples: list[dict[str, Any]]) -> None:
    assert found.keys() == examples[0].keys()
    for name in found:
        assert len(found[name]) == len(examples)
        for value, example in zip(found[name], examples, strict=True):
            assert same(value, example[name]), (name, value, example[name])


@pytest.fixture(params=[{"shard_examples": 50}, {"shard_bytes": 6_000}, {}], ids=["many", "small", "one"])
def data(
    request: pytest.FixtureRequest, source: Callable[[int], dict[str, Any]], tmp_path: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """A data set in blocks, and its examples in stored order."""
    folder, manifest = packed(tmp_path / "a", PackOptions(splits=(1, 0, 0), seed=4, **request.param))
    assert manifest.block is not None
    return folder, [source(int(number)) for number in stored_order(4, EXAMPLES)]


def test_promise_14_every_value_comes_back_every_way(data: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, examples = data
    found = st.open(folder)
    for number in range(EXAMPLES):
        assert all(same(value, examples[number][name]) for name, value in found[number].items())
    for start, stop in ((0, EXAMPLES), (3, 4), (40, 60), (15, 130)):
        check(found[start:stop], examples[start:stop])
    batches = list(found.batches(32))
    start = 0
    for batch in batches:
        size = len(batch["text"])
        check(batch, examples[start : start + size])
        start += size
    assert start == EXAMPLES
    numbers = np.random.default_rng(0).permutation(EXAMPLES)[:99]
    check(found.reader.take(numbers), [examples[number] for number in numbers])


def test_map_and_samples_see_single_examples(data: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, examples = data
    mapped = st.open(folder, map=lambda example: {"kept": pickle.dumps(example["text"]), "n": example["meta"]["n"]})
    batch = mapped[5:25]
    assert [pickle.loads(each) for each in batch["kept"]] == [example["text"] for example in examples[5:25]]
    assert batch["n"].tolist() == [example["meta"]["n"] for example in examples[5:25]]
    samples = list(st.open(folder).samples())
    assert [sample["__key__"] for sample in samples] == [f"{number:03d}" for number in range(EXAMPLES)]
    for sample, example in zip(samples, examples, strict=True):
        assert sample["text.txt"] == example["text"].encode() and sample["raw.bin"] == example["raw"]
        assert json.loads(sample["meta.json"]) == example["meta"]


def unbatched(block: dict[str, Any], member: str) -> list[bytes]:
    """As `shards/README.md` says."""
    ends = block[f"{member}.lengths.npy"].cumsum(dtype="int64")
    return [part.tobytes() for part in np.split(block[f"{member}.npy"], ends[:-1])]


def test_plain_webdataset_reads_and_unbatches_texts(data: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, examples = data
    shards = sorted(str(file) for file in (folder / "train").glob("*.tar"))
    start = 0
    for block in webdataset.WebDataset(shards, shardshuffle=False).decode():
        texts = [text.decode() for text in unbatched(block, "text.txt")]
        part = examples[start : start + len(texts)]
        assert texts == [example["text"] for example in part]
        assert unbatched(block, "raw.bin") == [example["raw"] for example in part]
        assert [json.loads(data) for data in unbatched(block, "meta.json")] == [example["meta"] for example in part]
        assert block["below.npy"].tolist() == [example["below"] for example in part]
        start += len(texts)
    assert start == EXAMPLES


def test_promise_1_any_memory_tasks_and_order_give_the_same_bytes(
    source: Callable[[int], dict[str, Any]], tmp_path: Path
) -> None:
    for sizes in ({"shard_examples": 37}, {"shard_bytes": 5_000}):
        base = {"splits": (0.6, 0.2, 0.2), "seed": 2, **sizes}
        pack("texts_of_all_kinds:examples", tmp_path / "whole", PackOptions(**base))
        hard = PackOptions(**base, memory_bytes=3_000, tasks=3)
        pack("texts_of_all_kinds:examples", tmp_path / "pieces", hard, spread=AnyOrder(1))
        assert files(tmp_path / "whole") == files(tmp_path / "pieces")
        for folder in ("whole", "pieces"):
            (tmp_path / folder).rename(tmp_path / f"{folder} {next(iter(sizes))}")


class KilledLate(Here):
    """Dies after so many parts of the second phase."""

    def __init__(self, parts: int) -> None:
        self.left = parts

    def __call__(self, function: Any, parts: Any, tasks: int, done: Any) -> None:
        for part in parts:
            if hasattr(function, "in_rows") and hasattr(function, "marks"):
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            function(part, done)


def test_a_killed_packing_goes_on_to_the_same_bytes(source: Callable[[int], dict[str, Any]], tmp_path: Path) -> None:
    options = PackOptions(splits=(1, 0, 0), shard_examples=20, tasks=2)
    with pytest.raises(KeyboardInterrupt):
        pack("texts_of_all_kinds:examples", tmp_path / "a", options, spread=KilledLate(3))
    assert not (tmp_path / "a").exists()
    pack("texts_of_all_kinds:examples", tmp_path / "a", options)
    pack("texts_of_all_kinds:examples", tmp_path / "b", options)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_blocks_grow(source: Callable[[int], dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = packed(tmp_path / "a", MANY_SHARDS)
    grown = append("texts_of_all_kinds:examples", folder, MANY_SHARDS)
    assert grown.block == manifest.block and grown.examples == 2 * EXAMPLES
    orders = [stored_order(seed, EXAMPLES) for seed in (0, 1)]
    check(st.open(folder)[0 : 2 * EXAMPLES], [source(int(number)) for order in orders for number in order])


def test_lists_of_different_lengths_and_large_numbers(tmp_path: Path) -> None:
    rows = [list(range(n % 5)) for n in range(60)]
    table = {
        "tokens": pa.array(rows, pa.list_(pa.int32())),
        "large": pa.array([2**64 - 1 - n for n in range(60)], pa.uint64()),
        "text": [f"row {n}" for n in range(60)],
    }
    pa.parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    manifest = pack(str(tmp_path / "t.parquet"), tmp_path / "a", SHARD)
    assert manifest.block is not None
    order = stored_order(0, 60).tolist()
    found = st.open(tmp_path / "a")[0:60]
    assert [tokens.tolist() for tokens in found["tokens"]] == [rows[n] for n in order]
    assert all(tokens.dtype == np.int32 for tokens in found["tokens"])
    assert found["text"].tolist() == [f"row {n}" for n in order]
    large = found.get("large", found.get("features"))
    assert large is not None and large.reshape(-1).tolist() == [2**64 - 1 - n for n in order]


def test_card_audit_and_lint_understand_them(data: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, examples = data
    found = inspect_dataset(str(folder), verify_all=True, key="017", audited=1000)
    assert found["example"]["row"] == 17 or found["example"]["shard"] != "train/000000.tar"
    assert found["checksums"] == "verified" and "audit" in found
    assert str(examples[17]["meta"])[:20] in card_report(found)


def test_large_texts_and_images_stay_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large_texts.py").write_text(
        "def some():\n    for i in range(20): yield {'text': 'x' * 9000}\n"
        "def one():\n    for i in range(999): yield {'text': 'x' * (1 << 21 if i == 500 else 1)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert pack("large_texts:some", tmp_path / "some", SHARD).block is None
    assert pack("large_texts:one", tmp_path / "one", SHARD).block is None
    asked = PackOptions(splits=(1, 0, 0), blocks=True)
    assert pack("large_texts:some", tmp_path / "asked", asked).block == 64


@pytest.mark.parametrize("member", ["text.txt.lengths.npy", "text.txt.npy", "x.npy", "label.npy"])
def test_what_was_altered_is_named(member: str, source: Callable[[int], dict[str, Any]], tmp_path: Path) -> None:
    """Also where nobody compares the checksums."""
    folder, _ = packed(tmp_path / "a", SHARD)
    shard = folder / "train" / "000000.tar"
    data = bytearray(shard.read_bytes())
    at = data.index(f"000.{member}".encode()) + 512
    data[at + 128 : at + 131] = b"\xff\xff\xff"
    data[at + 20 : at + 24] = b"????"  # in the array's header
    shard.write_bytes(data)
    manifest = read_manifest(folder)
    assert manifest.block is not None
    with pytest.raises(st.ShardError, match=r"000000\.tar.*expected .*restore it"):
        st.open(folder, verify=False)[0:20]


def test_texts_that_are_none_are_named(source: Callable[[int], dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "a", SHARD)
    shard = folder / "train" / "000000.tar"
    data = shard.read_bytes().replace("käse".encode(), b"k\xff\xffse")
    shard.write_bytes(data)
    with pytest.raises(st.ShardError, match="expected text in UTF-8"):
        st.open(folder, verify=False)[0:EXAMPLES]


def rewritten(shard: Path, change: Callable[[str, bytes], bytes]) -> None:
    """The shard with members that ``change`` makes of name and content."""
    with tarfile.open(shard) as archive:
        members = [(info.name, archive.extractfile(info)) for info in archive]
        contents = [(name, change(name, file.read())) for name, file in members if file is not None]
    size = shard.stat().st_size
    shard.with_name("000000.index.npz").unlink(missing_ok=True)
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in contents:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    os.truncate(shard, size)  # Python's tarfile fills up to 10,240 bytes, with zeros


def as_npy(values: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A block of 20 texts of two bytes."""
    (tmp_path / "two_bytes.py").write_text("def some():\n    for i in range(20): yield {'text': 'é', 'raw': b'ab'}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert pack("two_bytes:some", tmp_path / "a", SHARD).block is not None
    return tmp_path / "a"


@pytest.mark.parametrize("first", [[2**62] * 4, [2**63 + 4, 2**63 - 4]], ids=["each positive", "one negative"])
def test_lengths_whose_sum_wraps_around_are_refused(first: list[int], letters: Path) -> None:
    """Their sum is right in 64 bits; cut by them, texts would reach beyond the shard."""
    left = [0] * (19 - len(first))
    lengths = np.array([*first, *left, 40], np.uint64)
    assert lengths.sum() == 40
    rewritten(
        letters / "train" / "000000.tar", lambda name, data: as_npy(lengths) if name.endswith("lengths.npy") else data
    )
    with pytest.raises(st.ShardError, match="expected bytes of 20 examples and their lengths"):
        st.open(letters, verify=False)[0:20]


def test_a_letter_cut_in_two_is_refused(letters: Path) -> None:
    """Where all texts together are UTF-8, but not each."""
    lengths = np.array([3, 1] + [2] * 18, np.uint8)
    rewritten(
        letters / "train" / "000000.tar", lambda name, data: as_npy(lengths) if name.endswith("lengths.npy") else data
    )
    opened = st.open(letters, verify=False)
    for rows in ([0, 1], [5, 0, 7]):
        with pytest.raises(st.ShardError, match=r"000000\.tar: expected text in UTF-8, found .*unexpected end"):
            opened.reader.take(np.array(rows))
    with pytest.raises(st.ShardError, match=r"000000\.tar: expected text in UTF-8, found .*unexpected end"):
        opened[0:20]
    assert opened[2:20]["text"].tolist() == ["é"] * 18
    assert opened.reader.take(np.array([19, 2, 2]))["raw"].tolist() == [b"ab", b"ab", b"ab"]


def test_arrays_of_texts_are_fresh(letters: Path) -> None:
    opened = st.open(letters)
    first = opened[0:20]
    first["text"][0], first["raw"][0] = "other", b""
    assert opened[0:20]["text"].tolist() == ["é"] * 20 and opened[0:20]["raw"].tolist() == [b"ab"] * 20
