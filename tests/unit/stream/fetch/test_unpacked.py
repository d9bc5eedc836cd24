"""Shards in .tar.gz are unpacked once; a foreign shard's index is made once."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

import streamtrain as st
from streamtrain.inspect.card import inspect_dataset
from streamtrain.shards import index
from streamtrain.store import user_cache
from streamtrain.stream.fetch.unpacked import data_folder
from tests.support.datasets import pack_digits


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits in foreign shards; and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack_digits(tmp_path / "a", st.PackOptions(seed=1, shard_examples=40), examples=100)
    (tmp_path / "a" / "manifest.json").unlink()
    return tmp_path / "a"


def compress(folder: Path, suffix: str) -> None:
    for file in folder.glob("*/*.tar"):
        with gzip.open(file.with_suffix(suffix), "wb") as packed:
            packed.write(file.read_bytes())
        file.unlink()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
def test_compressed_shards_read_like_plain_ones(foreign: Path, suffix: str) -> None:
    plain = st.open(foreign)[0:80]
    assert data_folder(str(foreign)) == foreign
    compress(foreign, suffix)
    found = st.open(foreign)[0:80]
    assert all(np.array_equal(found[name], plain[name]) for name in plain)
    copy = data_folder(str(foreign))
    assert copy is not None and copy.is_relative_to(user_cache())
    made = {file: file.stat().st_mtime_ns for file in copy.rglob("*.tar")}
    st.open(foreign)
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*.tar")} == made, "unpacked once"


def test_a_damaged_compressed_shard_is_named_and_nothing_half_unpacked_is_used(foreign: Path) -> None:
    compress(foreign, ".tar.gz")
    file = sorted(foreign.glob("train/*.tar.gz"))[1]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(
            st.ShardError, match=r"000001\.tar\.gz: expected a tar in gzip, found EOFError: .*; restore it"
        ):
            st.open(foreign)
    file.write_bytes(whole)
    assert len(st.open(foreign)) == 80


def test_both_kinds_together_are_refused(foreign: Path) -> None:
    shutil.copy(next(foreign.glob("train/*.tar")), foreign / "train" / "x.tar.gz")
    with pytest.raises(st.ManifestError, match=r"expected shards of one kind, found \.tar and \.tar\.gz"):
        st.open(foreign)


def test_a_foreign_index_is_made_once(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(foreign.glob("train/*.tar"))
    made = index.foreign_index(file)
    monkeypatch.setattr(index, "scan_index", lambda _: pytest.fail("scanned again"))
    again = index.foreign_index(file)
    assert np.array_equal(again.starts, made.starts) and np.array_equal(again.keys, made.keys)
    file.write_bytes(file.read_bytes() + bytes(512))
    with pytest.raises(pytest.fail.Exception):
        index.foreign_index(file)


def test_a_cache_that_cannot_be_written_is_done_without(foreign: Path) -> None:
    user_cache().parent.mkdir(parents=True, exist_ok=True)
    user_cache().write_text("in the way")
    assert len(index.foreign_index(next(foreign.glob("train/*.tar")))) == 40


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_verify_says_where_there_are_no_checksums(foreign: Path, suffix: str) -> None:
    if suffix != ".tar":
        compress(foreign, suffix)
    assert inspect_dataset(str(foreign), verify_all=True)["checksums"].startswith("none to verify; sizes are as")


def test_verify_reads_every_shard_of_ours(foreign: Path) -> None:
    ours = foreign.parent / "ours"
    pack_digits(ours, st.PackOptions(seed=1, shard_examples=40), examples=100)
    assert inspect_dataset(str(ours), verify_all=True)["checksums"] == "verified"
    shard = sorted(ours.glob("train/*.tar"))[-1]
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(st.ShardError, match=f"{shard.name}: expected SHA-256"):
        inspect_dataset(str(ours), verify_all=True)
