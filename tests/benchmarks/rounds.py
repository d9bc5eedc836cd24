"""Alternating rounds: every contestant runs a short while in turn, again and again, so noise falls on all alike."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
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
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed", "streamtrain.run.fleet.processes.worker"])
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


def alternate(contestants: Mapping[str, Contestant], rounds: int, patience: Seconds = 30) -> dict[str, list[Seconds]]:
    """Seconds of every round, after one round each to warm up.

    Others may use the machine too: a contestant starts when it is idle, and its round counts if it is idle
    again right after; once ``patience`` seconds were lost by waiting, rounds count as they come.
    """
    for contestant in contestants.values():
        contestant()
    seconds: dict[str, list[Seconds]] = {name: [] for name in contestants}
    until = time.monotonic() + patience
    for _ in range(rounds):
        for name, contestant in contestants.items():
            while True:
                while not _idle() and time.monotonic() < until:
                    pass
                found = contestant()
                if _idle() or time.monotonic() >= until:
                    break
            seconds[name].append(found)
    return seconds


def _idle(look: Seconds = 0.1, most: float = 0.1) -> bool:
    """Whether all cores together are used less than ``most`` of one core, looking for a moment."""
    before = _jiffies()
    time.sleep(look)
    return _jiffies() - before <= look * os.sysconf("SC_CLK_TCK") * most


def _jiffies() -> int:
    """Clock ticks that all cores were busy since they started; also with what a hypervisor took."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


def ratio(slow: Sequence[Seconds], fast: Sequence[Seconds]) -> float:
    """How many times ``fast`` went in ``slow``: median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "cores": multiprocessing.cpu_count()}
