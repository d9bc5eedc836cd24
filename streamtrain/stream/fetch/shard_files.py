"""How a reader gets at shards, as files of this machine: where they lie, or `fetch`ed from a store.

A shard is held while its file is mapped, and released afterwards. What is asked for `ahead` is fetched
by a few threads meanwhile. Where fetching costs something, the rows that are wanted of a shard may be held without
the others: they come as a shard of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from streamtrain.shards.shard import verify as verify_shard
from streamtrain.shards.shard_list import Shard
from streamtrain.values import Loading

OPEN_SHARDS = 64
"""Shards that one reader holds at most, where nothing else limits it."""


@dataclass(frozen=True)
class ShardRows:
    """Examples ``[first, last)`` of a shard, counted from its first."""

    shard: Shard
    first: int
    last: int

    @classmethod
    def all_of(cls, shard: Shard) -> ShardRows:
        """A whole shard."""
        return cls(shard, 0, shard.examples)

    @property
    def whole(self) -> bool:
        """Whether they are all."""
        return self.last - self.first == self.shard.examples

    @property
    def as_shard(self) -> Shard:
        """They as a shard of their own, of which size and checksum are not known."""
        if self.whole:
            return self.shard
        key = self.shard.first_key
        first_key = f"{int(key) + self.first:0{len(key)}d}" if key.isdecimal() else ""
        return replace(self.shard, examples=self.last - self.first, first_key=first_key)


class ShardFiles(Protocol):
    """Shards of one data set, as files of this machine."""

    place: str
    """The data set's place, as messages name it."""
    most_held: int
    """Shards that one reader may hold at once."""
    in_parts: bool
    """Whether rows may come without the rest of their shard."""

    def covering(self, rows: ShardRows) -> ShardRows:
        """The rows that come together with these: what `hold` and `ahead` take."""

    def hold(self, rows: ShardRows) -> Path:
        """A tar that holds just these rows, which stays until it is released.

        Raises:
            ShardError, StoreError: it is not there, cannot be had, or is not what the manifest says.
            ConfigError: the cache is too small.
        """

    def release(self, rows: ShardRows) -> None:
        """Lets go of rows held before, as often as they were held."""

    def ahead(self, wanted: Sequence[ShardRows]) -> None:
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

    in_parts = False
    _verified: ClassVar[set[tuple[Path, str]]] = set()

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.place = str(folder)
        self.most_held = OPEN_SHARDS
        self._folder = folder
        self._verify = verify

    def covering(self, rows: ShardRows) -> ShardRows:
        """The whole shard: it is there."""
        return ShardRows.all_of(rows.shard)

    def hold(self, rows: ShardRows) -> Path:
        """The shard's file, its checksum compared when it is first held."""
        shard = rows.shard
        known = self._folder / shard.file, shard.sha256
        if self._verify and shard.sha256 and known not in self._verified:
            verify_shard(self._folder, shard)
            self._verified.add(known)
        return self._folder / shard.file

    def release(self, rows: ShardRows) -> None:
        """Nothing to let go of."""

    def ahead(self, wanted: Sequence[ShardRows]) -> None:
        """Nothing to fetch: the kernel reads ahead."""

    def health(self) -> Loading:
        """All zero: nothing is fetched."""
        return Loading()

    def close(self) -> None:
        """Nothing under way."""
