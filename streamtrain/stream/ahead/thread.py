"""Minibatches made ahead by a thread of this process: enough where reading is C code that lets other threads run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Made = TypeVar("Made")


def made_ahead(make: Callable[[int], Made], steps: Sequence[int], depth: int) -> Iterator[tuple[int, Made]]:
    """``make`` of every step, made by a thread up to ``depth`` steps ahead; what it raises is raised here."""
    made: queue.Queue[tuple[int, Made | BaseException]] = queue.Queue(depth)
    stopped = threading.Event()

    def run() -> None:
        for step in steps:
            try:
                batch: Made | BaseException = make(step)
            except BaseException as error:
                batch = error
            while not stopped.is_set():
                try:
                    made.put((step, batch), timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(batch, BaseException):
                return

    thread = threading.Thread(target=run, name="batches-ahead", daemon=True)
    thread.start()
    try:
        for _ in steps:
            step, batch = made.get()
            if isinstance(batch, BaseException):
                raise batch
            yield step, batch
    finally:
        stopped.set()
        thread.join()
