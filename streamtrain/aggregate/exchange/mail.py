"""All-to-all of messages whose parts are tensors: laid out once, then filled, exchanged and read every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Part = tuple[int, torch.dtype]
"""Elements and type of one part of a message."""
Send = Callable[[torch.Tensor, torch.Tensor, list[int], list[int]], None]
"""`torch.distributed.all_to_all_single`: what comes, what goes, and the sizes of both in bytes, by worker."""
ALIGNMENT = 64


class Mail:
    """One message from every worker to every other; none to itself.

    Args:
        worker: this one.
        outgoing, incoming: the parts of the message to, and from, each worker; this one's own are passed over.

    Attributes:
        to, received: those parts as tensors, by worker; empty for this one.
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

    def exchange(self, send: Send) -> None:
        """Sends what is in ``to``; returns when ``received`` is there."""
        send(self._inbox, self._outbox, self._coming, self._leaving)


def _laid_out(
    worker: int, messages: Sequence[Sequence[Part]], device: torch.device
) -> tuple[torch.Tensor, list[int], list[list[torch.Tensor]]]:
    """Memory for messages one after another, the size of each, and the parts of each; parts start at 64 bytes."""
    own = [[] if peer == worker else list(message) for peer, message in enumerate(messages)]
    sizes = [sum(_padded(elements * dtype.itemsize) for elements, dtype in message) for message in own]
    memory = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
    parts, offset = [], 0
    for message in own:
        views = []
        for elements, dtype in message:
            views.append(memory[offset : offset + elements * dtype.itemsize].view(dtype))
            offset += _padded(elements * dtype.itemsize)
        parts.append(views)
    return memory, sizes, parts


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
