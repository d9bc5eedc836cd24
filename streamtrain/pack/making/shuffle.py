"""The stored order: a uniformly random permutation, made once, out of core.

Example ``i`` of the source gets 64 random bits that depend on the seed and on ``i`` alone, and the
stored order is that of these keys (ties, one in ten billion at a million examples, by ``i``). Keys are
scattered into buckets by their top bits, each bucket is sorted by itself, and buckets are laid end to
end: the same permutation as a sort of all at once (Rao 1961, Sandelius 1962), within bounded memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BITS = 8
BUCKETS = 1 << BITS
DRAWN = 1 << 16
"""Keys drawn at once."""
OVERHEAD = 160
"""Bytes of Python objects about each payload in memory."""

_FRAME = struct.Struct("<QQI")
Entry = tuple[int, int, bytes]
"""Key, number in the source, payload."""


def sort_keys(seed: int, block: int) -> NDArray[np.uint64]:
    """Keys of the examples ``[block · DRAWN, (block + 1) · DRAWN)``, from a counter-based generator (Philox)."""
    return np.random.Philox(key=seed, counter=block * (DRAWN // 4)).random_raw(DRAWN)


def stored_order(seed: int, examples: int) -> NDArray[np.int64]:
    """Stored position -> number in the source, for a data set of this size; needs 16 bytes an example."""
    blocks = -(-examples // DRAWN)
    keys = np.concatenate([sort_keys(seed, block) for block in range(blocks)] or [np.empty(0, np.uint64)])
    return np.argsort(keys[:examples], kind="stable")


class Shuffle:
    """Takes payloads in the source's order and gives them back in stored order.

    Args:
        seed: of the permutation.
        memory_bytes: bound on what is held in memory; beyond it, buckets go to files.
        folder: where these files go; the caller removes it.
    """

    def __init__(self, seed: int, memory_bytes: int, folder: Path) -> None:
        self._seed, self._folder = seed, folder
        self._buckets = _Buckets(folder, memory_bytes, shift=64 - BITS)
        self._keys: list[int] = []
        self.examples = 0

    def add(self, payload: bytes) -> None:
        """The next example of the source."""
        block, within = divmod(self.examples, DRAWN)
        if within == 0:
            self._keys = sort_keys(self._seed, block).tolist()
        self._buckets.add((self._keys[within], self.examples, payload))
        self.examples += 1

    def __iter__(self) -> Iterator[bytes]:
        """All payloads in stored order; once."""
        return (payload for _, _, payload in self._buckets.in_order())


class _Buckets:
    """One level of buckets by the ``BITS`` bits of the key above ``shift``."""

    def __init__(self, folder: Path, memory_bytes: int, shift: int) -> None:
        self._folder, self._memory_bytes, self._shift = folder, memory_bytes, shift
        self._held: list[list[Entry]] = [[] for _ in range(BUCKETS)]
        self._held_bytes = 0
        self._spilled = [0] * BUCKETS

    def add(self, entry: Entry) -> None:
        self._held[(entry[0] >> self._shift) % BUCKETS].append(entry)
        self._held_bytes += len(entry[2]) + OVERHEAD
        if self._held_bytes > self._memory_bytes:
            self._spill()

    def in_order(self) -> Iterator[Entry]:
        spilled = any(self._file(bucket).exists() for bucket in range(BUCKETS))
        if spilled:
            self._spill()
        for bucket in range(BUCKETS):
            if spilled:
                yield from self._read(bucket)
            else:
                yield from sorted(self._held[bucket], key=_rank)
                self._held[bucket] = []

    def _spill(self) -> None:
        for bucket, entries in enumerate(self._held):
            if entries:
                with self._file(bucket).open("ab") as file:
                    file.writelines(
                        part for key, number, data in entries for part in (_FRAME.pack(key, number, len(data)), data)
                    )
                self._spilled[bucket] += len(entries)
                self._held[bucket] = []
        self._held_bytes = 0

    def _read(self, bucket: int) -> Iterator[Entry]:
        """One bucket's entries in order; split again where it is larger than the memory."""
        file = self._file(bucket)
        if not file.exists():
            return
        needed = file.stat().st_size + self._spilled[bucket] * (OVERHEAD - _FRAME.size)
        if needed > self._memory_bytes and self._shift >= BITS:
            folder = self._folder / f"{bucket:03d}"
            folder.mkdir()
            inner = _Buckets(folder, self._memory_bytes, self._shift - BITS)
            for entry in _entries(file):
                inner.add(entry)
            file.unlink()
            yield from inner.in_order()
        else:
            yield from sorted(_entries(file), key=_rank)
            file.unlink()

    def _file(self, bucket: int) -> Path:
        return self._folder / f"{bucket:03d}.bucket"


def _rank(entry: Entry) -> tuple[int, int]:
    return entry[0], entry[1]


def _entries(file: Path) -> Iterator[Entry]:
    with file.open("rb") as opened:
        while frame := opened.read(_FRAME.size):
            key, number, size = _FRAME.unpack(frame)
            yield key, number, opened.read(size)
