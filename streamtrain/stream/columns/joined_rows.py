"""The open shards of several data sets, numbered as those of one: part after part."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError
from streamtrain.shards.manifest import Field, Manifest
from streamtrain.stream.columns.open_rows import OpenRows
from streamtrain.stream.columns.open_shard import OpenShard
from streamtrain.stream.fetch.mixed_files import MixedFiles
from streamtrain.stream.fetch.shard_files import ShardFiles

Run = tuple[int, int]


class JoinedRows:
    """As `OpenRows`, over one for each part.

    Args:
        fields: that are read; how each is stored may differ from part to part.
    """

    def __init__(self, files: MixedFiles, split: str, fields: Sequence[Field]) -> None:
        self._parts = []
        shards, examples = [0], [0]
        for part, manifest in files.parts:
            own = [found for found in (manifest.field_named(field.name) for field in fields) if found is not None]
            self._parts.append(OpenRows(part, manifest, split, own))
            shards.append(len(manifest.splits[split].shards))
            examples.append(manifest.splits[split].examples)
        self._first_shards = list(itertools.accumulate(shards))
        self._first_examples = list(itertools.accumulate(examples))
        self.wanted: list[Run] = []

    def expect(self, runs: list[Run]) -> None:
        """Says that only these examples will be read; that changes nothing where shards lie in folders."""
        self.wanted = runs

    def follow(self, selections: object) -> None:
        """Says which selections come; that changes nothing where shards lie in folders."""

    def apart(
        self, numbers: NDArray[np.int64], good: NDArray[np.int64], *, followed: bool = False
    ) -> Iterator[tuple[int, NDArray[np.int64], int, OpenShard]]:
        """See `OpenRows.apart`."""
        part_of = np.searchsorted(self._first_examples, numbers, "right") - 1
        for part in np.unique(part_of[good]).tolist():
            before, shard = self._first_examples[part], self._first_shards[part]
            chosen = good[part_of[good] == part]
            for index, at, begin, opened in self._parts[part].apart(numbers - before, chosen, followed=followed):
                yield shard + index, at, before + begin, opened

    def extend(self, shards: object) -> None:
        """Not known of mixtures."""
        raise ConfigError(f"a mixture does not grow: {shards}")

    def find(self, index: int, first: int, last: int) -> tuple[int, int, OpenShard]:
        """What is open with the rows ``[first, last)`` of a shard in it: its examples' begin and end, and columns."""
        part = self._part(index)
        begin, end, opened = self._parts[part].find(index - self._first_shards[part], first, last)
        before = self._first_examples[part]
        return before + begin, before + end, opened

    def where(self, index: int) -> str:
        """A shard as messages name it."""
        part = self._part(index)
        return self._parts[part].where(index - self._first_shards[part])

    def _part(self, index: int) -> int:
        return bisect.bisect_right(self._first_shards, index) - 1


def rows_of(files: ShardFiles, manifest: Manifest, split: str, fields: Sequence[Field]) -> OpenRows | JoinedRows:
    """The open shards of a split, of one data set or of a mixture's."""
    return (
        JoinedRows(files, split, fields) if isinstance(files, MixedFiles) else OpenRows(files, manifest, split, fields)
    )
