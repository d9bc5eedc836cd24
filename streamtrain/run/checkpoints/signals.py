"""SIGTERM, a machine's notice that it goes: a checkpoint and an end, however often and to whomever it is sent."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol

from streamtrain.errors import Interrupted

WHY = "stopped by SIGTERM"
LOOKS_SECONDS = 0.2
"""Between two looks at whether the workers are still there to be asked for their state."""


class Stoppable(Protocol):
    """Who writes the checkpoint."""

    def ask_to_stop(self, why: str) -> None:
        """At the next opportunity; may be called by a signal's handler."""

    @property
    def asked(self) -> str | None:
        """What it was asked with."""

    def settle(self) -> str:
        """What a run leaves behind that cannot write any more, once what was begun is written."""


@contextlib.contextmanager
def stopped_by_signal(keeper: Stoppable, cut_off: Callable[[], bool], end: Callable[[str], None]) -> Iterator[None]:
    """In the block, SIGTERM asks for a checkpoint and an end; in the main thread only.

    Once it came, further ones change nothing, also after the block: the process is about to end. (Ray makes them
    deadly again in its last second, when it is shut down and all is written.)

    Args:
        cut_off: whether all that has the state is gone: a service manager may send SIGTERM to every process at once.
        end: tells why the run ends then, before the process does with `Interrupted.exit_code`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left = threading.Event()

    def watch() -> None:
        while not left.wait(LOOKS_SECONDS):
            if cut_off():
                _leave(f"{WHY}, and all workers with it; {keeper.settle()}", end)

    def stop(*_: object) -> None:
        if keeper.asked is None:
            keeper.ask_to_stop(WHY)
            threading.Thread(target=watch, name="stopping", daemon=True).start()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        left.set()
        signal.signal(signal.SIGTERM, before if keeper.asked is None else signal.SIG_IGN)


def _leave(why: str, end: Callable[[str], None]) -> NoReturn:
    """Ends the process: its main thread may wait for what never answers."""
    try:
        end(why)
    finally:
        os._exit(Interrupted.exit_code)
