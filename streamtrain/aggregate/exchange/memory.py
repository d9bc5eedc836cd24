"""One block of memory that holds a run's state and the workers' contributions, private or shared.

Shared memory is an unnamed file of the kernel (`memfd_create`): peers open it through its creator's
process entry, and it is gone when the last process that holds it is, however that process ends. So
nothing is left in ``/dev/shm``, and a container's small ``/dev/shm`` is no limit. Linux only.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from streamtrain.aggregate.descent.rules import pieces_of
from streamtrain.aggregate.exchange.barrier import check_machine
from streamtrain.aggregate.exchange.rows import row_bytes, slots_in, used_in
from streamtrain.aggregate.state import STATE_PARTS, State
from streamtrain.aggregate.vector import Layout
from streamtrain.optimizer import SGD

CACHE_LINE = 64
WORDS_A_LINE = CACHE_LINE // 8


@dataclass(frozen=True)
class Handle:
    """Names a shared block to a process of the same host."""

    process: int
    descriptor: int


def state_sections(layout: Layout, *, averaged: bool) -> dict[str, tuple[int, torch.dtype]]:
    """Elements and type of every part of a `State`, in its order."""
    return {
        "parameters": (layout.size, layout.dtype),
        "momentum": (layout.size, layout.dtype),
        "average": (layout.size if averaged else 0, layout.dtype),
        "buffers": (layout.buffer_size, torch.float64),
        "counters": (layout.counter_size, torch.int64),
        "uses": (len(layout.parameters), torch.int64),
    }


def _sections(layout: Layout, sgd: SGD, lanes: int, workers: int) -> Iterator[tuple[str, int, torch.dtype]]:
    """Name, elements and type of every part of the block, in its order."""
    yield "words", WORDS_A_LINE * (2 + workers), torch.int64
    for half in (0, 1):
        for name, (elements, dtype) in state_sections(layout, averaged=sgd.average is not None).items():
            yield f"{name}.{half}", elements, dtype
    for lane in range(lanes):
        yield f"gradient.{lane}", layout.size, layout.dtype
    yield "rows", lanes * row_bytes(layout), torch.uint8
    yield "norms", len(pieces_of(sgd, layout)), torch.float64


def block_size(layout: Layout, sgd: SGD, lanes: int, workers: int) -> int:
    """Bytes that a block needs."""
    return sum(_bytes(elements, dtype) for _, elements, dtype in _sections(layout, sgd, lanes, workers))


class Memory:
    """The block's parts as typed views.

    Attributes:
        words: int64 words, one cache line each: updates in the state; 1 + the worker that gave up,
            or 0; then one arrival counter a worker. Single words are read and written whole.
        halves: the two states; the current one is ``halves[updates % 2]``.
        slots: one a lane.
        used: all lanes' ``used``, shape (lanes, parameters).
        norms: one squared norm a `Piece`.
    """

    def __init__(self, layout: Layout, sgd: SGD, lanes: int, workers: int, block: mmap.mmap) -> None:
        parts: dict[str, torch.Tensor] = {}
        offset = 0
        for name, elements, dtype in _sections(layout, sgd, lanes, workers):
            whole = torch.frombuffer(block, dtype=dtype, count=elements, offset=offset) if elements else None
            parts[name] = torch.empty(0, dtype=dtype) if whole is None else whole
            offset += _bytes(elements, dtype)
        self.words = memoryview(block).cast("q")[: WORDS_A_LINE * (2 + workers)]
        zero, one = (State(*(parts[f"{name}.{half}"] for name in STATE_PARTS)) for half in (0, 1))
        self.halves = (zero, one)
        rows = parts["rows"].view(lanes, -1)
        self.slots = slots_in(layout, rows, [parts[f"gradient.{lane}"] for lane in range(lanes)])
        self.used = used_in(layout, rows)
        self.norms = parts["norms"]


def private_halves(layout: Layout, sgd: SGD, device: torch.device) -> tuple[State, State]:
    """Both halves of a state in this process's own memory, zeroed."""
    sections = state_sections(layout, averaged=sgd.average is not None).values()
    one, other = (State(*(torch.zeros(n, dtype=dtype, device=device) for n, dtype in sections)) for _ in range(2))
    return one, other


def private_block(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone."""
    return mmap.mmap(-1, size)


def shared_block(size: int) -> tuple[mmap.mmap, Handle]:
    """Zeroed memory that other processes of this host can open by the handle while this one lives.

    Raises:
        ConfigError: not on this kind of machine.
    """
    check_machine()
    descriptor = os.memfd_create("streamtrain", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return mmap.mmap(descriptor, size), Handle(os.getpid(), descriptor)


def open_block(handle: Handle) -> mmap.mmap:
    """The block that ``handle`` names."""
    descriptor = os.open(f"/proc/{handle.process}/fd/{handle.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _bytes(elements: int, dtype: torch.dtype) -> int:
    return -(-elements * dtype.itemsize // CACHE_LINE) * CACHE_LINE
