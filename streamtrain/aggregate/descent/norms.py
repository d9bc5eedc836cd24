"""Norms of a step, at every n-th: what the aggregators hold anyway, for the diagnostics and a batch that grows.

The gradient's are those of the pieces, which every step takes; so are the others made of pieces', each by the worker
whose share it is. They cost about a twentieth of a step of a small model. Those in the optimizer's own norm are weighed
by the state before the update, which every worker has.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
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
from streamtrain.values import LayerNorms, Norms, OwnNorms, Update

LaneNorms = tuple[tuple[float, float, float], ...]
"""Of every lane that has examples: their number, and squared norms of its mean gradient, Euclidean and own."""
CHANGES = 3
"""Squared norms of a piece: of its parameters, of their change, and of the mean gradient in the own norm."""
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
        own_every: the same for those in the optimizer's own norm.

    Attributes:
        every: as given; may change between two steps, for all workers alike.
    """

    def __init__(self, layout: Layout, pieces: Sequence[Piece], every: int, own_every: int = 0) -> None:
        self._names = [place.name for place in layout.parameters]
        self._pieces = pieces
        self.every = every
        self._own_every = own_every
        self._starts = [place.start for place in layout.parameters]
        self._owners = np.array([bisect_right(self._starts, piece.start) - 1 for piece in pieces])

    def is_due(self, step: int) -> bool:
        """Whether this step is to have norms of any kind."""
        return self.is_shown(step) or self.is_weighed(step)

    def is_shown(self, step: int) -> bool:
        """Whether this step is to have norms: one of every block, drawn by arithmetic, the same for all workers.

        A fixed one would meet the same few minibatches for ever where ``every`` shares a factor with a pass's steps.
        """
        return self.every > 0 and step % self.every == _drawn(step // self.every, self.every)

    def is_weighed(self, step: int) -> bool:
        """Whether it is to have norms in the optimizer's own norm."""
        return self._own_every > 0 and step % self._own_every == _drawn(step // self._own_every, self._own_every)

    def note_lanes(self, step: int, slots: Sequence[Slot | DeviceSlot], state: State) -> None:
        """Leaves the squared norms of lanes' summed gradients in their slots; by the worker that filled them.

        Args:
            state: before the update.
        """
        if self.is_shown(step):
            for slot in slots:
                parts = torch.split(slot.gradient, LONGEST)
                slot.squared_norms[0] = sum(map(squared_norm, parts))
        if self.is_weighed(step):
            sums = [0.0] * len(slots)
            for piece, weights in self._weights(self._pieces, state):
                for lane, slot in enumerate(slots):
                    sums[lane] += _weighed(piece, slot.gradient[piece.place], weights)
            for slot, found in zip(slots, sums, strict=True):
                slot.squared_norms[1] = found

    def read_lanes(self, step: int, slots: Sequence[Slot | DeviceSlot]) -> LaneNorms:
        """What `note_lanes` has left of every lane that has examples; empty if nothing is due.

        Where examples are weighted, a lane has as many of average weight as it weighs.
        """
        if not self.is_due(step):
            return ()
        rows = zip(lane_weights(slots), (tuple(map(float, slot.squared_norms)) for slot in slots), strict=True)
        return tuple((n, norms[0] / weight**2, norms[1] / weight**2) for (n, weight), norms in rows if weight)

    @staticmethod
    def note_change(block: Block, old: State, new: State, spare: torch.Tensor, changes: NDArray[np.float64]) -> None:
        """Leaves a block's squared norms in ``changes``; just after its update, while it is in the core's cache.

        Args:
            old, new: the states before and after it.
            spare: memory of the block's size, which is written.
            changes: `CHANGES` numbers for each `Piece`; of the parameters before the update and of their change now.
        """
        before = old.at(block.place)[PARAMETERS]
        torch.sub(new.at(block.place)[PARAMETERS], before, out=spare)
        first, end = change_span(block)
        changes[first:end:CHANGES] = [squared_norm(part) for part in torch.split_with_sizes(before, block.sizes)]
        changes[first + 1 : end : CHANGES] = [squared_norm(part) for part in torch.split_with_sizes(spare, block.sizes)]

    def note_own(self, block: Block, mean: torch.Tensor, old: State, changes: Numbers) -> None:
        """Leaves the squared own norms of a block's pieces in ``changes``; before its mean gradient is clipped."""
        for at, (piece, weights) in enumerate(self._weights(block.pieces, old), block.first):
            inside = mean[piece.start - block.place.start : piece.stop - block.place.start]
            changes[CHANGES * at + 2] = _weighed(piece, inside, weights)

    def add_to(self, update: Update, lanes: LaneNorms, norms: Numbers, changes: Numbers) -> Update:
        """The update with its norms, where ``lanes`` has some and it was not skipped; the rest as in `gather`."""
        if not lanes or update.skipped:
            return update
        shown, own = self.gather(update.step, lanes, norms, changes)
        return replace(update, norms=shown, own=own)

    def gather(
        self, step: int, lanes: LaneNorms, norms: Numbers, changes: Numbers
    ) -> tuple[Norms | None, OwnNorms | None]:
        """The step's, of either kind that is due.

        Args:
            lanes: from `read_lanes`.
            norms: the mean gradient's squared norms, as `Aggregator.clip` wrote them; those before it are taken.
            changes: as `note_change` and `note_own` wrote them, of all blocks.
        """
        found = changes.tolist()
        shown = own = None
        if self.is_shown(step):
            rows = norms.tolist()[::2], found[::CHANGES], found[1::CHANGES]
            sums = (np.bincount(self._owners, row, len(self._names)).tolist() for row in rows)  # in the pieces' order
            layers = dict(zip(self._names, map(LayerNorms, *sums), strict=True))
            shown = Norms(tuple((examples, squared) for examples, squared, _ in lanes), layers)
        if self.is_weighed(step):
            whole = sum(found[2::CHANGES])
            own = OwnNorms(tuple((examples, weighed) for examples, _, weighed in lanes), whole)
        return shown, own

    def _weights(self, pieces: Sequence[Piece], state: State) -> Iterator[tuple[Piece, torch.Tensor | None]]:
        """Each piece with the weights of its elements; ``None`` where all are 1."""
        uses = state.uses.tolist()
        for piece in pieces:
            owner = bisect_right(self._starts, piece.start) - 1
            yield piece, piece.rule.optimizer.norm_weights(state.at(piece.place), uses[owner])


def change_span(block: Block) -> tuple[int, int]:
    """Where the numbers of a block's pieces lie in ``changes``."""
    return CHANGES * block.first, CHANGES * (block.first + len(block.pieces))


def _weighed(piece: Piece, gradient: torch.Tensor, weights: torch.Tensor | None) -> float:
    """``Σ w·g²`` times the factor of the piece's rate; in float64 where that overflows."""
    if weights is None:
        return piece.rule.lr_factor * squared_norm(gradient)
    found = float(torch.dot(gradient * weights, gradient))
    if math.isinf(found):
        found = float(torch.dot(gradient.double() * weights, gradient.double()))
    return piece.rule.lr_factor * found
