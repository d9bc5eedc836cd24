"""Shards as local files: held and released, fetched ahead, in part, and counted."""

import tarfile
import threading
from pathlib import Path

import pytest

from streamtrain.errors import ConfigError, ShardError, StoreError
from streamtrain.pack import Manifest, PackOptions, Shard
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import Store
from streamtrain.stream.cache import Cache
from streamtrain.stream.files import FetchedFiles, LocalFiles, member_size
from streamtrain.values import Loading
from tests.support.datasets import pack_digits

QUICK = RetryPolicy(attempts=2, first=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "digits"


@pytest.fixture(scope="module")
def shards(folder: Path) -> tuple[Shard, ...]:
    manifest: Manifest = pack_digits(folder, PackOptions(seed=3, shard_examples=20), examples=200)
    return tuple(manifest.splits["train"].shards)


def fetched(folder: Path, cache: Path, limit: int = 1 << 30, *, keep: bool = True, ahead: int = 0) -> FetchedFiles:
    return FetchedFiles(Store(str(folder), QUICK), Cache(cache, limit), keep=keep, ahead_bytes=ahead)


def entries(cache: Path) -> int:
    return len(list(cache.iterdir())) - 1


def test_local_files_lie_where_they_are_and_are_checked_once(folder: Path, shards: tuple[Shard, ...]) -> None:
    files = LocalFiles(folder)
    assert files.hold(shards[0]) == folder / shards[0].file
    files.release(shards[0])
    assert files.hold_part(shards[0], 512, 1024) == folder / shards[0].file
    files.release_part(shards[0], 512, 1024)
    files.ahead(shards)
    files.close()
    assert files.health() == Loading() and (folder / shards[0].file).exists()


def test_an_altered_local_shard_is_refused_and_kept(tmp_path: Path) -> None:
    shard = pack_digits(tmp_path / "a", examples=50).splits["train"].shards[0]
    file = tmp_path / "a" / shard.file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match="expected SHA-256"):
        LocalFiles(tmp_path / "a").hold(shard)
    assert LocalFiles(tmp_path / "a", verify=False).hold(shard) == file and file.exists()


def test_hold_and_release(folder: Path, shards: tuple[Shard, ...], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path)
    assert files.hold(shards[0]).read_bytes() == (folder / shards[0].file).read_bytes()
    assert files.hold(shards[0]) == files.hold(shards[0]) and entries(tmp_path) == 1
    assert files.health() == Loading(bytes_fetched=shards[0].bytes, cache_hits=2, cache_misses=1)
    for _ in range(3):
        files.release(shards[0])
    with pytest.raises(KeyError):
        files.release(shards[0])
    assert entries(tmp_path) == 1 and (folder / shards[0].file).exists()


def test_a_single_pass_keeps_nothing(folder: Path, shards: tuple[Shard, ...], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path, keep=False, ahead=1 << 20)
    for number, shard in enumerate(shards):
        files.hold(shard)
        files.ahead(shards[number + 1 : number + 2])
        files.release(shard)
    assert files.health().bytes_fetched == sum(shard.bytes for shard in shards)
    files.ahead(shards[:1])
    files.close()
    assert entries(tmp_path) == 0


def test_what_was_asked_for_ahead_is_there(folder: Path, shards: tuple[Shard, ...], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path, ahead=1 << 30)
    files.ahead(shards[:3])
    for _, coming in list(files._ahead.values()):
        coming.result()
    for shard in shards[:3]:
        files.hold(shard)
    assert files.health() == Loading(bytes_fetched=sum(s.bytes for s in shards[:3]), cache_hits=3)


def test_only_as_much_is_fetched_ahead_as_is_allowed(folder: Path, shards: tuple[Shard, ...], tmp_path: Path) -> None:
    files = fetched(folder, tmp_path, ahead=2 * shards[0].bytes)
    files.ahead(shards)
    assert [*files._ahead] == [shards[0].file, shards[1].file]
    files.ahead(shards[1:])
    assert [*files._ahead] == [shards[1].file, shards[2].file], "what is under way is not begun again"
    files.ahead(())
    assert not files._ahead
    files.close()


def test_a_failure_ahead_is_told_to_who_wants_the_shard(shards: tuple[Shard, ...], tmp_path: Path) -> None:
    files = fetched(tmp_path / "nowhere", tmp_path / "cache", ahead=1 << 30)
    files.ahead(shards[:1])
    with pytest.raises(StoreError, match=r"nowhere/train/000000\.tar, at byte 0: expected \d+ bytes, found no such"):
        files.hold(shards[0])


def test_a_cache_too_small_for_what_is_in_use(
    folder: Path, shards: tuple[Shard, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fetched(folder, tmp_path, limit=shards[0].bytes)
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


def borders(file: Path) -> list[int]:
    with tarfile.open(file) as tar:
        return [member.offset for member in tar.getmembers()]


def test_a_part_has_its_bytes_and_holes(folder: Path, shards: tuple[Shard, ...], tmp_path: Path) -> None:
    files, whole = fetched(folder, tmp_path, keep=False), (folder / shards[0].file).read_bytes()
    first, last = borders(folder / shards[0].file)[4], borders(folder / shards[0].file)[20]
    part = files.hold_part(shards[0], first, last)
    assert part.read_bytes() == bytes(first) + whole[first:last] + bytes(len(whole) - last)
    assert files.health().bytes_fetched == last - first
    files.release_part(shards[0], first, last)
    assert entries(tmp_path) == 0
    files.hold(shards[0])
    assert files.hold_part(shards[0], first, last).read_bytes() == whole, "a whole shard that is there serves too"
    files.release_part(shards[0], first, last)
    files.close()
    assert entries(tmp_path) == 0


@pytest.mark.parametrize(("off_first", "off_last", "found"), [(512, 0, "other bytes"), (0, 512, "one that ends at")])
def test_a_part_that_is_no_whole_members(
    off_first: int, off_last: int, found: str, folder: Path, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    first, last = borders(folder / shards[0].file)[4], borders(folder / shards[0].file)[20]
    with pytest.raises(StoreError, match=f"000000.tar, bytes .*: expected .*, found {found}"):
        fetched(folder, tmp_path).hold_part(shards[0], first + off_first, last - off_last)
    assert entries(tmp_path) == 0


def test_member_size_reads_octal_and_base_256() -> None:
    for size in (0, 5, 8**11 - 1, 9 << 30):
        info = tarfile.TarInfo("a.bin")
        info.size = size
        header = info.tobuf(tarfile.GNU_FORMAT)
        assert member_size(header) == size
        assert member_size(b"b" + header[1:]) is None and member_size(header[:511]) is None
