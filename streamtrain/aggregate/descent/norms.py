"""Norms of a step, for the diagnostics: what the aggregators hold anyway, at every n-th step.

The gradient's are those of the pieces, which every step takes; so are the others made of pieces', each by the worker
whose share it is. They cost about a twentieth of a step of a small model.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.clip import squared_norm
from streamtrain.aggregate.descent.rules import Block, Piece
from streamtrain.aggregate.moments import lane_weights
from streamtrain.aggregate.state import PARAMETERS, DeviceSlot, Slot, State
from streamtrain.aggregate.vector import Layout
from streamtrain.order import lane_seed
from streamtrain.values import LayerNorms, Norms, Update

LaneNorms = tuple[tuple[float, float], ...]
LONGEST = 2**22
"""Elements that are added up in their own type; more than it can count would be lost in their sum."""
Numbers = NDArray[np.float64] | torch.Tensor


@functools.lru_cache(maxsize=8)
def _drawn(block: int, every: int) -> int:
    """Which step of a block of ``every`` has norms."""
    return lane_seed(every, block, 0) % every


class StepNorms:
    """Takes the norms of some of the steps.

    Args:
        layout: of the model.
        pieces: all of them; none spans two parameters.
        every: steps of a block, of which one has norms; 0 for never.

    Attributes:
        every: the same; may change between two steps, for all workers alike.
    """

    def __init__(self, layout: Layout, pieces: Sequence[Piece], every: int) -> None:
        self._names = [place.name for place in layout.parameters]
        self.every = every
        starts = [place.start for place in layout.parameters]
        self._owners = np.array([bisect_right(starts, piece.start) - 1 for piece in pieces])

    def is_due(self, step: int) -> bool:
        """Whether this step is to have norms: one of every block, drawn by arithmetic, the same for all workers.

        A fixed one would meet the same few minibatches for ever where ``every`` shares a factor with a pass's steps.
        """
        return self.every > 0 and step % self.every == _drawn(step // self.every, self.every)

    def note_lanes(self, step: int, slots: Iterable[Slot | DeviceSlot]) -> None:
        """Leaves the squared norms of lanes' summed gradients in their slots; by the worker that filled them."""
        if self.is_due(step):
            for slot in slots:
                parts = torch.split(slot.gradient, LONGEST)
                slot.squared_norm[0] = sum(map(squared_norm, parts))

    def read_lanes(self, step: int, slots: Sequence[Slot | DeviceSlot]) -> LaneNorms:
        """Examples, and squared norm of the mean gradient, of every lane that has examples; empty if not due.

        Where examples are weighted, a lane has as many of average weight as it weighs.
        """
        if not self.is_due(step):
            return ()
        rows = zip(lane_weights(slots), (float(slot.squared_norm[0]) for slot in slots), strict=True)
        return tuple((examples, squared / weight**2) for (examples, weight), squared in rows if weight)

    @staticmethod
    def note_change(block: Block, old: State, new: State, spare: torch.Tensor, changes: NDArray[np.float64]) -> None:
        """Leaves a block's squared norms in ``changes``; just after its update, while it is in the core's cache.

        Args:
            old, new: the states before and after it.
            spare: memory of the block's size, which is written.
            changes: two numbers for each `Piece`: of the parameters before the update, and of their change.
        """
        before = old.at(block.place)[PARAMETERS]
        torch.sub(new.at(block.place)[PARAMETERS], before, out=spare)
        first = 2 * block.first
        end = 2 * (block.first + len(block.pieces))
        changes[first:end:2] = [squared_norm(part) for part in torch.split_with_sizes(before, block.sizes)]
        changes[first + 1 : end : 2] = [squared_norm(part) for part in torch.split_with_sizes(spare, block.sizes)]

    def add_to(self, update: Update, lanes: LaneNorms, norms: Numbers, changes: Numbers) -> Update:
        """The update with its norms, where ``lanes`` has some and it was not skipped; the rest as in `gather`."""
        return replace(update, norms=self.gather(lanes, norms, changes)) if lanes and not update.skipped else update

    def gather(self, lanes: LaneNorms, norms: Numbers, changes: Numbers) -> Norms:
        """The step's.

        Args:
            lanes: from `read_lanes`.
            norms: the mean gradient's squared norms, as `Aggregator.clip` wrote them; those before it are taken.
            changes: as `note_change` wrote them, of all blocks.
        """
        found = changes.tolist()
        rows = norms.tolist()[::2], found[::2], found[1::2]
        sums = (np.bincount(self._owners, row, len(self._names)).tolist() for row in rows)  # in the pieces' order
        return Norms(lanes, dict(zip(self._names, map(LayerNorms, *sums), strict=True)))
