"""Blocks of memory, private or shared, and how others of a host find them.

Shared memory is an unnamed file of the kernel (`memfd_create`): peers open it through its creator's
process entry, and it is gone when the last process that holds it is, however that process ends. So
nothing is left in ``/dev/shm``, and a container's small ``/dev/shm`` is no limit. Linux only.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

from streamtrain.memory_order import take_part
from streamtrain.processes import open_lent

MAP_NORESERVE = 0x4000
"""Of Linux: mmap(2)."""


@dataclass(frozen=True)
class Handle:
    """Names a shared block to a process of the same host."""

    process: int
    descriptor: int


def private_block(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone; what is never written to costs nothing."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)


def shared_block(size: int) -> tuple[mmap.mmap, Handle]:
    """Zeroed memory that other processes of this host can open by the handle while this one lives.

    Raises:
        ConfigError: not on this kind of machine.
    """
    take_part()
    descriptor = os.memfd_create("streamtrain", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return mmap.mmap(descriptor, size), Handle(os.getpid(), descriptor)


def open_file(handle: Handle) -> int:
    """A descriptor of this process's own for the block that ``handle`` names; locks on it are this process's."""
    take_part()
    return open_lent(handle.process, handle.descriptor)


def open_block(handle: Handle) -> mmap.mmap:
    """The block that ``handle`` names."""
    descriptor = open_file(handle)
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def keep_block(handle: Handle) -> tuple[mmap.mmap, Handle]:
    """The block, and this process's own handle for it: it stays to be found when its maker has died."""
    descriptor = open_file(handle)
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size), Handle(os.getpid(), descriptor)
