"""Means and deviations of a table's columns over the training split, from the shards as they were written.

Block by block in stored order, so that they are the same bits for any number of tasks and any memory. Costs one
reading of the fields that hold columns, which lie in the page cache still. The means that stand for missing values
have to be known before that, and come from the sorted runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.packing.shuffling.runs.sorted_runs import PIECE_BYTES, Runs
from streamtrain.shards.codec import read_npy
from streamtrain.shards.manifest import ColumnMoments, Field
from streamtrain.shards.shard import examples
from streamtrain.values import Moments

AT_ONCE = 4096
"""Examples that are summed together where each is a sample of its own."""


def column_moments(folder: Path, shards: Sequence[str], fields: Sequence[Field]) -> dict[str, ColumnMoments]:
    """Of every field that holds columns side by side, by its name."""
    chosen = [field for field in fields if field.columns is not None]
    totals = {field.name: [_Total() for _ in field.columns or ()] for field in chosen}
    if chosen:
        for name in shards:
            _add_shard(folder / name, chosen, totals)
    return {name: tuple(total.found for total in found) for name, found in totals.items()}


def training_means(
    runs: Runs, name: str, row_type: np.dtype[Any], entries: Sequence[int], examples: int
) -> NDArray[np.float64]:
    """The mean of some entries of a field over the first ``examples`` of the stored order, without NaN; NaN of none.

    Every sum is the exact one of a stretch of the stored order, rounded once.
    """
    sums: list[list[float]] = [[] for _ in entries]
    counts = [0] * len(entries)
    step = max(1, PIECE_BYTES // row_type.itemsize)
    for start in range(0, examples, step):
        rows = runs.window(start, min(start + step, examples)).column(name, row_type)
        for number, column in enumerate(rows.reshape(len(rows), -1)[:, list(entries)].T):
            there = column[~np.isnan(column)].astype(np.float64)
            counts[number] += len(there)
            sums[number].append(math.fsum(there.tolist()))
    pairs = zip(sums, counts, strict=True)
    return np.array([math.fsum(parts) / count if count else math.nan for parts, count in pairs])


def joined_moments(one: ColumnMoments | None, other: ColumnMoments | None) -> ColumnMoments | None:
    """Of two segments together."""
    if one is None or other is None:
        return one if other is None else other
    sums = [_moments(*a) + _moments(*b) for a, b in zip(one, other, strict=True)]
    return tuple((m.count, m.mean, _deviation(m)) for m in sums)


class _Total:
    """Of one column, about its first value: far from 0, numbers would lose the digits in which they differ."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._moments = Moments()

    def add(self, values: NDArray[np.float64]) -> None:
        """Further values; those that are missing do not count."""
        there = values[~np.isnan(values)]
        if len(there):
            self._first = float(there[0]) if self._first is None else self._first
            self._moments += Moments.of(there - self._first)

    @property
    def found(self) -> tuple[int, float, float]:
        """Count, mean and deviation."""
        return self._moments.count, (self._first or 0.0) + self._moments.mean, _deviation(self._moments)


def _add_shard(file: Path, fields: Sequence[Field], totals: Mapping[str, list[_Total]]) -> None:
    held: dict[str, list[NDArray[np.generic]]] = {field.name: [] for field in fields}
    with file.open("rb") as opened:
        for _, members in examples(file):
            for field in fields:
                start, size = members[field.member]
                opened.seek(start)
                values = read_npy(opened.read(size))
                if values.ndim == 2:
                    _add(values, totals[field.name])
                    continue
                held[field.name].append(values)
                if len(held[field.name]) == AT_ONCE:
                    _add(np.stack(held[field.name]), totals[field.name])
                    held[field.name].clear()
    for name, left in held.items():
        if left:
            _add(np.stack(left), totals[name])


def _add(values: NDArray[np.generic], totals: list[_Total]) -> None:
    """Rows of all columns."""
    for number, total in enumerate(totals):
        total.add(np.asarray(values[:, number], np.float64))


def _moments(count: int, mean: float, deviation: float) -> Moments:
    return Moments(count, mean, deviation * deviation * max(0, count - 1))


def _deviation(moments: Moments) -> float:
    """The sample's; 0 where it has less than two values."""
    return math.sqrt(moments.variance) if moments.count > 1 else 0.0
