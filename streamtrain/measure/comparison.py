"""Two runs at equal numbers of updates: many passes over few examples against one pass over fresh ones.

With ``R(t)`` the held-out risk after t updates in the real world (examples come again) and ``I(t)`` in the ideal one
(every example is new), ``R(t) − I(t)`` is what reusing examples costs (Nakkiran, Neyshabur, Sedghi 2021, *The Deep
Bootstrap Framework*; they take the soft error for R and I, which is smoother than the 0-1 error).

Where only one run was measured after t updates, the other's risk is interpolated linearly, part by part of the held-out
examples. The standard error is the paired one; with too few parts both measurements are taken for independent, which
on the same examples is rather too large than too small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamtrain.measure.gap import paired


@dataclass(frozen=True)
class Point:
    """A measurement after ``step`` updates; ``parts`` has the means over its parts, of so many ``examples`` each."""

    step: int
    mean: float
    standard_error: float
    examples: tuple[int, ...] = ()
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Difference:
    """First minus second after ``step`` updates."""

    step: int
    first: Point
    second: Point

    @property
    def value(self) -> float:
        """First minus second."""
        return self.first.mean - self.second.mean

    @property
    def standard_error(self) -> float:
        """See the module."""
        if self.first.examples == self.second.examples:
            found = paired(self.first.examples, self.second.parts, self.first.parts)
            if found is not None:
                return found.standard_error
        return math.hypot(self.first.standard_error, self.second.standard_error)


def differences(first: Sequence[Point], second: Sequence[Point]) -> list[Difference]:
    """At all steps at which either was measured and that lie within both; each sequence in order of steps."""
    low, high = max(first[0].step, second[0].step), min(first[-1].step, second[-1].step)
    steps = sorted({point.step for point in (*first, *second) if low <= point.step <= high})
    return [Difference(step, _at(first, step), _at(second, step)) for step in steps]


def _at(points: Sequence[Point], step: int) -> Point:
    after = next(index for index, point in enumerate(points) if point.step >= step)
    right = points[after]
    if right.step == step:
        return right
    left = points[after - 1]
    weight = (step - left.step) / (right.step - left.step)
    error = math.hypot((1 - weight) * left.standard_error, weight * right.standard_error)
    mean = (1 - weight) * left.mean + weight * right.mean
    parts: tuple[float, ...] = ()
    if left.examples == right.examples:
        parts = tuple((1 - weight) * a + weight * b for a, b in zip(left.parts, right.parts, strict=True))
    return Point(step, mean, error, right.examples if parts else (), parts)
