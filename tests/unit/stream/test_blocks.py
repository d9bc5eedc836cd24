"""Shards of blocks: many examples a sample, read as one array."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.errors import ShardError
from streamtrain.shards.manifest import Field, Manifest, Segment, Split, read_manifest, write_manifest
from streamtrain.shards.shard import ShardWriter
from streamtrain.shards.shard_list import ShardList, shard_name
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader

BLOCK = 4
X = np.arange(300, dtype=np.int16).reshape(100, 3)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def write_blocks(folder: Path, sizes: Sequence[int]) -> Manifest:
    """Shards of these numbers of examples: fields x, int16 of shape (3,), and y, int64."""
    (folder / "train").mkdir(parents=True)
    shards, number = ShardList(), 0
    for size in sizes:
        file = shard_name("train", len(shards))
        writer = ShardWriter(folder / file)
        for start in range(number, number + size, BLOCK):
            rows = slice(start, min(start + BLOCK, number + size))
            writer.write(f"{start:03d}", {"x.npy": npy(X[rows]), "y.npy": npy(np.arange(100)[rows])})
        entry = writer.close(file)
        shards.append(
            dataclasses.replace(entry, examples=size, first_key=f"{number:03d}", last_key=f"{number + size - 1:03d}")
        )
        number += size
    fields = (Field("x", "x.npy", "int16", (3,)), Field("y", "y.npy", "int64", (), 0, 99))
    manifest = Manifest(
        fields, {"train": Split(shards)}, "uniform", (Segment({"train": number}, 1, "made"),), block=BLOCK
    )
    write_manifest(folder, manifest)
    return manifest


@settings(max_examples=40)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=4), st.data())
def test_any_range_and_any_numbers(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("blocks") / "set"
    assert read_manifest((write_blocks(folder, sizes), folder)[1]).splits["train"].examples == sum(sizes)
    reader = Reader(LocalFiles(folder), read_manifest(folder), "train", ("x", "y"))
    start = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(start + 1, sum(sizes)))
    arrays = reader.read(start, stop)
    assert np.array_equal(arrays["x"], X[start:stop]) and np.array_equal(arrays["y"], np.arange(start, stop))
    assert arrays["x"].flags.writeable and arrays["x"].flags.c_contiguous and arrays["y"].dtype == np.int64
    numbers = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=9)))
    taken = reader.take(numbers)
    assert np.array_equal(taken["x"], X[numbers]) and np.array_equal(taken["y"], numbers)
    assert reader.locate(start)[2] == f"{start:03d}"


def test_blocks_that_are_not_what_the_manifest_says_are_refused(tmp_path: Path) -> None:
    manifest = write_blocks(tmp_path / "a", [10])
    other = dataclasses.replace(manifest, block=5)
    with pytest.raises(ShardError, match=r"000000\.tar: expected 10 examples in blocks of 5, found another layout"):
        Reader(LocalFiles(tmp_path / "a"), other, "train", ("x",)).read(0, 1)
    x, y = manifest.fields
    for field, message in [
        (dataclasses.replace(x, dtype="int32"), "expected int32 of shape .4, 3., found int16 of shape .4, 3."),
        (dataclasses.replace(x, shape=(4,)), "expected int16 of shape .4, 4., found int16 of shape .4, 3."),
        (dataclasses.replace(x, member="z.npy"), "expected a member .z.npy, found x.npy, y.npy"),
    ]:
        with pytest.raises(ShardError, match=message):
            Reader(LocalFiles(tmp_path / "a"), dataclasses.replace(manifest, fields=(field, y)), "train", ("x",)).read(
                0, 1
            )


def test_blocks_are_plain_webdataset_samples(tmp_path: Path) -> None:
    import webdataset

    write_blocks(tmp_path / "a", [9, 4])
    files = [str(tmp_path / "a" / shard_name("train", number)) for number in range(2)]
    blocks = webdataset.WebDataset(files, shardshuffle=False).decode().to_tuple("x.npy", "y.npy")
    read = [(x, y) for block in blocks for x, y in zip(*block, strict=True)]
    assert np.array_equal([x for x, _ in read], X[:13]) and [int(y) for _, y in read] == list(range(13))
