"""Blocks with texts as others take them: lint, streamers, and members that are decoded one by one."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import webdataset

import streamtrain as st
from streamtrain.inspect.findings import linted
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import read_manifest, stored_order
from streamtrain.stream.ahead.streamer import Streamer, open_stream, selections_streamed
from streamtrain.stream.examples import Decoding
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.values import Selection

ROWS = 60


def member(row: int) -> dict[str, Any]:
    return {"n": row, "tags": ["a"] * (row % 4), "raw": bytes([row, 0])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Members of other people's tars in blocks: msgpack, texts, JSON and a class."""
    (tmp_path / "source").mkdir()
    with webdataset.TarWriter(str(tmp_path / "source" / "a.tar")) as tar:
        for row in range(ROWS):
            sample = {"__key__": f"k{row:03d}", "data.mp": msgpack.packb(member(row)), "txt": "ü" * (row % 5)}
            tar.write(sample | {"json": {"row": row}, "cls": row % 3})
    manifest = pack(tmp_path / "source", tmp_path / "a", PackOptions((1, 0, 0), blocks=True))
    assert manifest.block is not None
    return tmp_path / "a"


def test_lint_finds_nothing_in_them(folder: Path) -> None:
    found = linted(str(folder))
    assert (found["refused"], found["noted"], found["findings"]) == (0, 0, [])


def test_msgpack_comes_back_from_blocks(folder: Path) -> None:
    rows = stored_order(0, ROWS).tolist()
    found = st.open(folder)
    for position, row in enumerate(rows):
        assert found[position]["data"] == member(row)
    for start, batch in zip(range(0, ROWS, 7), found.batches(7), strict=True):
        part = rows[start : start + 7]
        assert list(batch["data"]) == [member(row) for row in part]
        assert list(batch["txt"]) == ["ü" * (row % 5) for row in part]
        assert list(batch["json"]) == [{"row": row} for row in part]


def counted(example: dict[str, Any]) -> dict[str, Any]:
    return {"n": example["data"]["n"], "letters": len(example["txt"]), "row": example["json"]["row"]}


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_streamer_gives_what_a_map_makes_of_them(address: str | None, folder: Path) -> None:
    fields = ("data", "txt", "json")
    reader = Reader(LocalFiles(folder), read_manifest(folder), "train", fields, Decoding(counted))
    parts = [Selection(0, ((start, min(start + 8, ROWS)),)) for start in range(0, ROWS, 8)]
    streamer = Streamer(reader, parts, largest=8, address=address)
    streamed = selections_streamed([open_stream(streamer.start(), 5.0)])
    rows = np.array(stored_order(0, ROWS))
    for start in range(0, ROWS, 8):
        found, part = next(streamed), rows[start : start + 8]
        assert np.array_equal(found["n"], part) and np.array_equal(found["row"], part)
        assert np.array_equal(found["letters"], part % 5)
    streamer.stop()
    assert streamer.failure() is None


@pytest.mark.parametrize("blocks", [None, True])
def test_scalars_beside_whole_numbers_come_back(tmp_path: Path, blocks: bool | None) -> None:
    """Whole numbers are stored in fewer bytes only beside fields of any size, which blocks of one form have none of."""
    fields = {"weight": np.random.default_rng(0).random(ROWS), "label": np.arange(ROWS) % 3}
    np.savez(tmp_path / "raw.npz", **fields)  # type: ignore[arg-type]
    manifest = pack(str(tmp_path / "raw.npz"), tmp_path / "a", PackOptions((1, 0, 0), seed=1, blocks=blocks))
    assert manifest.block is not None
    found = st.open(tmp_path / "a", "train")[:]
    assert found["label"].dtype == np.int64 and found["weight"].dtype == np.float64
    assert sorted(zip(*map(np.ndarray.tolist, found.values()), strict=True)) == sorted(
        zip(*(fields[name].tolist() for name in found), strict=True)
    )
