"""Keys that come twice in a split, in 8 bytes a key: a second look is taken only where hashes meet."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KeysOf = Callable[[Path], Iterable[tuple[str, int]]]
"""Keys of a shard's examples and the offset of their first member's header."""


class Repeated(NamedTuple):
    """An example whose key another shard of the split has too."""

    file: Path
    key: str
    offset: int
    before: Path


class Keys:
    """Notes every key of a split once for each shard."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, key: str) -> None:
        """Notes one example's key."""
        self._hashes.append(_hash(key))

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Sorted, each once."""
        return np.unique(np.frombuffer(self._hashes, np.uint64)) if self._hashes else np.empty(0, np.uint64)

    def repeated(self, files: Sequence[Path], keys_of: KeysOf) -> Iterator[Repeated]:
        """All examples of ``files`` whose key an earlier shard has; reads the shards again only where there may be."""
        hashes = np.sort(np.frombuffer(self._hashes, np.uint64)) if self._hashes else np.empty(0, np.uint64)
        twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        first: dict[str, Path] = {}
        for file in files if twice else ():
            for key, offset in keys_of(file):
                if _hash(key) in twice and first.setdefault(key, file) != file:
                    yield Repeated(file, key, offset, first[key])


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
