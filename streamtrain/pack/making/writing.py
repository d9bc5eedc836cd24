"""Samples in stored order to the shards of one split, each with its index where its samples differ in size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamtrain.pack.index import ShardIndex, index_name, write_index
from streamtrain.pack.making.options import PackOptions
from streamtrain.pack.manifest import Split
from streamtrain.pack.shard import BLOCK, ShardWriter
from streamtrain.pack.shard_list import Shard, ShardList, shard_name


@dataclass(frozen=True)
class Sample:
    """One sample of a tar: one example, or a block of them.

    Attributes:
        first_key, last_key: of its examples; the first is the sample's.
        examples: how many they are.
        members: extension -> content.
        labels: of its examples, where classes are counted.
    """

    first_key: str
    last_key: str
    examples: int
    members: Mapping[str, bytes]
    labels: tuple[int, ...] = ()


def write_split(
    folder: Path, split: str, samples: Iterable[Sample], options: PackOptions, *, first_shard: int = 0
) -> Split:
    """Writes the shards of a split, numbered from ``first_shard``; a shard ends where the options say."""
    classes: Counter[int] = Counter()
    shards = ShardList()
    writer: _Writer | None = None
    try:
        for sample in samples:
            if writer is not None and writer.full(sample, options):
                shards.append(writer.close())
                writer = None
            writer = writer or _Writer(folder, shard_name(split, first_shard + len(shards)))
            writer.write(sample)
            classes.update(sample.labels)
        if writer is not None:
            shards.append(writer.close())
    finally:
        if writer is not None:
            writer.discard()
    return Split(shards, dict(classes))


class _Writer:
    """One shard on its way: counts examples, and notes where every member lies."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._tar = ShardWriter(folder / name)
        self._examples = 0
        self._first_key = self._last_key = ""
        self._keys: list[str] = []
        self._extensions: tuple[str, ...] = ()
        self._starts: list[int] = []
        self._sizes: list[int] = []

    def full(self, sample: Sample, options: PackOptions) -> bool:
        """Whether the sample belongs to the next shard."""
        if options.shard_examples is not None:
            return self._examples >= options.shard_examples
        size = sum(BLOCK + len(data) + -len(data) % BLOCK for data in sample.members.values())
        return self._tar.bytes + size > options.shard_bytes

    def write(self, sample: Sample) -> None:
        """The next sample."""
        self._extensions = self._extensions or tuple(sorted(sample.members))
        at = self._tar.bytes - 2 * BLOCK
        for extension in self._extensions:
            size = len(sample.members[extension])
            self._starts.append(at + BLOCK)
            self._sizes.append(size)
            at += BLOCK + size + -size % BLOCK
        self._keys.append(sample.first_key)
        self._tar.write(sample.first_key, sample.members)
        self._first_key, self._last_key = self._first_key or sample.first_key, sample.last_key
        self._examples += sample.examples

    def discard(self) -> None:
        """Lets go of the file where it will not be finished; harmless after ``close``."""
        self._tar.discard()

    def close(self) -> Shard:
        """Ends the file; its entry in the manifest."""
        done = self._tar.close(self._name)
        sizes = np.array(self._sizes, np.int64).reshape(len(self._keys), -1)
        if self._examples == len(self._keys) and (sizes != sizes[0]).any():
            starts = np.array(self._starts, np.int64).reshape(sizes.shape)
            keys = np.array([key.encode() for key in self._keys], np.bytes_)
            index = ShardIndex(keys, self._extensions, starts, sizes, done.bytes, done.sha256)
            write_index(self._folder / index_name(self._name), index)
        return Shard(self._name, self._examples, done.bytes, done.sha256, self._first_key, self._last_key)
