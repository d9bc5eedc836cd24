"""The exchange: where the workers' contributions meet and become one update.

A worker fills the slots of the lanes it hosts, then calls ``meet`` once a step. What differs between
exchanges is how the slots reach the aggregators; the sums, their order and the update do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from streamtrain.aggregate.exchange.barrier import Barrier
from streamtrain.aggregate.state import DeviceSlot, Slot, State
from streamtrain.values import Norms, OwnNorms, Update


@dataclass(frozen=True)
class Pending:
    """An update whose numbers are still on a device, as a tensor of shape (2 · `moments.NUMBERS` + 6,), float64."""

    step: int
    rate: float
    numbers: torch.Tensor
    norms: Norms | None
    own: OwnNorms | None = None


class Exchange(ABC):
    """What every exchange is to its worker: a state in a double buffer, and a meeting that makes the next one.

    Args:
        words: of the memory; the first says how many updates are in the state.
        states: both halves; the current one is ``states[step % 2]``.
        barrier: where the workers who share the memory wait for each other.

    Attributes:
        apart_at: a step in which every lane's contribution is wanted by itself until ``meet``; -1 for none.
    """

    def __init__(self, words: memoryview, states: Sequence[State], barrier: Barrier) -> None:
        self._words = words
        self._states = states
        self._barrier = barrier
        self._step = int(words[0])
        self.apart_at = -1

    @property
    def step(self) -> int:
        """Updates in the current state, the same in all workers between two meetings."""
        return self._step

    @property
    def state(self) -> State:
        """The current state: nobody writes to it before the next `meet`."""
        return self._states[self._step % 2]

    @property
    def next_state(self) -> State:
        """The other half of the double buffer, into which `meet` writes; nobody reads it before it is current."""
        return self._states[1 - self._step % 2]

    @abstractmethod
    def slot(self, lane: int) -> Slot | DeviceSlot:
        """Where the worker that hosts ``lane`` leaves its contribution before ``meet``.

        Asked once a step for each lane, in order, when the gradients of the lanes before are made.
        """

    @abstractmethod
    def meet(self) -> Update | Pending:
        """Sums all lanes' slots, updates the other half of the state, and makes it the current one.

        Returns when the whole new state is there, momentum and buffers included, in every worker at once.

        Raises:
            NonFiniteError: the loss or the gradient; the state stays as it was.
            WorkerLost: a peer died or gave up; the state stays as it was.
        """

    @abstractmethod
    def gather(self, mine: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """What every lane gives, in lane order, the same in every worker; before the step's first `slot`.

        Args:
            mine: of each lane that this worker hosts, bytes: uint8 of shape (n,), of any n.

        Raises:
            WorkerLost: a peer died or gave up.
        """

    def abandon(self) -> None:
        """This worker gives up; the others will raise `WorkerLost` instead of waiting for it."""
        self._barrier.abandon()

    def _commit(self, *, writes: bool) -> None:
        """Makes the next state the current one: a step happens wholly or not at all (promise 6).

        Args:
            writes: whether this worker is the one of its memory that writes the word; the others only count.
        """
        self._step += 1
        if writes:
            self._words[0] = self._step


def gather_in_memory(
    slots: Sequence[Slot], gaps: torch.Tensor, barrier: Barrier, mine: Mapping[int, torch.Tensor]
) -> list[torch.Tensor]:
    """The workers of one memory give each other bytes through the lanes' slots, which nobody uses before backward.

    So it takes no memory of its own: what is longer than a gradient goes in several rounds, each between two waits.

    Args:
        gaps: indices of a gradient that are to be 0; of this worker's slots they are so afterwards.
        mine: by the slot's index, what this worker puts into it; those of others come from them.
    """
    for index, data in mine.items():
        slots[index].moments[0] = data.numel()
    barrier.wait()  # all sizes are there
    sizes = [int(slot.moments[0]) for slot in slots]
    found = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    room = slots[0].gradient.nbytes
    for start in range(0, max(sizes), room):
        for index, data in mine.items():
            part = data[start : start + room]
            slots[index].gradient.view(torch.uint8)[: len(part)] = part
        barrier.wait()  # this round's bytes are there
        for slot, whole in zip(slots, found, strict=True):
            part = whole[start : start + room]
            part.copy_(slot.gradient.view(torch.uint8)[: len(part)])
        barrier.wait()  # and everybody has them
    for index in mine:
        slots[index].gradient.index_fill_(0, gaps, 0)
    return found
