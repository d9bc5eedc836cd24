"""When faults come, what a run's points say of its pace, and the setting that ours and DDP have in common."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

WORKERS, BATCH = 4, 128
LR, MOMENTUM = 0.01, 0.9
EXAMPLES = 40_000
PATIENCE = 600.0
"""Seconds after which a run that does not go on is given up."""

Points = Sequence[tuple[int, float]]
"""Steps that were in the state at some times, in seconds of the same clock; rising."""


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        example_seconds: that an example takes on the accelerator for which a wait stands.
        steps: after which a run ends.
        every: seconds from one fault to the next; none without faults.
    """

    example_seconds: float
    steps: int
    every: float | None = None

    @property
    def step_seconds(self) -> float:
        """That a step takes on all accelerators at the least."""
        return BATCH / WORKERS * self.example_seconds


def rate(points: Points) -> float:
    """Examples/s from the first point to the last."""
    (first, began), (last, ended) = points[0], points[-1]
    return (last - first) * BATCH / (ended - began)


def disturb(began: float, every: float | None, ended: Callable[[], bool], strike: Callable[[], None]) -> list[float]:
    """Strikes ``every`` so many seconds, first after half of them, until the run has ended; the times.

    Args:
        began: when training did, by `time.time`.
    """
    times: list[float] = []
    due = began + every / 2 if every else float("inf")
    deadline = time.monotonic() + PATIENCE
    while not ended():
        assert time.monotonic() < deadline, f"the run did not end in {PATIENCE:g} s"
        if time.time() >= due and every:
            strike()
            times.append(time.time())
            due += every
        time.sleep(0.02)
    return times


def kill(processes: Sequence[psutil.Process], count: int) -> None:
    """SIGKILL to the last ``count`` of them, at once."""
    for process in processes[-count:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
