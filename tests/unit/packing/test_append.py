"""A data set that grows: whole segments or nothing, in the same form, with keys of their own."""

import dataclasses
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.shards import read_manifest, stored_order
from tests.support.datasets import digits

OPTIONS = PackOptions((0.8, 0.2, 0.0), seed=1, shard_examples=64)


def save(folder: Path, start: int, stop: int) -> str:
    images, labels = digits()
    np.savez(folder / f"{start}.npz", image=images[start:stop], label=labels[start:stop])
    return str(folder / f"{start}.npz")


@pytest.mark.parametrize("blocks", [True, False])
def test_a_segment_follows_in_every_split(tmp_path: Path, blocks: bool) -> None:
    options = dataclasses.replace(OPTIONS, blocks=blocks)
    first = pack(save(tmp_path, 0, 300), tmp_path / "a", options)
    before = {file: file.read_bytes() for file in (tmp_path / "a").rglob("*.tar")}
    grown = append(save(tmp_path, 300, 450), tmp_path / "a", dataclasses.replace(options, seed=2))
    assert read_manifest(tmp_path / "a") == grown and grown.block == first.block
    assert [dict(s.examples) for s in grown.segments] == [
        {"train": 240, "validation": 60},
        {"train": 120, "validation": 30},
    ]
    assert all(file.read_bytes() == data for file, data in before.items()), "what was there stays as it was"
    images, labels = digits()
    order = 300 + stored_order(2, 150)
    found = st.open(tmp_path / "a")[240:360]
    assert np.array_equal(found["image"], images[order[:120]]) and np.array_equal(found["label"], labels[order[:120]])
    assert np.array_equal(st.open(tmp_path / "a", "validation")[60:90]["label"], labels[order[120:]])
    keys = [s["__key__"] for split in grown.splits for s in st.open(tmp_path / "a", split).samples()]
    assert sorted(keys) == [f"{number:03d}" for number in range(450)]
    counts = grown.splits["train"].class_counts
    assert sum(counts.values()) == 360
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"train", "validation", "manifest.json", "about"}


def test_what_a_killed_append_leaves_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(save(tmp_path, 0, 300), tmp_path / "a", OPTIONS)
    before = read_manifest(tmp_path / "a")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("streamtrain.packing.append.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            append(save(tmp_path, 300, 450), tmp_path / "a", OPTIONS)
    assert read_manifest(tmp_path / "a") == before and len(st.open(tmp_path / "a")) == 240
    append(save(tmp_path, 450, 600), tmp_path / "a", OPTIONS)
    pack(save(tmp_path, 0, 300), tmp_path / "b", OPTIONS)
    append(save(tmp_path, 450, 600), tmp_path / "b", OPTIONS)
    assert read_manifest(tmp_path / "a") == read_manifest(tmp_path / "b")


def test_other_forms_and_two_at_once_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path, 0, 100)
    with pytest.raises(st.ManifestError, match="expected a data set's manifest"):
        append(source, tmp_path / "none", OPTIONS)
    pack(source, tmp_path / "a", OPTIONS)
    np.savez(tmp_path / "wide.npz", image=np.zeros((9, 9, 9), np.uint8), label=np.arange(9))
    with pytest.raises(
        st.SourceError, match=r"field 'image': expected .*\(8, 8\), found .*\(9, 9\); convert it to that in the source"
    ):
        append(str(tmp_path / "wide.npz"), tmp_path / "a", OPTIONS)
    np.savez(tmp_path / "other.npz", picture=np.zeros((9, 8, 8), np.uint8), label=np.arange(9))
    with pytest.raises(st.SourceError, match="expected the fields image, label, found label, picture"):
        append(str(tmp_path / "other.npz"), tmp_path / "a", OPTIONS)
    assert read_manifest(tmp_path / "a").examples == 100
    (tmp_path / ".a.pack.partial").mkdir()
    descriptor = os.open(tmp_path / ".a.pack.partial" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(st.ConfigError, match="expected one pack or append at a time, found another one at work"):
        append(source, tmp_path / "a", OPTIONS)
    os.close(descriptor)
