"""What time is spent on: measurements against all time, and the parts of a step."""

from __future__ import annotations

from streamtrain.values import Reading, StepTimes


class MeasuringTime:
    """Seconds spent on measurements.

    Args:
        most: the largest part of the run's time, training and measuring together; ``None`` for any.
        name: of the measurements: ``evaluation`` or ``probe``.
    """

    def __init__(self, most: float | None, name: str = "evaluation") -> None:
        self._most, self._name = most, name
        self._last = self._total = 0.0

    def spend(self, seconds: float) -> None:
        """One more measurement was made."""
        self._last = seconds
        self._total += seconds

    def affords(self, training_seconds: float) -> bool:
        """Whether another measurement, as long as the last one, stays within the bound."""
        spent = self._total + self._last
        return self._most is None or spent <= self._most * (training_seconds + spent)

    def readings(self, training_seconds: float, step: int, time: float) -> list[Reading]:
        """``NAME/seconds`` of the last measurement, and ``NAME/fraction_of_time`` of all."""
        fraction = self._total / (training_seconds + self._total)
        return [
            Reading(f"{self._name}/seconds", self._last, step, time),
            Reading(f"{self._name}/fraction_of_time", fraction, step, time),
        ]


class StepParts:
    """What a step's time is spent on, as curves: its parts, in seconds, as means over steps and workers.

    Attributes:
        waiting_share: part of the time of the last steps that were asked for.
    """

    def __init__(self) -> None:
        self._before, self.waiting_share = StepTimes(), 0.0

    def readings(self, times: StepTimes, workers: int, step: int, time: float) -> list[Reading]:
        """The points ``step_time/…`` of the steps since the last call, and ``loader/batches_ahead``.

        Args:
            times: of all ``workers`` so far.
        """
        before, self._before = self._before, times
        if times.steps <= before.steps:  # a lost worker's share went with it
            before = StepTimes()
        steps = max(1, times.steps - before.steps)
        parts = ("waiting", "computing", "exchanging", "updating")
        seconds = {part: (getattr(times, part) - getattr(before, part)) / steps for part in parts}
        self.waiting_share = seconds["waiting"] / (sum(seconds.values()) or 1.0)
        points = [Reading(f"step_time/{part}", each, step, time) for part, each in seconds.items()]
        return [*points, Reading("loader/batches_ahead", times.ahead / workers, step, time)]
