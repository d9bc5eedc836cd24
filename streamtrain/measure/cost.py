"""What time is spent on: measurements against all time, and the parts of a step."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from streamtrain.stored import Stored
from streamtrain.values import Loading, StepTimes


@dataclass
class MeasuringTime(Stored):
    """Seconds spent on measurements.

    Attributes:
        most: the largest part of the run's time, training and measuring together; ``None`` for any.
        last, total: seconds of the last measurement, and of all.
    """

    most: float | None
    last: float = 0.0
    total: float = 0.0

    def spend(self, seconds: float) -> None:
        """One more measurement was made."""
        self.last = seconds
        self.total += seconds

    def affords(self, training_seconds: float) -> bool:
        """Whether another measurement, as long as the last one, stays within the bound."""
        spent = self.total + self.last
        return self.most is None or spent <= self.most * (training_seconds + spent)

    def fraction_of_time(self, training_seconds: float) -> float:
        """Of all measurements, in the run's time: training and measuring together."""
        return self.total / (training_seconds + self.total)


class LoadingSince:
    """What reading has cost since the last question, of counts that only grow."""

    def __init__(self) -> None:
        self._before = Loading()

    def after(self, so_far: Loading) -> Loading:
        """What came since the last call, over all workers."""
        before = astuple(self._before)
        now = astuple(so_far)
        if any(its < was for its, was in zip(now, before, strict=True)):
            before = astuple(Loading())  # a lost worker's share went with it
        self._before = so_far
        return Loading(*(its - was for its, was in zip(now, before, strict=True)))


class StepParts:
    """What a step's time is spent on: its parts, in seconds, as means over steps and workers.

    Attributes:
        waiting_share: part of the time of the last steps that were asked for.
    """

    def __init__(self) -> None:
        self._before = StepTimes()
        self.waiting_share = 0.0

    def since(self, times: StepTimes) -> dict[str, float]:
        """Seconds a step of the steps since the last call: ``waiting``, ``computing``, ``exchanging``, ``updating``.

        Args:
            times: of all workers so far.
        """
        before = self._before
        self._before = times
        if times.steps <= before.steps:  # a lost worker's share went with it
            before = StepTimes()
        steps = max(1, times.steps - before.steps)
        parts = ("waiting", "computing", "exchanging", "updating")
        seconds = {part: (getattr(times, part) - getattr(before, part)) / steps for part in parts}
        self.waiting_share = seconds["waiting"] / (sum(seconds.values()) or 1.0)
        return seconds
