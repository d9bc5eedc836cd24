"""How a reader gets at shards: as local files, where they lie or fetched from a store through the host's cache.

A shard is held while its file is mapped, and released afterwards. What is asked for `ahead` is fetched
by a few threads meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar, Protocol

from streamtrain.errors import ConfigError, complaint
from streamtrain.pack.shard import verify as verify_shard
from streamtrain.pack.shard_list import Shard
from streamtrain.store import sha256_of
from streamtrain.store.remote import Store
from streamtrain.stream.cache import Cache, Pin, Wrong
from streamtrain.values import Loading

BLOCK = 512
AHEAD_THREADS = 2
OPEN_SHARDS = 64
"""Shards that one reader holds at most, where nothing else limits it."""


class ShardFiles(Protocol):
    """Shards of one data set, as files of this machine."""

    place: str
    """The data set's place, as messages name it."""
    most_held: int
    """Shards that one reader may hold at once."""

    def hold(self, shard: Shard) -> Path:
        """The shard's file, which stays until it is released.

        Raises:
            ShardError, StoreError: it is not there, cannot be had, or is not what the manifest says.
            ConfigError: the cache is too small.
        """

    def release(self, shard: Shard) -> None:
        """Lets go of a shard held before, as often as it was held."""

    def hold_part(self, shard: Shard, first: int, last: int) -> Path:
        """As ``hold``, where only the members from byte ``first`` up to ``last`` are wanted: of a border shard."""

    def release_part(self, shard: Shard, first: int, last: int) -> None:
        """Lets go of what ``hold_part`` gave."""

    def ahead(self, shards: Sequence[Shard]) -> None:
        """These, and no others, are wanted soon, in this order."""

    def health(self) -> Loading:
        """The figures so far."""

    def close(self) -> None:
        """Lets go of everything, and ends what is under way."""


class LocalFiles:
    """Shards where they lie: nothing is copied, and nothing ever removed.

    Args:
        folder: the data set's.
        verify: check a shard's size and checksum when a process first holds it.
    """

    _verified: ClassVar[set[tuple[Path, str]]] = set()

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.place, self.most_held = str(folder), OPEN_SHARDS
        self._folder, self._verify = folder, verify

    def hold(self, shard: Shard) -> Path:
        """See `ShardFiles`."""
        known = self._folder / shard.file, shard.sha256
        if self._verify and shard.sha256 and known not in self._verified:
            verify_shard(self._folder, shard)
            self._verified.add(known)
        return self._folder / shard.file

    def release(self, shard: Shard) -> None:
        """Nothing to let go of."""

    def hold_part(self, shard: Shard, first: int, last: int) -> Path:  # noqa: ARG002 - all of it is there
        """The whole shard."""
        return self.hold(shard)

    def release_part(self, shard: Shard, first: int, last: int) -> None:
        """Nothing to let go of."""

    def ahead(self, shards: Sequence[Shard]) -> None:
        """Nothing to fetch: the kernel reads ahead."""

    def health(self) -> Loading:
        """All zero: nothing is fetched."""
        return Loading()

    def close(self) -> None:
        """Nothing under way."""


class FetchedFiles:
    """Shards of a store, through the host's cache.

    Args:
        store: where the data set lies; closed together with this.
        cache: of this host.
        keep: leave what was used in the cache; a single pass has no use for it any more.
        most_held: shards held at once, by one reader.
        ahead_bytes: bytes of the shards that are fetched ahead and not held yet; 0 fetches nothing ahead.
            What several processes may hold and fetch ahead together must have room in the cache: where
            one waits for room that another takes and the other waits for the first, both stop.
    """

    def __init__(
        self, store: Store, cache: Cache, *, keep: bool = True, most_held: int = OPEN_SHARDS, ahead_bytes: int = 0
    ) -> None:
        self.place, self.most_held = store.place, most_held
        self._store, self._cache, self._keep, self._ahead_bytes = store, cache, keep, ahead_bytes
        threads = AHEAD_THREADS if ahead_bytes else 0
        self._lock = threading.Lock()
        self._pins: dict[str, list[Pin]] = {}
        self._hits = self._misses = 0
        self._fetched = _Sum()
        self._ahead: dict[str, tuple[int, Future[Pin | None]]] = {}
        self._tasks: queue.SimpleQueue[tuple[Future[Pin | None], _Whole] | None] = queue.SimpleQueue()
        # a reader that is thrown away takes its threads along
        self._end = weakref.finalize(self, _end, store, self._tasks, threads)
        # daemons: a store that does not answer keeps no process from ending
        self._workers = [
            threading.Thread(target=_fetch_ahead, args=(cache, self._tasks), name="ahead", daemon=True)
            for _ in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def hold(self, shard: Shard) -> Path:
        """See `ShardFiles`."""
        with self._lock:
            _, coming = self._ahead.pop(shard.file, (0, None))
        pin = None
        ready = coming is not None and coming.done()
        if coming is not None and not coming.cancel():
            pin = coming.result()
        return self._held(shard.file, _Whole(self._store, shard, self._fetched), pin, ready=ready)

    def hold_part(self, shard: Shard, first: int, last: int) -> Path:
        """A file of the shard's size with its bytes ``[first, last)``, and holes elsewhere unless all of it is there.

        The chain of tar headers from ``first`` must end at ``last``. The members' content is not checked,
        since the manifest's checksum is of the whole shard.

        Args:
            first, last: where a tar header begins, and where the one after the last wanted member does.

        Raises:
            StoreError, ConfigError: as ``hold``; also where a header's checksum fails, twice.
        """
        whole = _Whole(self._store, shard, self._fetched)
        if (self._cache.folder / whole.entry).exists():
            return self.hold(shard)
        part = _Part(self._store, shard, first, last, self._fetched)
        return self._held(f"{shard.file}[{first}:{last}]", part, None, ready=False)

    def release(self, shard: Shard) -> None:
        """See `ShardFiles`."""
        self._release(shard.file)

    def release_part(self, shard: Shard, first: int, last: int) -> None:
        """See `ShardFiles`."""
        part = f"{shard.file}[{first}:{last}]"
        self._release(part if part in self._pins else shard.file)

    def ahead(self, shards: Sequence[Shard]) -> None:
        """See `ShardFiles`; those that find no room are fetched when they are held."""
        wanted = {shard.file: shard for shard in shards if shard.file not in self._pins}
        with self._lock:
            for name in [*self._ahead.keys() - wanted.keys()]:
                _let_go(self._ahead.pop(name)[1], drop=not self._keep)
            room = self._ahead_bytes - sum(size for size, _ in self._ahead.values())
            for name, shard in wanted.items():
                if name not in self._ahead and shard.bytes <= room:
                    future: Future[Pin | None] = Future()
                    self._ahead[name] = shard.bytes, future
                    self._tasks.put((future, _Whole(self._store, shard, self._fetched)))
                    room -= shard.bytes

    def health(self) -> Loading:
        """See `ShardFiles`."""
        return Loading(
            bytes_fetched=self._fetched.value,
            cache_hits=self._hits,
            cache_misses=self._misses,
            retries=self._store.retries,
        )

    def close(self) -> None:
        """See `ShardFiles`."""
        self._end()
        self.ahead(())
        for worker in self._workers:
            worker.join(timeout=2)  # longer only where it waits for another process's fetch of the same shard
        for name, pins in [*self._pins.items()]:
            for _ in range(len(pins)):
                self._release(name)

    def _held(self, name: str, wanted: _Whole | _Part, pin: Pin | None, *, ready: bool) -> Path:
        if pin is None:
            pin = self._cache.hold(wanted)
        if pin is None:
            limit = f"data.cache_bytes {self._cache.limit:,}"
            expected = f"room for {wanted.place} of {wanted.bytes:,} bytes in {self._cache.folder}"
            do = "raise it, or wait until other runs on this host are done"
            raise ConfigError(complaint(limit, expected=expected, found="all in use", do=do))
        hit = ready or not pin.fetched
        self._hits, self._misses = self._hits + hit, self._misses + (not hit)
        self._pins.setdefault(name, []).append(pin)
        return pin.path

    def _release(self, name: str) -> None:
        pins = self._pins[name]
        pins.pop().release(drop=not self._keep)
        if not pins:
            del self._pins[name]


class _Sum:
    """A number that several threads add to."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self.value += number


class _Whole:
    """A whole shard: its size and SHA-256 are checked. Known by its content, so that copies of a data set share it."""

    def __init__(self, store: Store, shard: Shard, fetched: _Sum) -> None:
        self._store, self._shard, self._fetched = store, shard, fetched
        self.place, self.bytes = store.named(shard.file), shard.bytes
        content = f"sha256 {shard.sha256}" if shard.sha256 else self.place
        self.entry = hashlib.sha256(f"{content} {shard.bytes}".encode()).hexdigest()

    def fetch(self, file: Path) -> Wrong | None:
        found = self._store.fetch(self._shard.file, file, self.bytes)
        self._fetched.add(self.bytes)
        return self._wrong(found)

    def check(self, file: Path) -> Wrong | None:
        return self._wrong(sha256_of(file))

    def _wrong(self, found: str) -> Wrong | None:
        expected = self._shard.sha256
        return Wrong(f"SHA-256 {expected}", found) if expected and found != expected else None


class _Part(_Whole):
    """Bytes ``[first, last)`` of a shard: the chain of its tar headers is checked."""

    def __init__(self, store: Store, shard: Shard, first: int, last: int, fetched: _Sum) -> None:
        super().__init__(store, shard, fetched)
        self._first, self._last = first, last
        self.place = f"{self.place}, bytes {first} to {last}"
        self.entry = f"{self.entry}-{first}-{last}"

    def fetch(self, file: Path) -> Wrong | None:
        self._store.fetch_range(self._shard.file, file, self._first, self._last)
        self._fetched.add(self._last - self._first)
        return self.check(file)

    def check(self, file: Path) -> Wrong | None:
        with file.open("rb") as opened:
            at = self._first
            while at < self._last:
                size = member_size(os.pread(opened.fileno(), BLOCK, at))
                if size is None:
                    return Wrong("a tar header", f"other bytes at byte {at}")
                at += BLOCK + -(-size // BLOCK) * BLOCK
        return None if at == self._last else Wrong(f"a member that ends at byte {self._last}", f"one that ends at {at}")


def member_size(header: bytes) -> int | None:
    """Bytes of content after a tar header, in octal or base 256; ``None`` where its checksum fails."""
    digits, checksum = header[124:136], header[148:156].strip(b" \0")
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if len(header) < BLOCK or not checksum or checksum.strip(b"01234567") or int(checksum, 8) != total:
        return None
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0") or b"0"
    return None if text.strip(b"01234567") else int(text, 8)


def _fetch_ahead(cache: Cache, tasks: queue.SimpleQueue[tuple[Future[Pin | None], _Whole] | None]) -> None:
    """Fetches one after the other, until there comes ``None``."""
    while (task := tasks.get()) is not None:
        future, whole = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(cache.hold(whole, patience=0))
            except BaseException as error:
                future.set_exception(error)
        del task, future, whole  # a pin lives no longer than its last owner


def _end(store: Store, tasks: queue.SimpleQueue[tuple[Future[Pin | None], _Whole] | None], threads: int) -> None:
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
