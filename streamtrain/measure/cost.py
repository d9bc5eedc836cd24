"""What measurements cost: their time against all time, and whether another one stays within a bound."""

from __future__ import annotations

from streamtrain.values import Reading


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
