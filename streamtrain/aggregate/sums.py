"""Squared norms of a step's vectors, taken block by block while the exchange has the block in its hands anyway.

Rows are fixed segments of the vector, cut at chunk borders and at parameters, so the sums have the same bits
for any number of workers. A pass over a block's four vectors costs about a tenth of a step of a small model;
the exchange therefore takes them at every n-th step only.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import torch

from streamtrain.aggregate.vector import Layout
from streamtrain.values import LayerNorms, Norms

COLUMNS = 3
"""Beside one a lane: the mean gradient, the parameters before the update, the update."""


def segments(layout: Layout, borders: Iterable[int]) -> list[tuple[int, int, int]]:
    """(start, stop, parameter) of every row: each parameter, cut at ``borders``."""
    cuts = sorted(borders)
    rows = []
    for number, place in enumerate(layout.parameters):
        inside = [cut for cut in cuts if place.start < cut < place.stop]
        ends = [place.start, *inside, place.stop]
        rows += [(start, stop, number) for start, stop in itertools.pairwise(ends)]
    return rows


class Sums:
    """See the module. Each worker fills the rows of its own blocks; any of them then reads all.

    Args:
        layout: of the model.
        rows: from `segments`.
        table: float64, shape (rows, lanes + `COLUMNS`), shared by all workers.
    """

    def __init__(self, layout: Layout, rows: list[tuple[int, int, int]], table: torch.Tensor) -> None:
        self._layout, self._rows, self._table = layout, rows, table.numpy()
        self._starts = [start for start, _, _ in rows]
        self._lanes = table.shape[1] - COLUMNS

    def take_gradients(self, block: slice, lanes: Sequence[torch.Tensor], mean: torch.Tensor) -> None:
        """Notes one block of every lane's summed gradient, and of the mean gradient before it is clipped."""
        for row, inside in self._of(block):
            for column, gradient in enumerate((*lanes, mean)):
                self._table[row, column] = _squared_norm(gradient[inside])

    def take_update(self, block: slice, old: torch.Tensor, new: torch.Tensor) -> None:
        """Notes one block of the parameters before the update, and of their change."""
        for row, inside in self._of(block):
            self._table[row, self._lanes + 1] = _squared_norm(old[inside])
            self._table[row, self._lanes + 2] = _squared_norm(new[inside] - old[inside])

    def norms(self, examples: Sequence[int]) -> Norms:
        """The whole step's, once all rows are filled.

        Args:
            examples: of each lane; lanes without any are left out.
        """
        columns = self._table[:, : self._lanes].T.tolist()
        lanes = tuple((n, math.fsum(c) / n**2) for n, c in zip(examples, columns, strict=True) if n)
        by_layer: list[list[list[float]]] = [[] for _ in self._layout.parameters]
        for (_, _, number), row in zip(self._rows, self._table[:, self._lanes :].tolist(), strict=True):
            by_layer[number].append(row)
        layers = {
            place.name: LayerNorms(*map(math.fsum, zip(*rows, strict=True)))
            for place, rows in zip(self._layout.parameters, by_layer, strict=True)
        }
        return Norms(lanes, layers)

    def _of(self, block: slice) -> list[tuple[int, slice]]:
        """Rows in a block, each with its place in the block's own tensors."""
        first, last = bisect_left(self._starts, block.start), bisect_left(self._starts, block.stop)
        return [
            (row, slice(self._rows[row][0] - block.start, self._rows[row][1] - block.start))
            for row in range(first, last)
        ]


def _squared_norm(part: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(part)) ** 2
