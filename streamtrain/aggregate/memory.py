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

from streamtrain.aggregate.sums import COLUMNS, segments
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import ConfigError, complaint

CACHE_LINE = 64
WORDS_A_LINE = CACHE_LINE // 8
CHUNK = 32768
"""Elements of a chunk: fixed, so that norms have the same bits for any number of workers."""


@dataclass(frozen=True)
class State:
    """What an update changes: views of one half of the state."""

    parameters: torch.Tensor
    momentum: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor


@dataclass(frozen=True)
class Slot:
    """Where one lane's worker leaves its contribution.

    ``gradient`` is the sum over the lane's examples; ``used[i]`` is 1 where parameter ``i`` has one;
    ``moments`` is (count, mean, m2) of the losses, then of the errors.
    """

    gradient: torch.Tensor
    buffers: torch.Tensor
    counters: torch.Tensor
    used: torch.Tensor
    moments: torch.Tensor


@dataclass(frozen=True)
class Handle:
    """Names a shared block to a process of the same host."""

    process: int
    descriptor: int


def _sections(layout: Layout, lanes: int, workers: int) -> Iterator[tuple[str, int, torch.dtype]]:
    """Name, elements and type of every part of the block, in its order."""
    yield "words", WORDS_A_LINE * (2 + workers), torch.int64
    for half in (0, 1):
        yield f"parameters.{half}", layout.size, layout.dtype
        yield f"momentum.{half}", layout.size, layout.dtype
        yield f"buffers.{half}", layout.buffer_size, torch.float64
        yield f"counters.{half}", layout.counter_size, torch.int64
    for lane in range(lanes):
        yield f"gradient.{lane}", layout.size, layout.dtype
        yield f"lane_buffers.{lane}", layout.buffer_size, torch.float64
        yield f"lane_counters.{lane}", layout.counter_size, torch.int64
    yield "used", lanes * len(layout.parameters), torch.uint8
    yield "moments", lanes * 6, torch.float64
    yield "mean", layout.size, layout.dtype
    yield "norms", -(-layout.size // CHUNK), torch.float64
    yield "sums", len(rows_of(layout)) * (lanes + COLUMNS), torch.float64


def rows_of(layout: Layout) -> list[tuple[int, int, int]]:
    """Rows of the table of sums."""
    return segments(layout, range(0, layout.size, CHUNK))


def block_size(layout: Layout, lanes: int, workers: int) -> int:
    """Bytes that a block needs."""
    return sum(_bytes(elements, dtype) for _, elements, dtype in _sections(layout, lanes, workers))


class Memory:
    """The block's parts as typed views.

    Attributes:
        words: int64 words, one cache line each: updates in the state; 1 + the worker that gave up,
            or 0; then one arrival counter a worker. Single words are read and written whole.
        halves: the two states; the current one is ``halves[updates % 2]``.
        slots: one a lane.
        used: all lanes' ``used``, shape (lanes, parameters). moments: all lanes', shape (lanes, 6).
        mean: the minibatch's mean gradient. norms: one squared norm a chunk. sums: the table of `Sums`.
    """

    def __init__(self, layout: Layout, lanes: int, workers: int, block: mmap.mmap) -> None:
        parts: dict[str, torch.Tensor] = {}
        offset = 0
        for name, elements, dtype in _sections(layout, lanes, workers):
            whole = torch.frombuffer(block, dtype=dtype, count=elements, offset=offset) if elements else None
            parts[name] = torch.empty(0, dtype=dtype) if whole is None else whole
            offset += _bytes(elements, dtype)
        self.words = memoryview(block).cast("q")[: WORDS_A_LINE * (2 + workers)]
        names = ("parameters", "momentum", "buffers", "counters")
        self.halves = (State(*(parts[f"{name}.0"] for name in names)), State(*(parts[f"{name}.1"] for name in names)))
        self.used = parts["used"].view(lanes, -1)
        self.moments = parts["moments"].view(lanes, 6)
        self.slots = tuple(
            Slot(
                parts[f"gradient.{lane}"],
                parts[f"lane_buffers.{lane}"],
                parts[f"lane_counters.{lane}"],
                self.used[lane],
                self.moments[lane],
            )
            for lane in range(lanes)
        )
        self.mean = parts["mean"]
        self.norms = parts["norms"]
        self.sums = parts["sums"].view(-1, lanes + COLUMNS)


def private_block(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone."""
    return mmap.mmap(-1, size)


def shared_block(size: int) -> tuple[mmap.mmap, Handle]:
    """Zeroed memory that other processes of this host can open by the handle while this one lives."""
    if not hasattr(os, "memfd_create"):
        raise ConfigError(
            complaint(
                "workers", expected="1 on this system", found="more", do="several workers need Linux's shared memory"
            )
        )
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
