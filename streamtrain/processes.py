"""Other processes of this host: the files they lend, and whether they live."""

from __future__ import annotations

import os
import select

from streamtrain.errors import WorkerLost


def open_lent(process: int, descriptor: int) -> int:
    """A descriptor of this process's own for the unnamed file that ``process`` has open as ``descriptor``.

    Raises:
        WorkerLost: the process died before.
    """
    try:
        return os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        gone = isinstance(error, (FileNotFoundError, ProcessLookupError))  # it closes its files before it is dead
        if gone or is_dead(process):
            raise WorkerLost(f"process {process} died before its memory could be opened") from None
        raise


def watch(process: int) -> int:
    """A descriptor that becomes readable when ``process`` dies.

    Raises:
        WorkerLost: it is dead and gone already.
    """
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        raise WorkerLost(f"process {process} died before it could be watched") from None


def is_dead(process: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        descriptor = watch(process)
    except WorkerLost:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(descriptor)
