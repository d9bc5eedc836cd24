"""Permuted examples out of small parts by a plan: the same as from a folder, in the room that there is."""

import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamtrain.errors import StoreError
from streamtrain.order import passes_of
from streamtrain.shards import Manifest
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import Store
from streamtrain.stream.columns import planned_rows
from streamtrain.stream.fetch import fetched, planned
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.farthest import visits
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.planned import BlockFile
from streamtrain.stream.fetch.shard_files import LocalFiles, ShardRows
from streamtrain.stream.reader import Reader
from streamtrain.values import Selection, Skip
from tests.support.caches import bytes_in, leftovers
from tests.support.pieces import small_pieces
from tests.unit.stream.fetch.test_parts import EXAMPLES, KINDS, packed, same

__all__ = ["packed"]

BLOCK, BATCH = 512, 16


@pytest.fixture(scope="module", autouse=True)
def pieces() -> Iterator[None]:
    with small_pieces(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(planned_rows, "UNIT", 4000)
        for module in (planned, fetched):
            patch.setattr(module, "BLOCK", BLOCK)
        yield


def permuted(first: int = 0) -> Iterator[Selection]:
    """All examples, pass after pass, without end; passes from 1 on are permuted."""
    passes = passes_of("examples", EXAMPLES, (), 5)
    for pass_index in itertools.count(1 + first):
        for start in range(0, EXAMPLES, BATCH):
            yield passes.stored(pass_index, start, min(start + BATCH, EXAMPLES))


def files_of(folder: Path, cache: Path, room: int, limit: int = 1 << 30) -> FetchedFiles:
    store = Store(str(folder), RetryPolicy(attempts=2, first=0))
    return FetchedFiles(store, Cache(cache, limit), most_held=2, planned_bytes=room)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [0, 1, 20 * BLOCK, 60_000, 1 << 24])
def test_the_same_bits_whatever_the_room(
    kind: str, room: int, packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed[kind]
    names = [field.name for field in manifest.fields]
    local = Reader(LocalFiles(folder), manifest, "train", names)
    files = files_of(folder, tmp_path, room, limit=max(room, BLOCK))
    reader = Reader(files, manifest, "train", names)
    reader.follow(permuted())
    for selection in itertools.islice(permuted(), 40):
        assert same(reader.select(selection), local.select(selection))
        assert bytes_in(tmp_path) <= max(room, BLOCK)
    files.close()
    del reader, files


def test_what_is_fetched_is_what_the_plan_says(packed: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> None:
    folder, manifest = packed["encoded"]
    room = 100 * BLOCK
    files = files_of(folder, tmp_path, room)
    units = planned_rows.units_of(files, manifest.splits["train"].shards)
    assert len(units.sizes) > 20 and np.diff(units.firsts).max() > 1, "more than one example in some, and not all"
    uses = [u for s in itertools.islice(permuted(), 28) for u in np.unique(units.of(s.numbers)).tolist()]
    plan = list(visits(uses, lambda unit: BLOCK * planned.blocks_of(int(units.sizes[unit])), room, len(units.sizes)))
    assert any(visit.leaving for visit in plan) and not all(visit.comes for visit in plan)
    reader = Reader(files, manifest, "train", ("label", "image"))
    reader.follow(itertools.islice(permuted(), 28))
    for selection in itertools.islice(permuted(), 28):
        reader.select(selection)
    health = files.health()
    assert health.cache_hits + health.cache_misses == len(uses)
    pieces = [_fetched_for(files, manifest, units, visit.unit) for visit in plan if visit.comes]
    assert health.bytes_fetched == sum(pieces)


def _fetched_for(files: FetchedFiles, manifest: Manifest, units: planned_rows.Units, unit: int) -> int:
    """Bytes of the pieces that a unit touches."""
    shards = manifest.splits["train"].shards
    number = shards.holding(int(units.firsts[unit]))
    index = files.index_of(shards[number])
    assert index is not None
    begin, stop = (index.begin(int(units.firsts[unit + more]) - shards.start(number)) for more in (0, 1))
    return min(-(-stop // index.piece) * index.piece, index.shard_bytes) - begin // index.piece * index.piece


@pytest.mark.parametrize("kind", KINDS)
def test_others_may_be_asked_for_between(kind: str, packed: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> None:
    folder, manifest = packed[kind]
    local = Reader(LocalFiles(folder), manifest, "train", ("label", "image"))
    reader = Reader(files_of(folder, tmp_path, 20 * BLOCK, 20 * BLOCK), manifest, "train", ("label", "image"))
    reader.follow(permuted())
    apart = Selection(1, numbers=np.array([3, 170, 60, 3]))
    for selection in itertools.islice(permuted(), 5):
        for other in (selection, apart, Selection(1, ((90, 110),))):
            assert same(reader.select(other), local.select(other))
    assert reader.locate(150)[2] == local.locate(150)[2]
    reader.follow(permuted(first=1))
    for selection in itertools.islice(permuted(first=1), 5):
        assert same(reader.select(selection), local.select(selection))


@pytest.mark.parametrize("kind", KINDS)
def test_others_may_take_up_most_of_a_shard(
    kind: str, packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    """So much of it that elsewhere the whole shard is fetched."""
    folder, manifest = packed[kind]
    local = Reader(LocalFiles(folder), manifest, "train", ("label", "image"))
    reader = Reader(files_of(folder, tmp_path, 20 * BLOCK), manifest, "train", ("label", "image"))
    reader.follow(permuted())
    for other in (next(permuted()), Selection(1, numbers=np.array([99, 1])), Selection(1, ((1, 100),))):
        assert same(reader.select(other), local.select(other))


def test_after_a_failure_no_example_is_missing(
    packed: dict[str, tuple[Path, Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ctrl-C comes in the middle of a batch, and the loop goes on."""
    folder, manifest = packed["encoded"]
    reader = Reader(files_of(folder, tmp_path, 20 * BLOCK), manifest, "train", ("label", "image"))
    local = Reader(LocalFiles(folder), manifest, "train", ("label", "image"))
    reader.follow(permuted())
    for number, selection in enumerate(itertools.islice(permuted(), 8)):
        if number == 2:
            with monkeypatch.context() as patch, pytest.raises(TypeError):
                patch.setattr(reader, "_decoded", None)
                reader.select(selection)
        assert same(reader.select(selection), local.select(selection))


@pytest.mark.timeout(30)
def test_runs_that_are_followed_have_no_plan(packed: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> None:
    """Though single examples of them are left out, and others taken: nothing is sought in runs without an end."""
    folder, manifest = packed["encoded"]
    reader = Reader(files_of(folder, tmp_path, 20 * BLOCK), manifest, "train", ("label", "image"))
    local = Reader(LocalFiles(folder), manifest, "train", ("label", "image"))
    for each in (reader, local):
        each.leave_out({20: Skip("20", "bad")})
    reader.follow(Selection(number, ((0, BATCH),)) for number in itertools.count())
    assert same(reader.read(16, 32), local.read(16, 32)) and len(local.read(16, 32)["label"]) == 15
    assert same(reader.take(np.array([3, 170])), local.take(np.array([3, 170])))
    assert reader.loading.cache_misses == 2, "one for each shard, which are held"
    apart = Selection(1, numbers=np.array([3, 170]))
    assert same(reader.select(apart), local.select(apart))


def test_a_reader_that_is_thrown_away_takes_its_plan_along(
    packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed["encoded"]
    before = {*threading.enumerate()}
    reader = Reader(files_of(folder, tmp_path, 20 * BLOCK), manifest, "train", ("label",))
    reader.follow(permuted())
    reader.select(next(permuted()))
    threads = {*threading.enumerate()} - before
    assert len(threads) >= planned.THREADS and len(leftovers(tmp_path)) == 3, "counting, the file and its lock"
    del reader
    gc.collect()
    assert leftovers(tmp_path) == ["counting"]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_others_may_hold_the_room(packed: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> None:
    folder, manifest = packed["encoded"]
    shards = manifest.splits["train"].shards
    limit = shards[0].bytes + 10 * BLOCK
    other = files_of(folder, tmp_path, 0, limit)
    other.hold(ShardRows.all_of(shards[0]))
    reader = Reader(files_of(folder, tmp_path, limit, limit), manifest, "train", ("label",))
    reader.follow(permuted())
    local = Reader(LocalFiles(folder), manifest, "train", ("label",))
    for selection in itertools.islice(permuted(), 5):
        assert same(reader.select(selection), local.select(selection)) and bytes_in(tmp_path) <= limit


def test_a_part_that_is_wrong_twice_stops_by_name(packed: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> None:
    folder, manifest = packed["encoded"]
    for file in folder.rglob("*"):
        if file.is_file():
            (copy := tmp_path / "data" / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            data = bytearray(file.read_bytes())
            if file.name == "000001.tar":
                data[5000] ^= 1
            copy.write_bytes(data)
    reader = Reader(files_of(tmp_path / "data", tmp_path / "cache", 0), manifest, "train", ("image",))
    reader.follow(permuted())
    with pytest.raises(StoreError, match=r"000001\.tar, bytes 3000 to 6000: expected CRC-32 .* two copies"):
        for selection in itertools.islice(permuted(), 14):
            reader.select(selection)


def read_and_die(folder: Path, cache: Path, manifest: Manifest) -> None:
    with small_pieces():
        reader = Reader(files_of(folder, cache, 20 * planned.BLOCK), manifest, "train", ("label",))
        reader.follow(permuted())
        for selection in itertools.islice(permuted(), 7):
            reader.select(selection)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_nothing_that_stays(packed: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> None:
    """And who goes on where it stopped gets the same."""
    folder, manifest = packed["encoded"]
    process = multiprocessing.get_context("spawn").Process(target=read_and_die, args=(folder, tmp_path, manifest))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and len(leftovers(tmp_path)) == 3, "counting, the file and its lock"
    files = files_of(folder, tmp_path, 20 * BLOCK)
    reader = Reader(files, manifest, "train", ("label",))
    local = Reader(LocalFiles(folder), manifest, "train", ("label",))
    reader.follow(itertools.islice(permuted(), 7, None))
    for selection in itertools.islice(permuted(), 7, 20):
        assert same(reader.select(selection), local.select(selection))
    reader.follow(())
    assert leftovers(tmp_path) == ["counting"]


def test_blocks_are_used_again(tmp_path: Path) -> None:
    (file := tmp_path / "kept").write_bytes(bytes(8 * BLOCK))
    kept, there = BlockFile(file), dict[int, bytes]()
    random = np.random.default_rng(0)
    for number in range(300):
        while there and sum(planned.blocks_of(len(each)) for each in there.values()) > 5:
            kept.drop(gone := int(random.choice(list(there))))
            del there[gone]
        there[number] = random.bytes(int(random.integers(1, 3 * BLOCK)))
        kept.write(number, there[number])
        assert all(kept.read(each).tobytes() == content for each, content in there.items())
    kept.close()
