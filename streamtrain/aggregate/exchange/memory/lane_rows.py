"""All of the lanes' slots but the gradients, as one row of bytes a lane: small, and sent or shared as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.moments import NUMBERS
from streamtrain.aggregate.state import DeviceSlot, Slot
from streamtrain.aggregate.vector import Layout

LINE = 64
MOMENTS = 2 * NUMBERS
NORMS = 2


def row_bytes(layout: Layout) -> int:
    """Bytes of a row, a multiple of 64."""
    return -(-(_used_at(layout) + len(layout.parameters)) // LINE) * LINE


def view_slots(layout: Layout, rows: torch.Tensor, gradients: Sequence[torch.Tensor]) -> tuple[Slot, ...]:
    """Every lane's slot: views of its row, shape (row bytes,) of uint8, and its gradient."""
    norm_at = MOMENTS * 8
    buffers_at = (MOMENTS + NORMS) * 8
    counters_at = buffers_at + 8 * layout.buffer_size
    return tuple(
        Slot(
            gradient=gradient,
            buffers=row[buffers_at:counters_at].view(torch.float64),
            counters=row[counters_at : _used_at(layout)].view(torch.int64),
            used=row[_used_at(layout) : _used_at(layout) + len(layout.parameters)].numpy(),
            moments=row[:norm_at].view(torch.float64).numpy(),
            squared_norms=row[norm_at:buffers_at].view(torch.float64).numpy(),
        )
        for row, gradient in zip(rows, gradients, strict=True)
    )


def view_device_slots(layout: Layout, rows: torch.Tensor, gradients: Sequence[torch.Tensor]) -> tuple[DeviceSlot, ...]:
    """The same of rows that are on a device."""
    norm_at = MOMENTS * 8
    buffers_at = (MOMENTS + NORMS) * 8
    used_at = _used_at(layout)
    counters_at = buffers_at + 8 * layout.buffer_size
    return tuple(
        DeviceSlot(
            gradient=gradient,
            buffers=row[buffers_at:counters_at].view(torch.float64),
            counters=row[counters_at:used_at].view(torch.int64),
            used=row[used_at : used_at + len(layout.parameters)],
            moments=row[:norm_at].view(torch.float64),
            squared_norms=row[norm_at:buffers_at].view(torch.float64),
        )
        for row, gradient in zip(rows, gradients, strict=True)
    )


def view_device_used(layout: Layout, rows: torch.Tensor) -> torch.Tensor:
    """All lanes' ``used`` on their device: a view of shape (lanes, parameters)."""
    return rows[:, _used_at(layout) : _used_at(layout) + len(layout.parameters)]


def view_used(layout: Layout, rows: torch.Tensor) -> NDArray[np.uint8]:
    """All lanes' ``used``: a view of shape (lanes, parameters)."""
    used: NDArray[np.uint8] = rows[:, _used_at(layout) : _used_at(layout) + len(layout.parameters)].numpy()
    return used


def _used_at(layout: Layout) -> int:
    return 8 * (MOMENTS + NORMS + layout.buffer_size + layout.counter_size)
