"""Blocks as `pack` writes them: the same whichever way, in stored order, and read back by everybody."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as hs

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import read_manifest, stored_order
from tests.support.datasets import save_digits


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def save(folder: Path, examples: int) -> tuple[Path, dict[str, np.ndarray]]:
    random = np.random.default_rng(examples)
    arrays = {
        "x": random.normal(size=(examples, 3)).astype(np.float32),
        "label": random.integers(-2, 9, examples),
        "flag": random.integers(0, 2, examples).astype(bool),
    }
    np.savez(folder / "raw.npz", **arrays)
    return folder / "raw.npz", arrays


@settings(max_examples=12)
@given(
    examples=hs.integers(3, 300),
    seed=hs.integers(0, 99),
    shard_examples=hs.one_of(hs.none(), hs.integers(1, 90)),
    shard_bytes=hs.sampled_from([5_000, 20_000, 1 << 28]),
)
def test_promise_1_the_short_way_and_the_long_way_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, examples: int, seed: int, shard_examples: int | None, shard_bytes: int
) -> None:
    root = tmp_path_factory.mktemp("blocks")
    source, arrays = save(root, examples)
    splits = (0.5, 0.5, 0.0)
    for name, memory in (("short", 1 << 30), ("long", 2_000)):
        options = PackOptions(splits, seed, shard_bytes, shard_examples, memory_bytes=memory, blocks=True)
        pack(str(source), root / name, options)
    assert files(root / "short") == files(root / "long")
    order = stored_order(seed, examples)
    manifest = read_manifest(root / "short")
    start = 0
    for split, of_split in manifest.splits.items():
        found = st.open(root / "short", split)[0 : of_split.examples]
        numbers = order[start : start + of_split.examples]
        for name, array in arrays.items():
            assert np.array_equal(found[name], array[numbers])
        assert of_split.class_counts == dict(zip(*np.unique(arrays["label"][numbers], return_counts=True), strict=True))
        assert of_split.shards[0].first_key == f"{start:0{len(str(examples - 1))}d}"
        start += of_split.examples
        if shard_examples is not None:
            assert all(shard.examples == shard_examples for shard in of_split.shards[:-1])


def test_small_examples_go_in_blocks_unless_told_otherwise(tmp_path: Path) -> None:
    source = save_digits(tmp_path / "digits.npz")
    packed = {name: pack(str(source), tmp_path / str(name), PackOptions(blocks=name)) for name in (None, True, False)}
    assert packed[None] == packed[True] and packed[None].block == 16384 and packed[False].block is None
    assert [(f.member, f.dtype, f.shape, f.high) for f in packed[None].fields] == [
        ("image.npy", "uint8", (8, 8), None),
        ("label.npy", "int64", (), 9),
    ]
    np.save(tmp_path / "large.npy", np.zeros((20, 4096), np.uint8))
    assert pack(str(tmp_path / "large.npy"), tmp_path / "large").block is None
    assert pack(str(tmp_path / "large.npy"), tmp_path / "asked", PackOptions(blocks=True)).block == 256


def test_plain_webdataset_reads_and_unbatches_blocks(tmp_path: Path) -> None:
    """As the README says."""
    source = save_digits(tmp_path / "digits.npz", 300)
    pack(str(source), tmp_path / "a", PackOptions(splits=(1, 0, 0), seed=3, shard_examples=128))
    shards = sorted(str(file) for file in (tmp_path / "a" / "train").glob("*.tar"))
    blocks = webdataset.WebDataset(shards, shardshuffle=False).decode().to_tuple("image.npy", "label.npy")
    read = [(image, label) for images, labels in blocks for image, label in zip(images, labels, strict=True)]
    expected = st.open(tmp_path / "a")[0:300]
    assert np.array_equal([image for image, _ in read], expected["image"])
    assert np.array_equal([label for _, label in read], expected["label"])


def test_shards_of_several_sizes_get_an_index_and_others_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lengths.py").write_text(
        "def examples():\n    for i in range(50):\n        yield {'text': 'x' * (i * 40)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pack("lengths:examples", tmp_path / "a", PackOptions(splits=(1, 0, 0), shard_examples=20, blocks=False))
    assert {file.name for file in (tmp_path / "a" / "train").glob("*.npz")} == {f"00000{n}.index.npz" for n in range(3)}
    monkeypatch.setattr(
        "streamtrain.stream.columns.indexes.scan_index", lambda *_: pytest.fail("the index was not used")
    )
    assert sorted(map(len, st.open(tmp_path / "a")[0:50]["text"].tolist())) == [40 * i for i in range(50)]
    pack(str(save_digits(tmp_path / "digits.npz", 30)), tmp_path / "b", PackOptions(blocks=False))
    assert not list((tmp_path / "b").rglob("*.npz"))
