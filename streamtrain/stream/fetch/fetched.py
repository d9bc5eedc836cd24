"""Shards of a store as files of this machine, through the host's cache; those asked for ahead by a few threads."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeAlias

from streamtrain.errors import ConfigError, complaint
from streamtrain.shards.index import LARGE, ShardIndex
from streamtrain.shards.shard_list import Shard
from streamtrain.store.direct import Bytes
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache, Pin, Wrong, wrong_twice
from streamtrain.stream.fetch.farthest import LOOKED_AHEAD
from streamtrain.stream.fetch.planned import BLOCK, BlockFile, PlannedUnits, blocks_of
from streamtrain.stream.fetch.shard_files import OPEN_SHARDS, ShardRows
from streamtrain.stream.fetch.wanted import Part, Sum, Whole, part_of
from streamtrain.values import Loading

AHEAD_THREADS = 2

Name: TypeAlias = tuple[str, int, int]
Tasks: TypeAlias = "queue.SimpleQueue[tuple[Future[Pin | None], Whole | Part] | None]"


class FetchedFiles:
    """Shards of a store, through the host's cache.

    Args:
        store: where the data set lies; closed together with this.
        cache: of this host.
        keep: leave what was used in the cache; a single pass has no use for it any more.
        most_held: shards held at once, by one reader.
        planned_bytes: of the cache, for what `planned` keeps, in place of shards held and fetched ahead.
        ahead_bytes: bytes of the shards that are fetched ahead and not held yet; 0 fetches nothing ahead.
            What several processes may hold and fetch ahead together must have room in the cache: where
            one waits for room that another takes and the other waits for the first, both stop.
    """

    in_parts = True

    def __init__(
        self,
        store: Store,
        cache: Cache,
        *,
        keep: bool = True,
        most_held: int = OPEN_SHARDS,
        planned_bytes: int = 0,
        ahead_bytes: int = 0,
    ) -> None:
        self.place = store.place
        self.most_held = most_held
        self._store = store
        self._cache = cache
        self._keep = keep
        self._ahead_bytes = ahead_bytes
        self._planned_bytes = planned_bytes
        threads = AHEAD_THREADS if ahead_bytes else 0
        self._lock = threading.Lock()
        self._pins: dict[Name, list[Pin]] = {}
        self._hits = self._misses = 0
        self._fetched = Sum()
        self._indexes: dict[str, ShardIndex | None] = {}
        self._wholes: dict[str, Whole] = {}
        self._ahead: dict[Name, tuple[int, Future[Pin | None]]] = {}
        self._tasks: Tasks = queue.SimpleQueue()
        # a reader that is thrown away takes its threads along
        self._end = weakref.finalize(self, _end, store, self._tasks, threads)
        # daemons: a store that does not answer keeps no process from ending
        self._workers = [
            threading.Thread(target=_fetch_ahead, args=(cache, self._tasks), name="ahead", daemon=True)
            for _ in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def covering(self, rows: ShardRows) -> ShardRows:
        """See `ShardFiles`: the whole shard, where it is in the cache or their part would not be much smaller."""
        whole = self._whole(rows.shard)
        if rows.whole or rows.shard.bytes < LARGE or (self._cache.folder / whole.entry).exists():
            return ShardRows.all_of(rows.shard)
        part = part_of(whole, rows, self._index(whole, rows.shard))
        return ShardRows.all_of(rows.shard) if part is None else part[0]

    def hold(self, rows: ShardRows) -> Path:
        """The shard's file in the cache, fetched if it is not there; nobody removes it until it is released."""
        with self._lock:
            _, coming = self._ahead.pop(_name(rows), (0, None))
        pin = None
        ready = coming is not None and coming.done()
        if coming is not None and not coming.cancel():
            pin = coming.result()
        return self._held(rows, pin, ready=ready)

    def release(self, rows: ShardRows) -> None:
        """Lets the cache remove the shard when it needs room."""
        self._release(_name(rows))

    def ahead(self, wanted: Sequence[ShardRows]) -> None:
        """See `ShardFiles`; those that find no room are fetched when they are held."""
        by_name = {_name(rows): rows for rows in wanted if _name(rows) not in self._pins}
        with self._lock:
            for name in [*self._ahead.keys() - by_name.keys()]:
                _let_go(self._ahead.pop(name)[1], drop=not self._keep)
            room = self._ahead_bytes - sum(size for size, _ in self._ahead.values())
            for name, rows in by_name.items():
                thing = self._wanted(rows)
                if name not in self._ahead and thing.bytes <= room:
                    future: Future[Pin | None] = Future()
                    self._ahead[name] = thing.bytes, future
                    self._tasks.put((future, thing))
                    room -= thing.bytes

    def planned(self, read: Callable[[int], Bytes], uses: Iterable[int], sizes: Sequence[int]) -> PlannedUnits:
        """Units fetched by ``read`` in the order of their uses, in the cache's room for them; nothing else is held now.

        Args:
            sizes: bytes of every unit.
        """
        self.ahead(())
        blocks = min(self._planned_bytes // BLOCK, sum(map(blocks_of, sizes)))
        looked_ahead = min(len(sizes), LOOKED_AHEAD)
        while blocks:
            scratch = contextlib.ExitStack()
            file = scratch.enter_context(self._cache.scratch(blocks * BLOCK))
            if file is not None:
                kept = BlockFile(file)
                scratch.callback(kept.close)
                return PlannedUnits(read, sizes, uses, kept, blocks * BLOCK, looked_ahead, scratch.close)
            scratch.close()
            blocks //= 2  # others on this host have the rest
        return PlannedUnits(read, sizes, uses, None, 0, looked_ahead)

    def read(self, rows: ShardRows) -> Bytes:
        """The bytes of a shard that holds just these rows, which no file keeps; called by any number of threads.

        Raises:
            StoreError: they could not be had, or came wrong twice.
        """
        wanted = self._wanted(rows, in_any_case=True)
        content = wanted.read()
        if isinstance(content, Wrong):
            content = wanted.read()
        if isinstance(content, Wrong):
            raise wrong_twice(wanted.place, content)
        return content

    def index_of(self, shard: Shard) -> ShardIndex | None:
        """The index by which parts of a large shard are fetched; ``None`` where it comes whole."""
        index = None if shard.bytes < LARGE else self._index(self._whole(shard), shard)
        return None if index is None or not len(index.sums) else index

    def bytes_of(self, rows: ShardRows) -> int:
        """Bytes of what `read` brings for such rows."""
        return self._wanted(rows, in_any_case=True).bytes

    def count(self, *, hit: bool) -> None:
        """Counts a part as there in time, or as waited for."""
        self._hits += hit
        self._misses += not hit

    def health(self) -> Loading:
        """Bytes fetched, hits, misses and retries so far."""
        return Loading(
            bytes_fetched=self._fetched.value,
            cache_hits=self._hits,
            cache_misses=self._misses,
            retries=self._store.retries,
        )

    def close(self) -> None:
        """Ends the threads that fetch ahead, and lets go of every shard."""
        self._end()
        self.ahead(())
        for worker in self._workers:
            worker.join(timeout=2)  # longer only where it waits for another process's fetch of the same shard
        for name, pins in [*self._pins.items()]:
            for _ in range(len(pins)):
                self._release(name)

    def _held(self, rows: ShardRows, pin: Pin | None, *, ready: bool) -> Path:
        if pin is None:
            wanted = self._wanted(rows)
            pin = self._cache.hold(wanted)
        if pin is None:
            limit = f"data.cache_bytes {self._cache.limit:,}"
            expected = f"room for {wanted.place} of {wanted.bytes:,} bytes in {self._cache.folder}"
            do = "raise it, or wait until other runs on this host are done"
            raise ConfigError(complaint(limit, expected=expected, found="all in use", do=do))
        hit = ready or not pin.fetched
        self._hits = self._hits + hit
        self._misses = self._misses + (not hit)
        self._pins.setdefault(_name(rows), []).append(pin)
        return pin.path

    def _release(self, name: Name) -> None:
        pins = self._pins[name]
        pins.pop().release(drop=not self._keep)
        if not pins:
            del self._pins[name]

    def _wanted(self, rows: ShardRows, *, in_any_case: bool = False) -> Whole | Part:
        """What to fetch for rows that `covering` gave; ``in_any_case``: for just these rows, however many they are."""
        whole = self._whole(rows.shard)
        part = None if rows.whole else part_of(whole, rows, self._index(whole, rows.shard), in_any_case=in_any_case)
        return whole if part is None else part[1]

    def _whole(self, shard: Shard) -> Whole:
        whole = self._wholes.get(shard.file)
        if whole is None:  # kept: names without secrets take their time
            whole = self._wholes[shard.file] = Whole(self._store, shard, self._fetched)
        return whole

    def _index(self, whole: Whole, shard: Shard) -> ShardIndex | None:
        """The shard's index, asked for once."""
        if shard.file not in self._indexes:
            self._indexes[shard.file] = whole.index()
        return self._indexes[shard.file]


def _name(rows: ShardRows) -> Name:
    return rows.shard.file, rows.first, rows.last


def _fetch_ahead(cache: Cache, tasks: Tasks) -> None:
    """Fetches one after the other, until there comes ``None``."""
    while (task := tasks.get()) is not None:
        future, wanted = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(cache.hold(wanted, patience=0))
            except BaseException as error:
                future.set_exception(error)
        del task, future, wanted  # a pin lives no longer than its last owner


def _end(store: Store, tasks: Tasks, threads: int) -> None:
    store.close()
    for _ in range(threads):
        tasks.put(None)


def _let_go(coming: Future[Pin | None], *, drop: bool) -> None:
    """Does without a shard that was asked for ahead, whenever it comes."""

    def release(done: Future[Pin | None]) -> None:
        if not done.cancelled() and done.exception() is None and (pin := done.result()) is not None:
            pin.release(drop=drop)

    if not coming.cancel():
        coming.add_done_callback(release)
