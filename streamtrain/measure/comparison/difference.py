"""Two runs at equal numbers of updates: many passes over few examples against one pass over fresh ones.

With ``R(t)`` the held-out risk after t updates in the real world (examples come again) and ``I(t)`` in the ideal one
(every example is new), ``R(t) − I(t)`` is what reusing examples costs (Nakkiran, Neyshabur, Sedghi 2021, *The Deep
Bootstrap Framework*; they take the soft error for R and I, which is smoother than the 0-1 error).

Where only one run was measured after t updates, the other's risk is interpolated linearly, part by part of the held-out
examples. The standard error is the paired one; with too few parts both runs are taken for independent, which on the
same examples is rather too large than too small. What one run measured twice, on the same examples, is not independent:
the errors of the two measurements that it is interpolated between are added.

Two runs say how two vectors of parameters differ, not how two jobs do: other seeds give other parameters. Groups of
runs do: their means are compared, and the spread over the runs of each goes into the standard error (Welch 1947).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamtrain.measure.gap import paired
from streamtrain.measure.risk import LEAST_PARTS

CLEARLY, ONE_SIGMA = 0.02275, 0.15866
"""Chance, on either side, of a difference that is called clear where there is none: that of two standard errors of a
normal; and that of one standard error."""


@dataclass(frozen=True)
class Point:
    """A measurement after ``step`` updates; ``parts`` has the means over its parts, of so many ``examples`` each.

    Of a weighted mean ``examples`` are what the parts weigh.
    """

    step: int
    mean: float
    standard_error: float
    examples: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Of a difference of two groups' means over the runs: its standard error, and the degrees of freedom of that.

    ``deviations``: the standard deviation of one run of each group.
    """

    standard_error: float
    degrees: float
    deviations: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Difference:
    """First minus second after ``step`` updates; ``runs`` is there where both are means over several runs."""

    step: int
    first: Point
    second: Point
    runs: Spread | None = None

    @property
    def value(self) -> float:
        """First minus second."""
        return self.first.mean - self.second.mean

    @property
    def standard_error(self) -> float:
        """Of the held-out examples, and of the runs where there are several."""
        found = self._paired()
        of_examples = math.hypot(self.first.standard_error, self.second.standard_error) if found is None else found
        return of_examples if self.runs is None else math.hypot(of_examples, self.runs.standard_error)

    @property
    def reach(self) -> float:
        """±: the standard error, wider by Student's t where few runs or parts tell of it."""
        return self.standard_error * self._quantile(ONE_SIGMA)

    @property
    def is_clear(self) -> bool:
        """Whether it is told from zero; never where a mean or its error is not known."""
        value = self.value
        error = self.standard_error
        if not (math.isfinite(value) and math.isfinite(error)) or value == 0:
            return False
        return abs(value) > self._quantile(CLEARLY) * error

    def _quantile(self, beyond: float) -> float:
        """What lies that seldom above, in standard errors."""
        from scipy.stats import t as student

        return float(student.isf(beyond, self._degrees()))

    def _paired(self) -> float | None:
        if self.first.examples != self.second.examples:
            return None
        found = paired(self.first.examples, self.second.parts, self.first.parts)
        return None if found is None else found.standard_error

    def _degrees(self) -> float:
        if self.runs is not None:
            return self.runs.degrees
        return len(self.first.examples) - 1 if self._paired() is not None else math.inf


def differences(first: Sequence[Point], second: Sequence[Point]) -> list[Difference]:
    """At all steps at which either was measured and that lie within both; each sequence in order of steps."""
    low, high = max(first[0].step, second[0].step), min(first[-1].step, second[-1].step)
    steps = sorted({point.step for point in (*first, *second) if low <= point.step <= high})
    return [Difference(step, _at(first, step), _at(second, step)) for step in steps]


def group_differences(first: Sequence[Sequence[Point]], second: Sequence[Sequence[Point]]) -> list[Difference]:
    """The same of two groups of at least two runs each, wherever any run was measured and all were around.

    The groups' means are compared. The variance of their difference over the runs is ``s₁²/n₁ + s₂²/n₂``, with the
    degrees of freedom of Welch (1947) and Satterthwaite (1946).
    """
    runs = [*first, *second]
    low, high = max(run[0].step for run in runs), min(run[-1].step for run in runs)
    found = []
    for step in sorted({point.step for run in runs for point in run if low <= point.step <= high}):
        groups = [[_at(run, step) for run in group] for group in (first, second)]
        found.append(Difference(step, _mean(groups[0]), _mean(groups[1]), _spread(*groups)))
    return found


def _mean(points: Sequence[Point]) -> Point:
    """Over runs; the error is of the held-out examples, which all runs have in common."""
    count = len(points)
    mean = math.fsum(point.mean for point in points) / count
    error = math.fsum(point.standard_error for point in points) / count
    examples = points[0].examples
    parts: tuple[float, ...] = ()
    if len(examples) >= LEAST_PARTS and all(point.examples == examples for point in points):
        parts = tuple(math.fsum(each) / count for each in zip(*(point.parts for point in points), strict=True))
    return Point(points[0].step, mean, error, examples if parts else (), parts)


def _spread(first: Sequence[Point], second: Sequence[Point]) -> Spread:
    shares = []
    for group in (first, second):
        mean = math.fsum(point.mean for point in group) / len(group)
        squares = math.fsum((point.mean - mean) ** 2 for point in group)
        shares.append((squares / (len(group) - 1) / len(group), len(group) - 1))
    variance = math.fsum(share for share, _ in shares)
    degrees = variance**2 / math.fsum(share**2 / free for share, free in shares) if variance > 0 else math.inf
    first_deviation, second_deviation = (math.sqrt(share * (free + 1)) for share, free in shares)
    return Spread(math.sqrt(variance), degrees, (first_deviation, second_deviation))


def _at(points: Sequence[Point], step: int) -> Point:
    after = next(index for index, point in enumerate(points) if point.step >= step)
    right = points[after]
    if right.step == step:
        return right
    left = points[after - 1]
    weight = (step - left.step) / (right.step - left.step)
    error = (1 - weight) * left.standard_error + weight * right.standard_error
    mean = (1 - weight) * left.mean + weight * right.mean
    parts: tuple[float, ...] = ()
    if left.examples == right.examples:
        parts = tuple((1 - weight) * a + weight * b for a, b in zip(left.parts, right.parts, strict=True))
    return Point(step, mean, error, right.examples if parts else (), parts)
