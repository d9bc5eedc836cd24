"""The tensors that a step reads and writes: a run's `State` and every lane's `Slot`, as views of memory."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Vectors:
    """The vectors of a state at some of their elements."""

    parameters: torch.Tensor
    momentum: torch.Tensor
    average: torch.Tensor


@dataclass(frozen=True)
class State:
    """What an update changes.

    Attributes:
        parameters, momentum: flat vectors in the `Layout`'s order.
        average: the parameters' exponential moving average; empty where none is kept.
        buffers, counters: the model's floating-point buffers (float64) and its others (int64).
        uses: updates that each parameter had, int64.
        put_back: parts that the next minibatch offers again, (1 + step, lane) each, zeros where there is none; int64.
        scaler: see `descent.scaler`; zeros where losses are not scaled.
    """

    parameters: torch.Tensor
    momentum: torch.Tensor
    average: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    uses: torch.Tensor
    put_back: torch.Tensor
    scaler: torch.Tensor
    _views: dict[tuple[int, int], Vectors] = field(init=False, repr=False, compare=False, default_factory=dict)

    def at(self, place: slice) -> Vectors:
        """Views of the vectors' elements at ``place``, made once for each place."""
        key = place.start, place.stop
        if key not in self._views:
            self._views[key] = Vectors(self.parameters[place], self.momentum[place], self.average[place])
        return self._views[key]

    @property
    def evaluated(self) -> torch.Tensor:
        """The parameters that are measured and returned: the average, where one is kept."""
        return self.average if len(self.average) else self.parameters


@dataclass(frozen=True)
class DeviceSlot:
    """A `Slot` all of which is on one device, as tensors of the same shapes and types."""

    gradient: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    used: torch.Tensor
    moments: torch.Tensor
    squared_norm: torch.Tensor
    adds: bool = False
    waits: bool = False


STATE_PARTS = tuple(each.name for each in fields(State) if each.init)


@dataclass(frozen=True)
class Slot:
    """Where one lane's worker leaves its contribution.

    ``gradient`` is the sum over the lane's examples; ``used[i]`` is 1 where parameter ``i`` has one;
    ``moments`` is (count, mean, m2) of the losses, then of the errors; ``squared_norm`` is the gradient's,
    at the steps that the diagnostics ask for it. All but the gradient are in the host's memory.
    With ``adds`` the lane's gradient is added to what ``gradient`` holds: that of the lane before, its sibling.
    That one's slot ``waits``: what it is filled with may be kept until then, and only the sum be written.
    """

    gradient: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    used: NDArray[np.uint8]
    moments: NDArray[np.float64]
    squared_norm: NDArray[np.float64]
    adds: bool = False
    waits: bool = False
