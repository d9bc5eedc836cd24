"""The host's cache under several processes at once that are killed in the middle of what they do."""

import fcntl
import hashlib
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from streamtrain.packing import PackOptions
from streamtrain.shards import Manifest
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import ShardRows
from tests.support.caches import bytes_in, leftovers
from tests.support.datasets import pack_digits

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "digits"


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return pack_digits(folder, PackOptions(seed=3, shard_examples=100), wide=True)


def files_of(folder: Path, cache: Path, limit: int, *, keep: bool = True) -> FetchedFiles:
    return FetchedFiles(Store(str(folder)), Cache(cache, limit), keep=keep)


def take_shards(folder: Path, manifest: Manifest, cache: Path, limit: int, seed: int, told: Connection) -> None:
    """Holds random shards, one after the other and without end; tells of every one whether it was right."""
    chance = random.Random(seed)
    files = files_of(folder, cache, limit, keep=bool(seed % 2))
    while True:
        shard = chance.choice(manifest.splits["train"].shards)
        told.send(hashlib.sha256(files.hold(ShardRows.all_of(shard)).read_bytes()).hexdigest() == shard.sha256)
        files.release(ShardRows.all_of(shard))


def test_killed_processes_leave_nothing_that_stops_or_confuses_the_next(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    chance = random.Random(0)
    shards = manifest.splits["train"].shards
    limit = 5 * max(shard.bytes for shard in shards)
    files_of(folder, tmp_path, limit).close()
    users: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def start(seed: int) -> None:
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=take_shards, args=(folder, manifest, tmp_path, limit, seed, theirs), daemon=True)
        process.start()
        theirs.close()
        users.append((process, ours))

    for seed in range(3):
        start(seed)
    for seed in range(3, 25):
        process, told = users.pop(chance.randrange(3))
        for _ in range(chance.randrange(1, 12)):
            assert told.recv(), "a held shard had other bytes than the manifest says"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert bytes_in(tmp_path) <= limit
        start(seed)
    for process, _ in users:
        process.kill()
        process.join()
    files = files_of(folder, tmp_path, limit)
    for shard in shards:
        assert hashlib.sha256(files.hold(ShardRows.all_of(shard)).read_bytes()).hexdigest() == shard.sha256
        files.release(ShardRows.all_of(shard))
    assert leftovers(tmp_path) == ["counting"] and bytes_in(tmp_path) <= limit


def hold_once(folder: Path, manifest: Manifest, cache: Path, start: Connection, told: Connection) -> None:
    files = files_of(folder, cache, 1 << 30)
    start.recv()
    files.hold(ShardRows.all_of(manifest.splits["train"].shards[0]))
    told.send(files.health().bytes_fetched)


def forked(count: int, target: Callable[..., None], *words: object) -> tuple[list[Connection], list[Connection]]:
    """Processes that run ``target``: the ends that start them, and those that they tell by."""
    starts, tells = [], []
    for _ in range(count):
        (begin, go), (told, tell) = FORK.Pipe(duplex=False), FORK.Pipe(duplex=False)
        FORK.Process(target=target, args=(*words, begin, tell), daemon=True).start()
        starts.append(go)
        tells.append(told)
    return starts, tells


def test_processes_that_want_the_same_shard_fetch_it_once(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    for number in range(5):
        cache = tmp_path / str(number)
        starts, tells = forked(4, hold_once, folder, manifest, cache)
        for start in starts:
            start.send(None)
        assert sum(told.recv() for told in tells) == manifest.splits["train"].shards[0].bytes


def die_in_a_fetch(folder: Path, manifest: Manifest, cache: Path, start: Connection, told: Connection) -> None:
    """Stands still in the middle of a fetch, until it is killed."""

    class Slow(Store):
        def fetch(self, name: str, file: Path, size: int) -> str:
            file.write_bytes(b"half")
            told.send(os.getpid())
            start.recv()
            raise AssertionError("unreachable")

    FetchedFiles(Slow(str(folder)), Cache(cache, 1 << 30)).hold(ShardRows.all_of(manifest.splits["train"].shards[0]))


def test_whoever_waits_for_a_process_that_is_killed_takes_over(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    _, (dying,) = forked(1, die_in_a_fetch, folder, manifest, tmp_path)
    fetching = dying.recv()
    (go,), (waiting,) = forked(1, hold_once, folder, manifest, tmp_path)
    go.send(None)
    entry = next(file for file in tmp_path.iterdir() if file.suffix == ".lock")
    with entry.open("rb") as opened, pytest.raises(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not waiting.poll()
    os.kill(fetching, signal.SIGKILL)
    assert waiting.recv() == manifest.splits["train"].shards[0].bytes
    assert leftovers(tmp_path) == ["counting"]
