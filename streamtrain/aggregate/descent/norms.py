"""Norms of a step, for the diagnostics: what the aggregators hold anyway, at every n-th step.

The gradient's are those of the pieces, which every step takes; the others cost a pass over their vectors, about
a tenth of a step of a small model.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import torch

from streamtrain.aggregate.descent.rules import Piece
from streamtrain.aggregate.state import DeviceSlot, Slot, State
from streamtrain.aggregate.vector import Layout
from streamtrain.values import LayerNorms, Norms


class StepNorms:
    """See the module.

    Args:
        layout: of the model.
        pieces: all of them; none spans two parameters.
        every: steps from one step with norms to the next; 0 for never.
    """

    def __init__(self, layout: Layout, pieces: Sequence[Piece], every: int) -> None:
        self._layout, self._every = layout, every
        starts = [place.start for place in layout.parameters]
        self._owners = [bisect_right(starts, piece.start) - 1 for piece in pieces]

    def due(self, step: int) -> bool:
        """Whether this step is to have norms."""
        return self._every > 0 and (step + 1) % self._every == 0

    def note(self, step: int, slots: Iterable[Slot | DeviceSlot]) -> None:
        """Leaves the squared norms of lanes' summed gradients in their slots; by the worker that filled them."""
        if self.due(step):
            for slot in slots:
                slot.squared_norm[0] = float(torch.linalg.vector_norm(slot.gradient).square())

    def of_lanes(self, step: int, slots: Sequence[Slot | DeviceSlot]) -> tuple[tuple[int, float], ...]:
        """Examples, and squared norm of the mean gradient, of every lane that has examples; empty if not due."""
        if not self.due(step):
            return ()
        rows = [(int(slot.moments[0]), float(slot.squared_norm[0])) for slot in slots]
        return tuple((examples, squared / examples**2) for examples, squared in rows if examples)

    def whole(self, lanes: tuple[tuple[int, float], ...], pieces: Sequence[float], old: State, new: State) -> Norms:
        """The step's.

        Args:
            lanes: from `of_lanes`.
            pieces: the mean gradient's squared norms, as `Aggregator.clip` wrote them; those before it are taken.
            old, new: whole states before and after the update.
        """
        gradients: list[list[float]] = [[] for _ in self._layout.parameters]
        for owner, squared in zip(self._owners, pieces[::2], strict=True):
            gradients[owner].append(squared)
        layers = {}
        for place, squares in zip(self._layout.parameters, gradients, strict=True):
            before, after = (state.parameters[place.start : place.stop] for state in (old, new))
            layers[place.name] = LayerNorms(math.fsum(squares), _squared_norm(before), _squared_norm(after - before))
        return Norms(lanes, layers)


def _squared_norm(part: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(part)) ** 2
