"""In which order other processes of this host see what this one writes to the memory that they share.

Who shares memory writes data, then a word that says they are there. Who sees the word reads the data. CPython reads
and writes such a word by one plain access of 8 bytes. So what has to be held is the order of plain accesses, which
nothing in Python does. x86-64 keeps the order of stores and of loads by itself: `publish` does nothing there.

arm64 keeps neither: a store may be seen before an earlier one, a load may be made before an earlier one. `publish` is
a call of membarrier(2) there, global and expedited, and every process that reads such words has registered by
`take_part`. The kernel promises: between the call's begin and its end, every running thread of the registered
processes, the caller too, has passed a point at which its accesses to memory match the order of its program (who does
not run has passed one when it was taken from its core). So no instruction is needed on the side that reads:

- The writer writes the data D, publishes, and writes the word W.
- The reader reads W, then D. Its point P lies somewhere in its program. Were P after it has read W, the word was read
  before the writer's call ended, so before W was written: what was read is the old word. So who reads the new word
  has P before that, and reads D after P as well. P is after the begin of the call, and D was written before it.
- The other way round, memory that is used again: a reader reads D, publishes, and writes W' ("taken"). All its reads
  were made when its call began. Who sees W' and then overwrites D does so after them, by the same argument.

arm64's stores reach all other cores at once, so what holds of two processes holds along a chain of them, as in a
barrier where everybody publishes before it arrives.

What may still be seen late is a store before a load of the same process (is somebody asleep?), as on x86-64. Who relies
on that looks again after a while. A call costs microseconds, which a step makes two to four times.

Other machines are refused (`take_part`). Single words are read and written whole on both: they are aligned.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass

from streamtrain.errors import ConfigError, complaint


@dataclass(frozen=True)
class Calls:
    """Numbers of Linux's system calls on one kind of machine."""

    futex: int
    membarrier: int
    keeps_order: bool


_CALLS = {
    "x86_64": Calls(futex=202, membarrier=324, keeps_order=True),
    "aarch64": Calls(futex=98, membarrier=283, keeps_order=False),
}
_GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 1 << 1, 1 << 2
"""Commands of membarrier(2)."""
_libc = ctypes.CDLL(None, use_errno=True)


def calls_here() -> Calls | None:
    """Of this machine; ``None`` where memory cannot be shared."""
    return _CALLS.get(platform.machine()) if platform.system() == "Linux" else None


def shares_memory() -> bool:
    """Whether this kind of machine can keep the order that shared words need."""
    return calls_here() is not None


def take_part() -> None:
    """This process will share memory with others; called before the first word of it is read or written.

    Raises:
        ConfigError: this kind of machine, or its kernel, does not keep the order; with what to use instead.
    """
    calls = calls_here()
    found = f"{platform.system()} on {platform.machine()}"
    if calls and not calls.keeps_order and _libc.syscall(calls.membarrier, _REGISTER_GLOBAL_EXPEDITED, 0, 0):
        calls, found = None, f"{found} whose kernel has no membarrier (or a container forbids it)"
    if calls is None:
        expected = "Linux on x86-64 or arm64"
        do = "train in one process, inline=True"
        raise ConfigError(complaint("memory shared by processes", expected=expected, found=found, do=do))


_calls = calls_here()
_membarrier = _calls.membarrier if _calls and not _calls.keeps_order else None
"""Number of the call by which this machine keeps the order; ``None`` where it needs none."""


def publish() -> None:
    """What this process wrote and read before is done, to everybody who sees what it writes from now on."""
    if _membarrier is not None and _libc.syscall(_membarrier, _GLOBAL_EXPEDITED, 0, 0):
        raise OSError(ctypes.get_errno(), "membarrier")
