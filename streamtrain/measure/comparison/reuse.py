"""What more passes were worth: how many times the data one pass would have needed for the same held-out risk.

With ``L(n)`` the held-out risk after one pass over n examples and ``R`` that of a run which made K passes over N, the
effective reuse is ``n*/N`` with ``L(n*) = R`` (arXiv 2511.13421: the factor by which the data would have to grow to
match K passes). L is fitted as a `power_law` to one-pass runs, or to measurements on the way of them.

Its ± has three parts, added squared:

- the held-out examples, which all measurements have in common: each of their parts is left out in turn, in all
  measurements alike, and everything computed again (the jackknife; Efron & Tibshirani 1993, equation 11.5);
- the fit: its distances from the points, as far as they are not those of the held-out examples, carried to n* through
  the law's derivatives (the delta method);
- the run of many passes itself, whose own chance is taken to be as large as those distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.measure.comparison.difference import Point
from streamtrain.measure.comparison.power_law import LEAST_POINTS, Numbers, PowerLaws, fit
from streamtrain.measure.risk import LEAST_PARTS


@dataclass(frozen=True)
class Reuse:
    """``passes`` over ``examples`` were worth ``times`` their number in one pass.

    Attributes:
        times: infinite where the one-pass curve never comes so low, as far as its fit tells.
        standard_error: of it; infinite where it cannot be told.
        measured_to: the largest part of ``examples``, as a factor, that a one-pass run was measured at: beyond it,
            ``times`` is extrapolated.
    """

    passes: float
    examples: int
    times: float
    standard_error: float
    measured_to: float

    @property
    def words(self) -> str:
        """A sentence."""
        what = f"{self.passes:.3g} passes over {self.examples:,} examples"
        if not (math.isfinite(self.times) and math.isfinite(self.standard_error)):
            return (
                f"{what} were worth more than {self.measured_to:.3g} times the data in one pass, as far as was measured"
            )
        beyond = f", extrapolated: one pass was measured up to {self.measured_to:.3g}" * (self.times > self.measured_to)
        return f"{what} were worth {self.times:.2f} ± {self.standard_error:.2f} times the data in one pass{beyond}"


def reuse(passes: float, examples: int, many: Point, one: Sequence[Point]) -> Reuse | None:
    """See the module; ``None`` of fewer than `LEAST_POINTS` points of one pass, or without parts in common.

    Args:
        passes: made over so many ``examples``.
        many: the risk after them.
        one: risks of one pass, each with the number of examples as its ``step``.
    """
    sizes = many.examples
    if len(one) < LEAST_POINTS or len(sizes) < LEAST_PARTS or any(point.examples != sizes for point in one):
        return None
    places = np.array([point.step for point in one], float)
    weights = np.array([point.standard_error for point in one]) ** -2.0
    if not np.isfinite(weights).all():
        weights = np.ones(len(one))
    whole = np.array(sizes, float) / sum(sizes)
    parts = np.array([point.parts for point in (many, *one)])
    means = np.vstack([parts @ whole, *(_without(parts, whole, each) for each in range(len(sizes)))])
    laws = fit(places, means[:, 1:], weights)
    found = laws.reached(means[:, 0]) / examples
    times = float(found[0])
    measured_to = float(places.max()) / examples
    if not np.isfinite(found).all():
        return Reuse(passes, examples, times, math.inf, measured_to)
    log = np.log(found[1:])
    of_parts = (len(sizes) - 1) / len(sizes) * float(np.square(log - log.mean()).sum())
    known = _of_held_out(parts[1:], whole)
    error = times * math.sqrt(of_parts + _of_the_fit(laws, places, means[0], weights, times * examples, known))
    return Reuse(passes, examples, times, error, measured_to)


def reuse_of_runs(each: Sequence[Reuse]) -> Reuse:
    """The mean over runs of many passes, at least one, with the spread over them where there are several.

    What they have in common, the one-pass curve and the held-out examples, no mean makes smaller.
    """
    times = float(np.mean([one.times for one in each]))
    error = float(np.mean([one.standard_error for one in each]))
    if len(each) > 1 and math.isfinite(error):
        spread = float(np.std([one.times for one in each], ddof=1)) / math.sqrt(len(each))
        error = max(error, spread)
    first = each[0]
    return Reuse(first.passes, first.examples, times, error, first.measured_to)


def _without(parts: Numbers, whole: Numbers, each: int) -> Numbers:
    """The means of all measurements without one part."""
    rest = np.delete(whole, each)
    means: Numbers = np.delete(parts, each, 1) @ (rest / rest.sum())
    return means


def _of_held_out(parts: Numbers, whole: Numbers) -> float:
    """Variance of one point about the others that comes from the held-out examples, in the mean over the points."""
    points, count = parts.shape
    apart = parts - parts.mean(0)
    away = whole * (apart - (apart @ whole)[:, None])
    return float(np.square(away).sum() / (points - 1) * count / (count - 1))


def _of_the_fit(
    laws: PowerLaws, places: Numbers, means: Numbers, weights: Numbers, reached: float, known: float
) -> float:
    """Variance of log n* that comes from the points' distances from the law, and from as much in the other run.

    Args:
        known: variance of a point that is reckoned elsewhere.
    """
    floor, scale, exponent = (float(each[0]) for each in (laws.floor, laws.scale, laws.exponent))
    left = means[1:] - (floor + scale * places**-exponent)
    share = weights / weights.mean()
    variance = max(float((share * left**2).sum()) / (len(places) - 3) - known, 0.0)

    def derivatives(at: Numbers) -> Numbers:
        return np.stack([np.ones_like(at), at**-exponent, -scale * at**-exponent * np.log(at)], axis=1)

    slopes = derivatives(places)
    end = derivatives(np.array([reached]))[0]
    information = (slopes * share[:, None]).T @ slopes
    of_law = float(end @ np.linalg.pinv(information) @ end)
    slope = float(laws.slopes(np.full(len(laws.floor), reached))[0])
    return variance * (1 + of_law) / slope**2
