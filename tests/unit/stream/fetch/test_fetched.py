"""Shards of a store as local files: held and released, fetched ahead, in part, and counted."""

import threading
from pathlib import Path

import pytest

from streamtrain.errors import ConfigError, StoreError
from streamtrain.packing import PackOptions
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import ShardRows
from streamtrain.values import Loading
from tests.support.datasets import pack_digits

QUICK = RetryPolicy(attempts=2, first=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "digits"


@pytest.fixture(scope="module")
def shards(folder: Path) -> list[ShardRows]:
    manifest = pack_digits(folder, PackOptions(seed=3, shard_examples=20), examples=200)
    return [ShardRows.all_of(shard) for shard in manifest.splits["train"].shards]


def fetched(folder: Path, cache: Path, limit: int = 1 << 30, *, keep: bool = True, ahead: int = 0) -> FetchedFiles:
    return FetchedFiles(Store(str(folder), QUICK), Cache(cache, limit), keep=keep, ahead_bytes=ahead)


def entries(cache: Path) -> int:
    return len(list(cache.iterdir())) - 1


def test_hold_and_release(folder: Path, shards: list[ShardRows], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path)
    assert files.hold(shards[0]).read_bytes() == (folder / shards[0].shard.file).read_bytes()
    assert files.hold(shards[0]) == files.hold(shards[0]) and entries(tmp_path) == 1
    assert files.health() == Loading(bytes_fetched=shards[0].shard.bytes, cache_hits=2, cache_misses=1)
    for _ in range(3):
        files.release(shards[0])
    with pytest.raises(KeyError):
        files.release(shards[0])
    assert entries(tmp_path) == 1 and (folder / shards[0].shard.file).exists()


def test_a_single_pass_keeps_nothing(folder: Path, shards: list[ShardRows], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path, keep=False, ahead=1 << 20)
    for number, shard in enumerate(shards):
        files.hold(shard)
        files.ahead(shards[number + 1 : number + 2])
        files.release(shard)
    assert files.health().bytes_fetched == sum(rows.shard.bytes for rows in shards)
    files.ahead(shards[:1])
    files.close()
    assert entries(tmp_path) == 0


def test_what_was_asked_for_ahead_is_there(folder: Path, shards: list[ShardRows], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path, ahead=1 << 30)
    files.ahead(shards[:3])
    for _, coming in list(files._ahead.values()):
        coming.result()
    for shard in shards[:3]:
        files.hold(shard)
    assert files.health() == Loading(bytes_fetched=sum(rows.shard.bytes for rows in shards[:3]), cache_hits=3)


def test_only_as_much_is_fetched_ahead_as_is_allowed(folder: Path, shards: list[ShardRows], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path, ahead=2 * shards[0].shard.bytes)

    def asked() -> list[str]:
        return [file for file, _, _ in files._ahead]

    files.ahead(shards)
    assert asked() == [shards[0].shard.file, shards[1].shard.file]
    files.ahead(shards[1:])
    assert asked() == [shards[1].shard.file, shards[2].shard.file], "what is under way is not begun again"
    files.ahead(())
    assert not files._ahead
    files.close()


def test_a_failure_ahead_is_told_to_who_wants_the_shard(shards: list[ShardRows], tmp_path: Path) -> None:
    files = fetched(tmp_path / "nowhere", tmp_path / "cache", ahead=1 << 30)
    files.ahead(shards[:1])
    with pytest.raises(StoreError, match=r"nowhere/train/000000\.tar, at byte 0: expected \d+ bytes, found no such"):
        files.hold(shards[0])


def test_a_cache_too_small_for_what_is_in_use(
    folder: Path, shards: list[ShardRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fetched(folder, tmp_path, limit=shards[0].shard.bytes)
    usual = files._cache.hold
    monkeypatch.setattr(files._cache, "hold", lambda wanted: usual(wanted, patience=0.01))
    files.hold(shards[0])
    with pytest.raises(ConfigError, match=r"^data\.cache_bytes [\d,]+: expected room for .*000001.tar of .*all in use"):
        files.hold(shards[1])
    files.release(shards[0])
    files.hold(shards[1])


def test_nothing_runs_on_after_a_reader_is_thrown_away(folder: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    files = fetched(folder, tmp_path, ahead=1)
    ours = set(threading.enumerate()) - before
    assert len(ours) == 2
    del files
    for thread in ours:
        thread.join()
