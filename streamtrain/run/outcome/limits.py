"""What ends a run before its mode does: a number of updates, or of seconds."""

from __future__ import annotations

import math
from time import monotonic

from streamtrain.job import Job


class Limits:
    """`Job.max_steps` and `Job.max_seconds`, watched by whoever advances the run.

    Args:
        job: of the run; one without limits is never ended here.
    """

    def __init__(self, job: Job) -> None:
        self._steps = job.max_steps
        self._seconds = job.max_seconds
        self._began = monotonic()

    def go_on(self, spent: float) -> None:
        """Counts from so many seconds on, which the run has spent before; from more where they have passed here."""
        self._began = min(self._began, monotonic() - spent)

    @property
    def spent(self) -> float:
        """Seconds of the run so far."""
        return monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until it is ended; infinite without a limit."""
        return math.inf if self._seconds is None else max(0.0, self._seconds - self.spent)

    def reached(self, step: int) -> str | None:
        """Why the run ends after ``step`` updates, in words; ``None`` where it does not."""
        if self._steps is not None and step >= self._steps:
            return f"max_steps = {self._steps:,} reached"
        return f"max_seconds = {self._seconds:g} reached" if step and not self.left else None  # one step there is

    def before(self, until: int, step: int, rate: float) -> int:
        """How far to train from ``step`` on the way to ``until`` before the limits are looked at again.

        Args:
            rate: updates in a second, as far as is known; 0 where nothing is.
        """
        if self._steps is not None:
            until = min(until, self._steps)
        return until if math.isinf(self.left) else min(until, step + max(1, int(rate * self.left)))
