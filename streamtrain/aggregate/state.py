"""The tensors that a step reads and writes: a run's `State` and every lane's `Slot`, as views of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent import scaler
from streamtrain.aggregate.vector import Layout, write

Vectors = dict[str, torch.Tensor]
"""Flat vectors in the `Layout`'s order, or the same elements of each, by name."""
PARAMETERS, AVERAGE, NUMBERS = "parameters", "average", "numbers"
"""Vectors of any optimizer's state, the second where an average is kept, the others are the optimizer's own; and the
part for what an optimizer of a whole model keeps beside them."""


@dataclass(frozen=True)
class State:
    """What an update changes.

    Attributes:
        vectors: the parameters, what the optimizer keeps of each, and their exponential moving average, by name.
        buffers, counters: the model's floating-point buffers (float64) and its others (int64).
        uses: updates that each parameter had, int64.
        put_back: parts that the next minibatch offers again, (1 + step, lane) each, zeros where there is none; int64.
        scaler: see `descent.scaler`; zeros where losses are not scaled.
        averaged: updates that the average has taken in, shape (1,), int64; (0,) where none is kept.
        numbers: what the optimizer keeps beside its vectors, float64; mostly none.
    """

    vectors: Vectors
    buffers: torch.Tensor
    counters: torch.Tensor
    uses: torch.Tensor
    put_back: torch.Tensor
    scaler: torch.Tensor
    averaged: torch.Tensor
    numbers: torch.Tensor
    _views: dict[tuple[int, int], Vectors] = field(init=False, repr=False, compare=False, default_factory=dict)

    @classmethod
    def of_parts(cls, parts: Mapping[str, torch.Tensor]) -> State:
        """The state whose `parts` these are."""
        others = {name: parts[name] for name in PARTS}
        return cls({name: part for name, part in parts.items() if name not in others}, **others)

    @property
    def parts(self) -> Vectors:
        """All tensors by name, the vectors first."""
        return self.vectors | {name: getattr(self, name) for name in PARTS}

    @property
    def parameters(self) -> torch.Tensor:
        """The parameters' vector."""
        return self.vectors[PARAMETERS]

    @property
    def evaluated(self) -> torch.Tensor:
        """The parameters that are measured and returned: the average, where one is kept."""
        return self.vectors.get(AVERAGE, self.parameters)

    def at(self, place: slice) -> Vectors:
        """Views of the vectors' elements at ``place``, made once for each place."""
        key = place.start, place.stop
        if key not in self._views:
            self._views[key] = {name: vector[place] for name, vector in self.vectors.items()}
        return self._views[key]

    def begin(self, layout: Layout, tensors: Mapping[str, torch.Tensor], *, scaled: bool) -> None:
        """Makes this the state before the first update.

        Args:
            tensors: the model's parameters and buffers, by name.
            scaled: whether losses are scaled.
        """
        write(layout.parameters, tensors, self.parameters)
        for name, vector in self.vectors.items():
            if name == AVERAGE:
                vector.copy_(self.parameters)
            elif name != PARAMETERS:
                vector.zero_()
        write(layout.buffers, tensors, self.buffers)
        write(layout.counters, tensors, self.counters)
        self.uses.zero_()
        self.put_back.zero_()
        self.scaler.zero_()
        self.averaged.zero_()
        self.numbers.zero_()
        if scaled:
            self.scaler[0] = scaler.FIRST

    def copy_from(self, other: State) -> None:
        """Takes all of another state's values."""
        theirs = other.parts
        for name, part in self.parts.items():
            part.copy_(theirs[name])


PARTS = tuple(each.name for each in fields(State) if each.init and each.name != "vectors")
"""What a state has beside its vectors."""


@dataclass(frozen=True)
class DeviceSlot:
    """A `Slot` all of which is on one device, as tensors of the same shapes and types."""

    gradient: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    used: torch.Tensor
    moments: torch.Tensor
    squared_norms: torch.Tensor
    adds: bool = False
    waits: bool = False
    lefts: tuple[torch.Tensor, ...] = ()
    early: bool = False


@dataclass(frozen=True)
class Slot:
    """Where one lane's worker leaves its contribution.

    ``gradient`` is the sum over the lane's examples; ``used[i]`` is 1 where parameter ``i`` has one;
    ``moments`` are those of the losses, then of the errors, see `moments`; ``squared_norms`` are the gradient's,
    Euclidean and in the optimizer's own norm, at the steps that ask for them. All but the gradient are in the host's
    memory.
    A slot that ``waits`` keeps its gradient for the next lane's, its sibling, which ``adds`` to it. The sum, or the
    lane's gradient, is added to each of ``lefts``, vectors with the sums of lanes before, one after the other; only
    the last sum is written, to ``gradient``, which is the last of ``lefts``. With ``early`` each parameter's gradient
    may be taken while backward makes those of others: nobody else listens to it.
    """

    gradient: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    used: NDArray[np.uint8]
    moments: NDArray[np.float64]
    squared_norms: NDArray[np.float64]
    adds: bool = False
    waits: bool = False
    lefts: tuple[torch.Tensor, ...] = ()
    early: bool = False
