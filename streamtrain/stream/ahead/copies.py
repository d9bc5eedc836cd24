"""Batches to a device, each on its way while the one before is computed with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from streamtrain.values import Arrays

Batch = dict[str, Any]


def batches_of(arrays: Iterator[Arrays], device: torch.device) -> Iterator[Arrays | Batch]:
    """The same examples for a model on the device: as they are for the CPU, else as tensors that are there."""
    return arrays if device.type == "cpu" else copied_ahead(arrays, device)


def copied_ahead(batches: Iterable[Mapping[str, Any]], device: torch.device) -> Iterator[Batch]:
    """Batches of arrays as tensors on the device, each on its way while the one before is computed with."""
    copies = Copies(device)
    begun: list[tuple[Batch, Any]] = []
    for batch in batches:
        begun.append(copies.begin({name: torch.from_numpy(array) for name, array in batch.items()}))
        if len(begun) > 1:
            yield copies.arrived(*begun.pop(0))
    for last in begun:
        yield copies.arrived(*last)


class Copies:
    """Copies batches to a device while the loop computes: out of page-locked memory, which PyTorch keeps for the next
    ones, on a stream of their own.

    Begun in the thread that reads ahead; the loop's stream, not the loop, waits for them. The CPU goes the same way,
    where a stream does nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cpu = device.type == "cpu"
        self._streams = torch.get_device_module(device)
        self._own = self._streams.Stream() if self._on_cpu else self._streams.Stream(device)

    def begin(self, batch: Batch) -> tuple[Batch, Any]:
        """The batch on the device, and the event after which it is there."""
        tensors = {name: tensor for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}
        with self._streams.stream(self._own):
            for name, tensor in tensors.items():
                locked = tensor if self._on_cpu else tensor.pin_memory()
                batch[name] = locked.to(self._device, non_blocking=True)
            return batch, self._own.record_event()

    def arrived(self, batch: Batch, copied: Any) -> Batch:
        """The batch, which whatever the caller does from now on finds whole."""
        callers = self._streams.current_stream(self._device)
        callers.wait_event(copied)
        for tensor in batch.values():
            if isinstance(tensor, torch.Tensor) and not self._on_cpu:
                tensor.record_stream(callers)  # else its memory might be the next copy's while it is still used
        return batch
