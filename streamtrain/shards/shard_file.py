"""One shard on its way: counts examples and classes, and notes where every member lies."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.index import LARGE, ShardIndex, index_name, write_index
from streamtrain.shards.shard import BLOCK, END, Content, ShardWriter
from streamtrain.shards.shard_list import Shard
from streamtrain.store import PARTIAL


class ShardFile:
    """Writes the shard ``name`` of the data set in ``folder``; it appears whole or not at all, with its index.

    Samples that differ in size need an index, and large shards, so that a part can be had of them. Until it is
    whole, the shard lies in ``unfinished``.
    """

    def __init__(self, folder: Path, name: str, unfinished: Path) -> None:
        self._folder = folder
        self._name = name
        self._partial = unfinished / f".{name.replace('/', '-')}.{secrets.token_hex(4)}{PARTIAL}"
        self._tar = ShardWriter(self._partial)
        self._keys: list[str] = []
        self._extensions: tuple[str, ...] = ()
        self._places: list[tuple[int, int]] = []
        self._stride = 0
        self._block = 1
        self.examples = 0
        self.classes: Counter[int] = Counter()

    def sample(self, key: str, members: Mapping[str, Content], examples: int = 1) -> None:
        """The next sample, which holds so many examples."""
        self._extensions = self._extensions or tuple(sorted(members))
        at = self._tar.bytes - len(END)
        for extension in self._extensions:
            size = len(members[extension])
            self._places.append((at + BLOCK, size))
            at += BLOCK + size + -size % BLOCK
        self._block = self._block if self._keys else examples
        self._keys.append(key)
        self._tar.write(key, members)
        self.examples += examples

    def table(self, samples: NDArray[np.uint8]) -> None:
        """Further samples of one example each, laid out as rows."""
        self._tar.append(samples.reshape(-1).data)
        self._stride = samples.shape[1]
        self.examples += len(samples)

    def count(self, labels: NDArray[Any] | Iterable[int]) -> None:
        """Counts classes of examples."""
        if isinstance(labels, np.ndarray):
            values, counts = np.unique(labels, return_counts=True)
            self.classes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        else:
            self.classes.update(labels)

    def discard(self) -> None:
        """Leaves nothing of a shard that will not be finished."""
        self._tar.discard()
        self._partial.unlink(missing_ok=True)

    def close(self, first_key: str, last_key: str) -> Shard:
        """Ends the shard; its entry in the manifest."""
        done = self._tar.close(self._name)
        index = self._index(done)
        if index is not None:
            write_index(self._folder / index_name(self._name), index)
        self._partial.rename(self._folder / self._name)
        return Shard(self._name, self.examples, done.bytes, done.sha256, first_key, last_key)

    def _index(self, done: Shard) -> ShardIndex | None:
        """What the shard needs, if anything."""
        places = np.array(self._places, np.int64).reshape(len(self._keys), len(self._extensions), 2)
        starts, sizes = places[:, :, 0], places[:, :, 1]
        keys = np.array([key.encode() for key in self._keys], np.bytes_)
        sums = np.array(self._tar.sums if done.bytes >= LARGE else (), np.uint32)
        piece = self._tar.piece
        alike = sizes if self.examples == len(self._keys) else sizes[:-1]  # the last block may be shorter
        if (alike != sizes[:1]).any():
            block = self._block
            known = done.bytes, done.sha256
            return ShardIndex(keys, self._extensions, starts, sizes, *known, block=block, sums=sums, piece=piece)
        if not len(sums):
            return None
        stride = self._stride or (int(starts[1, 0] - starts[0, 0]) if len(starts) > 1 else done.bytes - len(END))
        return ShardIndex(
            keys[:0], (), starts[:0, :0], sizes[:0, :0], done.bytes, done.sha256, stride, self._block, sums, piece
        )
