"""What is fetched and how it is checked: a whole shard by its SHA-256, a part by the checksums of its pieces.

A part of a shard, ended as a tar ends, is a shard itself.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from streamtrain.shards.index import ShardIndex, index_name, read_index
from streamtrain.shards.shard import END
from streamtrain.shards.shard_list import Shard
from streamtrain.store import sha256_of
from streamtrain.store.direct import Bytes
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Wrong
from streamtrain.stream.fetch.shard_files import ShardRows

_PARSING = threading.Lock()
"""CPython 3.11 may raise `SystemError` where several threads parse literals at once, as NumPy's headers are."""
SMALL = 1 << 20
"""Bytes that are asked for by who wants them, rather than by threads for each."""
SAVED = 4 << 20
"""Bytes that are left out where a part is fetched in place of its shard: fewer are not worth a file of its own."""


class Sum:
    """A number that several threads add to."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Adds to it."""
        with self._lock:
            self.value += number


class Whole:
    """A whole shard; known by its content, so that copies of a data set share it."""

    def __init__(self, store: Store, shard: Shard, fetched: Sum) -> None:
        self._store = store
        self._shard = shard
        self.fetched = fetched
        self.place = store.named(shard.file)
        self.bytes = shard.bytes
        content = f"sha256 {shard.sha256}" if shard.sha256 else self.place
        self.entry = hashlib.sha256(f"{content} {shard.bytes}".encode()).hexdigest()

    def fetch(self, file: Path) -> Wrong | None:
        """Writes the shard's bytes to ``file``, as the store gives them."""
        found = self._store.fetch(self._shard.file, file, self.bytes)
        self.fetched.add(self.bytes)
        return self._wrong(found)

    def read(self) -> Bytes | Wrong:
        """The shard's bytes, or what is wrong with those that came."""
        content = self._store.read(self._shard.file, 0, self.bytes)
        self.fetched.add(self.bytes)
        return self._wrong(hashlib.sha256(content).hexdigest()) or content

    def check(self, file: Path) -> Wrong | None:
        """Why the file is not what was wanted, by size and checksum; ``None`` where it is."""
        return self._wrong(sha256_of(file))

    def chunks(self, start: int, stop: int) -> Iterator[Bytes]:
        """Its bytes ``[start, stop)``, from the store."""
        return self._store.chunks(self._shard.file, start, stop)

    def read_range(self, start: int, stop: int) -> Bytes:
        """The same of few bytes, in one request."""
        return self._store.read(self._shard.file, start, stop)

    def index(self) -> ShardIndex | None:
        """Its index, where the store has one.

        Raises:
            StoreError: the store could not be asked.
        """
        shard = self._shard
        data = self._store.read_if_there(index_name(shard.file))
        if data is None:
            return None
        with _PARSING:
            return read_index(io.BytesIO(data), None, shard.bytes, shard.sha256)

    def _wrong(self, found: str) -> Wrong | None:
        expected = self._shard.sha256
        if not expected or found == expected:
            return None
        return Wrong(f"bytes 0 to {self.bytes}", f"SHA-256 {expected}", found)


class Part:
    """Bytes ``[start, stop)`` of a shard, whole samples, and a tar's end after them."""

    def __init__(self, whole: Whole, index: ShardIndex, start: int, stop: int) -> None:
        self._whole = whole
        self._index = index
        self._start = start
        self._stop = stop
        self.place = whole.place
        self.bytes = stop - start + len(END)
        self.entry = f"{whole.entry}-{start}-{stop}"

    def fetch(self, file: Path) -> Wrong | None:
        """Writes the shard's bytes to ``file``, as the store gives them."""
        with file.open("r+b") as opened:
            return self._checked(opened.write)

    def read(self) -> Bytes | Wrong:
        """Its bytes, or what is wrong with those that came."""
        content = bytearray()
        wrong = self._checked(content.extend)
        content += END
        return wrong or memoryview(content)

    def _checked(self, put: Callable[[Bytes], object]) -> Wrong | None:
        """Gives all but a tar's end to ``put``, piece by piece; what is wrong with one, if anything."""
        size = self._index.piece
        begin = at = self._start // size * size
        end = min(-(-self._stop // size) * size, self._index.shard_bytes)
        small = end - begin <= SMALL
        came = iter([self._whole.read_range(begin, end)]) if small else self._whole.chunks(begin, end)
        for piece in _cut(came, size):
            expected, found = int(self._index.sums[at // size]), zlib.crc32(piece)
            if found != expected:
                return Wrong(f"bytes {at} to {at + len(piece)}", f"CRC-32 {expected:08x}", f"{found:08x}")
            put(piece[max(self._start - at, 0) : self._stop - at])
            at += len(piece)
        self._whole.fetched.add(end - begin)
        return None

    def check(self, file: Path) -> Wrong | None:  # noqa: ARG002 - its pieces' ends, which the checksums take in, are gone
        """Wrong: it is fetched again rather."""
        return Wrong(f"bytes {self._start} to {self._stop}", "a part fetched since the machine was started", "another")


def part_of(
    whole: Whole, rows: ShardRows, index: ShardIndex | None, *, in_any_case: bool = False
) -> tuple[ShardRows, Part] | None:
    """What to fetch for these rows, and the rows in it; ``None`` where that is the whole shard.

    Args:
        index: of the shard, where it has one.
        in_any_case: also where the part is not much smaller than the shard.
    """
    if index is None or not len(index.sums):
        return None
    shard = rows.shard
    first, last = index.whole_samples(rows.first, rows.last, shard.examples)
    start, stop = index.begin(first), index.begin(last)
    saved = 0 if in_any_case else SAVED
    if not 0 <= start < stop <= shard.bytes - len(END) or stop - start + saved > shard.bytes:
        return None
    return ShardRows(shard, first, last), Part(whole, index, start, stop)


def _cut(chunks: Iterable[Bytes], size: int) -> Iterator[Bytes]:
    """The same bytes in pieces of ``size``, the last one shorter; copied only where chunks end within a piece."""
    held = b""
    for chunk in chunks:
        first = size - len(held) if held else 0
        rest = memoryview(chunk)[first:]
        if held:
            held += bytes(chunk[:first])
            if len(held) < size:
                continue
            yield held
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
        held = bytes(rest)
    if held:
        yield held
