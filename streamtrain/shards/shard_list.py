"""The shards of one split in stored order, as columns: a hundred thousand of them take some 30 MB and no time."""

from __future__ import annotations

import bisect
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from streamtrain.errors import ManifestError, complaint


def shard_name(split: str, number: int) -> str:
    """Where `pack` puts shard ``number`` of ``split``, relative to the data set's folder."""
    return f"{split}/{number:06d}.tar"


@dataclass(frozen=True)
class Shard:
    """One tar file: ``file`` is relative to the data set's folder, ``sha256`` is of the whole file.

    ``sha256`` is empty for a shard that `pack` did not write.
    """

    file: str
    examples: int
    bytes: int
    sha256: str
    first_key: str
    last_key: str


class ShardList(Sequence[Shard]):
    """See the module. Grows by ``append`` while it is made; finds an example's shard by bisection."""

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._split: str | None = None
        self._files: list[str] = []
        self._starts = array("q", [0])
        self._bytes = array("q")
        self._sha256: list[bytes] = []
        self._first_keys: list[str] = []
        self._last_keys: list[str] = []
        for shard in shards:
            self.append(shard)

    @classmethod
    def of_columns(
        cls,
        split: str,
        examples: Sequence[int],
        sizes: Sequence[int],
        sha256: list[bytes],
        first_keys: list[str],
        last_keys: list[str],
    ) -> ShardList:
        """The shards that `pack` wrote for ``split``.

        Raises:
            TypeError, ValueError, OverflowError: something else than counts, or keys that are not text.
        """
        if min(examples) < 0 or min(sizes) < 0:
            raise ValueError(f"{min(*examples, *sizes)} is not a count")
        if {type(key) for key in itertools.chain(first_keys, last_keys)} != {str}:
            raise TypeError("keys that are not text")
        shards = cls()
        shards._split = split
        shards._starts = array("q", itertools.accumulate(examples, initial=0))
        shards._bytes = array("q", sizes)
        shards._sha256 = sha256
        shards._first_keys = first_keys
        shards._last_keys = last_keys
        return shards

    def append(self, shard: Shard) -> None:
        """Adds the next shard of the stored order."""
        if self._split is not None:
            self._files = [shard_name(self._split, number) for number in range(len(self))]
            self._split = None
        self._files.append(shard.file)
        self._starts.append(self._starts[-1] + shard.examples)
        self._bytes.append(shard.bytes)
        self._sha256.append(bytes.fromhex(shard.sha256))
        self._first_keys.append(shard.first_key)
        self._last_keys.append(shard.last_key)

    def file(self, index: int) -> str:
        """Where shard ``index`` lies, relative to the data set's folder."""
        return self._files[index] if self._split is None else shard_name(self._split, index)

    def files(self) -> Iterator[str]:
        """Where each shard lies."""
        if self._split is None:
            return iter(self._files)
        return map((self._split + "/%06d.tar").__mod__, range(len(self)))

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each shard."""
        return self._bytes

    @property
    def examples(self) -> int:
        """Examples of all shards."""
        return self._starts[-1]

    def start(self, index: int) -> int:
        """The number in the stored order of shard ``index``'s first example; of the end, for ``len(self)``."""
        return self._starts[index]

    def holding(self, example: int) -> int:
        """The shard that holds example ``example`` of the stored order."""
        return bisect.bisect_right(self._starts, example) - 1

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first row, last row + 1) of every shard that the examples ``[start, stop)`` touch."""
        index = self.holding(start)
        while start < stop:
            begin, end = self._starts[index], self._starts[index + 1]
            if start < end:
                yield index, start - begin, min(stop, end) - begin
            start = max(start, min(stop, end))
            index = index + 1

    def __len__(self) -> int:
        return len(self._bytes)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, index: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(len(self))[index])
        index = range(len(self))[index]
        return Shard(
            self.file(index),
            self._starts[index + 1] - self._starts[index],
            self._bytes[index],
            self._sha256[index].hex(),
            self._first_keys[index],
            self._last_keys[index],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        shown = ", ".join(repr(shard) for shard in itertools.islice(self, 3))
        return f"ShardList({len(self)} shards: {shown}{', …' if len(self) > 3 else ''})"


def _same(one: object, other: object) -> bool:
    return one == other


def check_shard_sizes(opened: int, folder: Path, shards: ShardList) -> None:
    """Raises `ManifestError` for the first shard that is missing or of another size; ``opened``: the folder."""
    found: list[int] = []
    try:
        for name in shards.files():
            found.append(os.stat(name, dir_fd=opened).st_size)  # those before an error are wanted
    except OSError as error:
        where = str(folder / shards.file(len(found)))
        strange = (error.strerror or "an error").lower()
        do = "restore it or pack again"
        raise ManifestError(complaint(where, expected="a shard", found=strange, do=do)) from None
    for index, (size, expected) in enumerate(zip(found, shards.sizes, strict=True)):
        if size != expected:
            do = "it was cut short or altered: restore it or pack again"
            where = str(folder / shards.file(index))
            raise ManifestError(complaint(where, expected=f"{expected} bytes", found=f"{size}", do=do))
