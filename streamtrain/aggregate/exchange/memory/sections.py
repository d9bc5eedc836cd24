"""What lies in the block: a run's state and the workers' contributions, as typed views."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.norms import CHANGES
from streamtrain.aggregate.descent.rules import Descent, count_numbers, cut_pieces, vectors_of
from streamtrain.aggregate.exchange.barrier import CACHE_LINE, WORDS_A_LINE
from streamtrain.aggregate.exchange.memory.lane_rows import (
    row_bytes,
    view_device_slots,
    view_device_used,
    view_slots,
    view_used,
)
from streamtrain.aggregate.exchange.memory.mapped import private_block
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.vector import Layout

KEPT_BYTES = 8 << 20
"""Of scratch vectors that a worker keeps between steps: little beside what a process with PyTorch takes."""


@dataclass(frozen=True)
class Capacity:
    """What a block has room for.

    Attributes:
        lanes: of the run.
        workers: that may meet in it.
        in_flight: minibatches that may be worked on at once.
        backup: parts of each that may have been put back by the one before.
        frozen: bytes of each frozen parameter that lies in it.
    """

    lanes: int
    workers: int = 1
    in_flight: int = 1
    backup: int = 0
    frozen: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """One a lane and minibatch in flight, and those of parts that were put back."""
        return (self.lanes + self.backup) * self.in_flight


def state_sections(layout: Layout, descent: Descent, *, backup: int = 0) -> dict[str, tuple[int, torch.dtype]]:
    """Elements and type of every part of a `State`, in its order."""
    vectors = dict.fromkeys(vectors_of(descent, layout), (layout.size, layout.dtype))
    return vectors | {
        "buffers": (layout.buffer_size, torch.float64),
        "counters": (layout.counter_size, torch.int64),
        "uses": (len(layout.parameters), torch.int64),
        "put_back": (2 * backup, torch.int64),
        "scaler": (2, torch.float64),
        "averaged": (int(descent.average.is_kept), torch.int64),
        "numbers": (count_numbers(descent, layout), torch.float64),
    }


def _sections(layout: Layout, descent: Descent, capacity: Capacity) -> Iterator[tuple[str, int, torch.dtype]]:
    """Name, elements and type of every part of the block, in its order."""
    yield "words", WORDS_A_LINE * (2 + capacity.workers), torch.int64
    for number in range(capacity.in_flight + 1):
        for name, (elements, dtype) in state_sections(layout, descent, backup=capacity.backup).items():
            yield f"{name}.{number}", elements, dtype
    for slot in range(capacity.slots):
        yield f"gradient.{slot}", layout.size, layout.dtype
    yield "rows", capacity.slots * row_bytes(layout), torch.uint8
    yield "claims", capacity.slots * 4, torch.int64
    pieces = len(cut_pieces(descent, layout))
    yield "norms", 2 * pieces, torch.float64
    yield "changes", CHANGES * pieces, torch.float64
    for number, size in enumerate(capacity.frozen):
        yield f"frozen.{number}", size, torch.uint8


def block_size(layout: Layout, descent: Descent, capacity: Capacity) -> int:
    """Bytes that a block needs."""
    return sum(_bytes(elements, dtype) for _, elements, dtype in _sections(layout, descent, capacity))


class Memory:
    """The block's parts as typed views.

    Args:
        layout: of the model.
        descent: which decides how many vectors a state has, and in which pieces norms are taken.
        capacity: that the block was made for.
        block: of `block_size` bytes.

    Attributes:
        in_flight, backup: as in `Capacity`.
        words: int64 words, one cache line each: updates in the state; 1 + the worker that gave up,
            or 0; then, for each worker, its arrivals and whether it sleeps. Single words are read and written whole.
        states: one more than minibatches in flight; the current one is ``states[updates % len(states)]``.
        slots: one a lane and minibatch in flight; before the lanes' are those of parts that were put back.
        rows: of the slots: all but their gradients, as bytes.
        claims: of the `Pool`, shape (slots, 4).
        used: all slots' ``used``, shape (slots, parameters).
        norms: two squared norms a `Piece`; see `Aggregator.clip`.
        changes: more of them; see `StepNorms.note_change`.
        frozen: the model's parameters that do not move, as bytes.
    """

    def __init__(self, layout: Layout, descent: Descent, capacity: Capacity, block: mmap.mmap) -> None:
        parts: dict[str, torch.Tensor] = {}
        offset = 0
        for name, elements, dtype in _sections(layout, descent, capacity):
            whole = torch.frombuffer(block, dtype=dtype, count=elements, offset=offset) if elements else None
            parts[name] = torch.empty(0, dtype=dtype) if whole is None else whole
            offset += _bytes(elements, dtype)
        self._layout = layout
        self.in_flight = capacity.in_flight
        self.backup = capacity.backup
        slots = capacity.slots
        self.words = memoryview(block).cast("q")[: WORDS_A_LINE * (2 + capacity.workers)]
        names = state_sections(layout, descent, backup=capacity.backup)
        self.states = tuple(
            State.of_parts({name: parts[f"{name}.{number}"] for name in names})
            for number in range(capacity.in_flight + 1)
        )
        self.rows = rows = parts["rows"].view(slots, -1)
        self.slots = view_slots(layout, rows, [parts[f"gradient.{slot}"] for slot in range(slots)])
        self.used = view_used(layout, rows)
        self.claims = parts["claims"].view(slots, 4)
        self.norms: NDArray[np.float64] = parts["norms"].numpy()
        self.changes: NDArray[np.float64] = parts["changes"].numpy()
        self.frozen = [parts[f"frozen.{number}"] for number in range(len(capacity.frozen))]

    def own_slot(self) -> tuple[Slot, torch.Tensor]:
        """A slot in this process's own memory, and its row."""
        rows = torch.zeros((1, row_bytes(self._layout)), dtype=torch.uint8)
        (slot,) = view_slots(self._layout, rows, [torch.zeros(self._layout.size, dtype=self._layout.dtype)])
        return slot, rows[0]

    def reset(self, step: int) -> None:
        """Forgets who waited for whom; ``step`` updates are in the state. Nobody is in the exchange meanwhile."""
        self.words[:] = memoryview(bytes(self.words.nbytes)).cast("q")
        self.words[0] = step


class Scratch:
    """Vectors of this process alone, for sums that wait for others; all 0 at first, and taking no memory."""

    def __init__(self, layout: Layout, vectors: int) -> None:
        size = _bytes(layout.size, layout.dtype)
        self._blocks = [private_block(size) for _ in range(vectors)]
        self.vectors = [torch.frombuffer(block, dtype=layout.dtype, count=layout.size) for block in self._blocks]

    def give_back(self) -> None:
        """What is in them is not wanted any more: where they are large they take no memory until they are written.

        Small ones stay: to have their pages again takes longer than to write them.
        """
        if sum(map(len, self._blocks)) <= KEPT_BYTES:
            return
        for block in self._blocks:
            block.madvise(mmap.MADV_DONTNEED)


class DeviceMemory:
    """The same for a worker by itself that computes on another device, all of it there.

    Only the lanes that are ``hosted`` have gradients.
    """

    def __init__(self, layout: Layout, descent: Descent, lanes: int, hosted: range, device: torch.device) -> None:
        sections = state_sections(layout, descent).items()
        self.words = memoryview(bytearray(CACHE_LINE)).cast("q")
        self.states = tuple(
            State.of_parts({name: torch.zeros(n, dtype=dtype, device=device) for name, (n, dtype) in sections})
            for _ in range(2)
        )
        self.rows = torch.zeros((lanes, row_bytes(layout)), dtype=torch.uint8, device=device)
        sizes = [layout.size * (lane in hosted) for lane in range(lanes)]
        gradients = [torch.zeros(n, dtype=layout.dtype, device=device) for n in sizes]
        self.slots = view_device_slots(layout, self.rows, gradients)
        self.used = view_device_used(layout, self.rows)
        pieces = len(cut_pieces(descent, layout))
        self.norms = torch.zeros(2 * pieces, dtype=torch.float64, device=device)
        self.changes = torch.zeros(CHANGES * pieces, dtype=torch.float64, device=device)


def private_memory(layout: Layout, descent: Descent, capacity: Capacity) -> Memory:
    """A block of this process alone."""
    return Memory(layout, descent, capacity, private_block(block_size(layout, descent, capacity)))


def _bytes(elements: int, dtype: torch.dtype) -> int:
    return -(-elements * dtype.itemsize // CACHE_LINE) * CACHE_LINE
