"""The tensors that a step reads and writes: a run's `State` and every lane's `Slot`, as views of memory."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True)
class State:
    """What an update changes.

    Attributes:
        parameters, momentum: flat vectors in the `Layout`'s order.
        average: the parameters' exponential moving average; empty where none is kept.
        buffers, counters: the model's floating-point buffers (float64) and its others (int64).
        uses: updates that each parameter had, int64.
    """

    parameters: torch.Tensor
    momentum: torch.Tensor
    average: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    uses: torch.Tensor

    @property
    def evaluated(self) -> torch.Tensor:
        """The parameters that are measured and returned: the average, where one is kept."""
        return self.average if len(self.average) else self.parameters


STATE_PARTS = tuple(field.name for field in fields(State))


@dataclass(frozen=True)
class Slot:
    """Where one lane's worker leaves its contribution.

    ``gradient`` is the sum over the lane's examples; ``used[i]`` is 1 where parameter ``i`` has one;
    ``moments`` is (count, mean, m2) of the losses, then of the errors; ``squared_norm`` is the gradient's,
    at the steps that the diagnostics ask for it.
    """

    gradient: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    used: torch.Tensor
    moments: torch.Tensor
    squared_norm: torch.Tensor
