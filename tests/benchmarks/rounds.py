"""Alternating rounds: every contestant runs a short while in turn, again and again, so noise falls on all alike."""

from __future__ import annotations

import multiprocessing
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

Seconds = float
Contestant = Callable[[], Seconds]


class Processes:
    """Peers that wait in processes of their own; a call runs a round in all and returns the slowest one's seconds.

    Args:
        target: function(connection, rank, world, *arguments) in each process; answers every message with seconds.
    """

    def __init__(self, target: Callable[..., None], world: int, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection[Any, Any]] = []
        self._processes = []
        for rank in range(world):
            mine, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs, rank, world, *arguments), daemon=True)
            process.start()
            self._pipes.append(mine)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()  # ready

    def __call__(self, message: Any = "round") -> Seconds:
        for pipe in self._pipes:
            pipe.send(message)
        return max(pipe.recv() for pipe in self._pipes)

    def stop(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def alternate(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of every round, after one round each to warm up."""
    for contestant in contestants.values():
        contestant()
    seconds: dict[str, list[Seconds]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            seconds[name].append(contestant())
    return seconds


def ratio(slow: Sequence[Seconds], fast: Sequence[Seconds]) -> float:
    """How many times ``fast`` went in ``slow``: median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "cores": multiprocessing.cpu_count()}
