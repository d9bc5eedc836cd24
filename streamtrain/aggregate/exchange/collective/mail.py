"""All-to-all of messages whose parts are tensors: laid out once, then filled, exchanged and read every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Part = tuple[int, torch.dtype]
"""Elements and type of one part of a message."""
ALIGNMENT = 64


class Pending(Protocol):
    """Messages on their way."""

    def wait(self) -> object:
        """Returns when the others' are there."""


Send = Callable[[torch.Tensor, torch.Tensor, list[int], list[int]], Pending]
"""Begins an all-to-all: where what comes goes, what leaves, and the sizes of both in bytes, by worker."""


class Mail:
    """One message from every worker to every other; none to itself.

    Args:
        worker: this one.
        outgoing, incoming: the parts of the message to, and from, each worker; this one's own are passed over.

    Attributes:
        to, received: those parts as tensors, by worker.
    """

    def __init__(
        self,
        worker: int,
        outgoing: Sequence[Sequence[Part]],
        incoming: Sequence[Sequence[Part]],
        device: torch.device,
    ) -> None:
        self._outbox, self._leaving, self.to = _laid_out(worker, outgoing, device)
        self._inbox, self._coming, self.received = _laid_out(worker, incoming, device)
        self._pending: Pending | None = None

    def post(self, send: Send) -> None:
        """Begins to send what is in ``to``, which stays as it is until `wait`."""
        self._pending = send(self._inbox, self._outbox, self._coming, self._leaving)

    def wait(self) -> None:
        """Returns when ``received`` is there."""
        if self._pending is not None:
            self._pending.wait()
            self._pending = None


def _laid_out(
    worker: int, messages: Sequence[Sequence[Part]], device: torch.device
) -> tuple[torch.Tensor, list[int], dict[int, list[torch.Tensor]]]:
    """Memory for messages one after another, the size of each, and the parts of each; parts start at 64 bytes."""
    own = [[] if peer == worker else list(message) for peer, message in enumerate(messages)]
    sizes = [sum(_padded(elements * dtype.itemsize) for elements, dtype in message) for message in own]
    memory = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
    parts = {}
    offset = 0
    for peer, message in enumerate(own):
        views = []
        for elements, dtype in message:
            views.append(memory[offset : offset + elements * dtype.itemsize].view(dtype))
            offset += _padded(elements * dtype.itemsize)
        parts[peer] = views
    del parts[worker]
    return memory, sizes, parts


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
