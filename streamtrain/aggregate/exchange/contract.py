"""The exchange: where the workers' contributions meet and become one update.

A worker fills the slots of the lanes it hosts, then calls ``meet`` once a step. What differs between
exchanges is how the slots reach the aggregators; the sums, their order and the update do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from streamtrain.aggregate.state import DeviceSlot, Slot, State
from streamtrain.values import Norms, Update


@dataclass(frozen=True)
class Pending:
    """An update whose numbers are still on a device, as a tensor of shape (12,), float64."""

    step: int
    rate: float
    numbers: torch.Tensor
    norms: Norms | None


class Exchange(Protocol):
    """See the module. One object in each worker."""

    @property
    def step(self) -> int:
        """Updates in the current state, the same in all workers between two meetings."""

    @property
    def state(self) -> State:
        """The current state: nobody writes to it before the next `meet`."""

    def slot(self, lane: int) -> Slot | DeviceSlot:
        """Where the worker that hosts ``lane`` leaves its contribution before ``meet``.

        Asked once a step for each lane, in order, when the gradients of the lanes before are made.
        """

    def meet(self) -> Update | Pending:
        """Sums all lanes' slots, updates the other half of the state, and makes it the current one.

        Returns when the whole new state is there, momentum and buffers included, in every worker at once.

        Raises:
            NonFiniteError: the loss or the gradient; the state stays as it was.
            WorkerLost: a peer died or gave up; the state stays as it was.
        """

    def abandon(self) -> None:
        """This worker gives up; the others will raise `WorkerLost` instead of waiting for it."""
