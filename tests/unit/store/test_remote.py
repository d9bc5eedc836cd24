"""A store: ranges, whole objects, lists and sizes, over a folder and over fsspec's memory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from streamtrain.errors import ConfigError, StoreError
from streamtrain.store import RetryPolicy, remote
from streamtrain.store.remote import Store

DATA = bytes(range(256)) * 5
QUICK = RetryPolicy(attempts=2, first=0)


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(remote, "CHUNK", 100)
    urls = {"folder": str(tmp_path), "file": tmp_path.as_uri(), "memory": "memory://data"}
    store = Store(urls[request.param], QUICK)
    store.write("a/x.tar", DATA)
    yield store
    fsspec.filesystem("memory").store.clear()


def test_size_names_and_whole_objects(store: Store) -> None:
    store.write("b", b"b")
    assert (store.size("a/x.tar"), store.read_whole("b")) == (len(DATA), b"b")
    assert store.names() == ["a/x.tar", "b"] and store.names("a/") == ["a/x.tar"] and store.names("a/y") == []
    store.write("b", b"new")
    assert store.read_whole("b") == b"new"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(some.integers(0, len(DATA) - 1), some.integers(1, len(DATA)))
def test_ranges(store: Store, start: int, length: int) -> None:
    stop = min(start + length, len(DATA))
    assert store.read("a/x.tar", start, stop) == DATA[start:stop]


@pytest.mark.parametrize("size", [1, 99, 100, 101, 500, 1280])
def test_fetch(store: Store, size: int, tmp_path: Path) -> None:
    store.write("y", DATA[:size])
    (file := tmp_path / "copy").touch()
    assert store.fetch("y", file, size) == hashlib.sha256(DATA[:size]).hexdigest()
    assert file.read_bytes() == DATA[:size]


def test_what_may_be_missing(store: Store) -> None:
    assert store.read_if_there("a/x.tar") == DATA and store.read_if_there("nothing") is None


def test_objects_of_another_size_are_named_with_the_offset(store: Store, tmp_path: Path) -> None:
    (file := tmp_path / "copy").touch()
    with pytest.raises(StoreError, match=r"a/x\.tar, at byte 1200: expected 81 bytes, found 80 bytes after 2 attempts"):
        store.fetch("a/x.tar", file, len(DATA) + 1)
    with pytest.raises(StoreError, match=r"a/x\.tar, at byte 1200: expected 79 bytes, found a longer object; restore"):
        store.fetch("a/x.tar", file, len(DATA) - 1)
    with pytest.raises(StoreError, match=r"nothing, at byte 0: expected 4 bytes, found no such object; check data.url"):
        store.read("nothing", 0, 4)


def test_a_server_without_ranges_is_told(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(type(store._system), "cat_file", lambda *_, **__: DATA)
    (file := tmp_path / "copy").touch()
    with pytest.raises(StoreError, match="expected 100 bytes, found 1280: the server does not answer byte ranges"):
        store.fetch("a/x.tar", file, len(DATA))


def test_queries_stay_at_the_end_and_secrets_out_of_names() -> None:
    store = Store("https://me:secret@host/data/?sig=secret")
    assert store._path("train/0.tar") == "https://me:secret@host/data/train/0.tar?sig=secret"
    assert store.named("train/0.tar") == "https://***@host/data/train/0.tar?***"
    assert store.place == "https://***@host/data/?***" and "secret" not in repr(store)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("gs://bucket", r"gs://bucket: expected a client for gs, found .*; pip install 'streamtrain\[gs\]'"),
        ("az://bucket", r"az://bucket: expected a client for az, found .*; pip install 'streamtrain\[az\]'"),
        ("what://x", r"what://x: expected a data set's place, found .*; use a folder or a URL"),
    ],
)
def test_unknown_and_missing_clients_are_named(url: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Store(url).read_whole("x")
