"""What is kept of a sample of examples: counts, means and spreads that can be merged, of plain means and of ratios.

A weighted mean is a ratio of two sums, ``R = Σs/Σw``. Its standard error is that of a mean of linearized values,
``zᵢ = (sᵢ − R wᵢ)/w̄`` (Cochran 1977, section 2.11): so with Σz² in the place of the squared deviations a ratio is
treated like a mean wherever one is. A function of several means is linearized likewise (the delta method).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.plus_minus import fraction_error, student_factor
from streamtrain.stored import Stored

Columns = NDArray[np.float64]


def merged_moments(one: Any, other: Any, count: Any) -> tuple[Any, Any]:
    """Mean and sum of squared deviations of two samples together (Chan, Golub & LeVeque 1979).

    Args:
        one, other: count, mean and sum of squared deviations of each; numbers, or tensors of shape ().
        count: of both together, at least 1.
    """
    delta = other[1] - one[1]
    return one[1] + delta * other[0] / count, one[2] + other[2] + delta * delta * one[0] * other[0] / count


@dataclass(frozen=True)
class Joint(Stored):
    """Several numbers of each example: of ratios, each one's sum s and its weight w, one pair after the other.

    ``sums``: over the examples, of every number. ``products``: sums of products of two numbers' deviations from their
    means, ``(0, 0), (0, 1), …, (1, 1), (1, 2), …``.
    """

    sums: tuple[float, ...]
    products: tuple[float, ...]

    @classmethod
    def of(cls, columns: Columns) -> Joint:
        """Of an array of shape (numbers, examples), at least one example."""
        sums = np.add.reduce(columns, axis=1)
        away = columns - (sums / columns.shape[1])[:, None]
        rows = range(len(columns))
        products = (float(np.add.reduce(away[i] * away[j])) for i in rows for j in rows if i <= j)
        return cls(tuple(sums.tolist()), tuple(products))

    def with_others(self, count: int, other: Joint, other_count: int) -> Joint:
        """Together with another sample's, both of at least one example."""
        deltas = [b / other_count - a / count for a, b in zip(self.sums, other.sums, strict=True)]
        share = count * other_count / (count + other_count)
        pairs = ((i, j) for i in range(len(deltas)) for j in range(i, len(deltas)))
        return Joint(
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(
                a + b + deltas[i] * deltas[j] * share
                for a, b, (i, j) in zip(self.products, other.products, pairs, strict=True)
            ),
        )

    @property
    def ratios(self) -> list[float]:
        """Of every pair; NaN where its weights are all 0."""
        pairs = zip(self.sums[::2], self.sums[1::2], strict=True)
        return [s / w if w else math.nan for s, w in pairs]

    def squares(self, slopes: Sequence[float], count: int) -> float:
        """``Σz²`` of a function of the ratios with these partial derivatives, linearized."""
        along: list[float] = []
        for slope, ratio, weight in zip(slopes, self.ratios, self.sums[1::2], strict=True):
            if slope and not weight:
                return math.nan
            along += (slope * count / weight, -slope * ratio * count / weight) if slope else (0.0, 0.0)
        pairs = ((i, j) for i in range(len(along)) for j in range(i, len(along)))
        terms = ((1 if i == j else 2) * along[i] * along[j] * p for (i, j), p in zip(pairs, self.products, strict=True))
        return max(math.fsum(terms), 0.0)


@dataclass(frozen=True)
class Moments(Stored):
    """Count, mean and sum of squared deviations of a sample, mergeable (Chan, Golub & LeVeque 1979).

    ``population``: how many there are of which these were drawn without replacement; 0 for no end of them.
    ``design_effect``: the variance of the mean over what it were if all were drawn independently (Kish 1965); ``None``
    where they are taken for that, NaN where it cannot be told. A sum of two knows neither of them.
    ``joint``: of a ratio or a function of several; ``None`` of a plain mean.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    population: int = 0
    design_effect: float | None = None
    joint: Joint | None = None

    @classmethod
    def of(cls, values: NDArray[np.generic]) -> Moments:
        """Of all elements, in float64."""
        data = np.asarray(values, np.float64)
        if data.size == 0:
            return cls()
        mean = float(np.add.reduce(data, axis=None)) / data.size
        if not math.isfinite(mean):  # infinity less infinity: numpy would warn of what is no news
            return cls(data.size, mean, math.nan)
        away = data - mean
        return cls(data.size, mean, float(np.add.reduce(away * away, axis=None)))

    @classmethod
    def of_rows(cls, rows: Columns) -> list[Moments]:
        """Of each row, as `of` gives it, to the bit: one pass over all of them."""
        count = rows.shape[1]
        if not count:
            return [cls()] * len(rows)
        means = np.add.reduce(rows, axis=1) / count
        if not np.isfinite(means).all():
            return [cls.of(row) for row in rows]
        away = rows - means[:, None]
        squares = np.add.reduce(away * away, axis=1)
        return [cls(count, mean, m2) for mean, m2 in zip(means.tolist(), squares.tolist(), strict=True)]

    @classmethod
    def of_slices(cls, rows: Columns, sizes: Sequence[int]) -> list[list[Moments]]:
        """Of each of several slices of columns, which lie one behind the other and have one at least, by row.

        The bits of a slice are the same whatever others are there; they may differ from those of `of_rows`.
        """
        starts = [0, *itertools.accumulate(sizes)]
        with np.errstate(invalid="ignore"):  # infinity less infinity is no news
            means = np.add.reduceat(rows, starts[:-1], axis=1) / np.array(sizes)
            away = rows - np.repeat(means, sizes, axis=1)
            squares = np.add.reduceat(away * away, starts[:-1], axis=1)
        squares[~np.isfinite(means)] = np.nan
        both = zip(sizes, means.T.tolist(), squares.T.tolist(), strict=True)
        return [[cls(size, *each) for each in zip(mean, m2, strict=True)] for size, mean, m2 in both]

    @classmethod
    def of_ratio(cls, sums: NDArray[np.generic], weights: NDArray[np.generic]) -> Moments:
        """Of the ratio of two sums over the examples; both of shape (examples,)."""
        columns = np.stack([np.asarray(each, np.float64) for each in (sums, weights)])
        return cls.of_joint(columns.shape[1], Joint.of(columns)) if columns.shape[1] else cls()

    @classmethod
    def of_joint(cls, count: int, joint: Joint) -> Moments:
        """Of what is known of ``count`` examples: of one pair their ratio; of more the mean is not known here."""
        if len(joint.sums) > 2:
            return cls(count, math.nan, math.nan, joint=joint)
        (ratio,) = joint.ratios
        return cls(count, ratio, joint.squares([1.0], count) if joint.sums[1] else math.nan, joint=joint)

    def mapped(self, function: Callable[..., float]) -> Moments:
        """Of ``function`` of the ratios: its value, and the deviations that its linearization gives; NaN if it fails.

        Slopes are taken over a thousandth of each ratio's standard error: where the function is used, at the scale
        that its error is asked for.
        """
        if self.joint is None or not self.count:
            return self
        ratios = self.joint.ratios
        alone = [[float(i == j) for j in range(len(ratios))] for i in range(len(ratios))]
        steps = [1e-3 * math.sqrt(self.joint.squares(slopes, self.count)) / self.count for slopes in alone]
        try:
            value = float(function(*ratios))
            slopes = []
            for at, step in enumerate(steps):
                above, below = ([r + (i == at) * way for i, r in enumerate(ratios)] for way in (step, -step))
                slopes.append((float(function(*above)) - float(function(*below))) / (2 * step) if step else 0.0)
        except (ArithmeticError, ValueError):
            return Moments(self.count, math.nan, math.nan, joint=self.joint)
        return Moments(self.count, value, self.joint.squares(slopes, self.count), joint=self.joint)

    def __add__(self, other: Moments) -> Moments:
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        if self.joint is not None or other.joint is not None:
            both = self.as_joint.with_others(self.count, other.as_joint, other.count)
            return Moments.of_joint(count, both)
        one = (self.count, self.mean, self.m2)
        two = (other.count, other.mean, other.m2)
        return Moments(count, *merged_moments(one, two, count))

    @property
    def as_joint(self) -> Joint:
        """The same as a ratio; of a plain mean each example weighs 1."""
        return self.joint or Joint((self.mean * self.count, float(self.count)), (self.m2, 0.0, 0.0))

    @property
    def weight(self) -> float:
        """What all examples weigh together in a mean: as many as they are, unless it is a ratio."""
        return self.count if self.joint is None or len(self.joint.sums) > 2 else self.joint.sums[1]

    @property
    def variance(self) -> float:
        """Unbiased sample variance ``s²``; NaN below two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def is_exact(self) -> bool:
        """Whether all there are were looked at."""
        return self.count >= self.population > 0

    @property
    def standard_error(self) -> float:
        """What ±1 is to be: ``s/√n``, standard error of the mean (Deep Learning, equation 5.46); NaN for one example.

        Of n out of N examples ``s/√n · √(1 − n/N)`` (Cochran 1977, equation 2.20): 0 where all were looked at. Below 30
        examples wider by Student's t; of values that are 0 or 1, half of Wilson's interval: see `fraction_error`.
        """
        if self.is_exact:
            return 0.0
        if self.count < 2:
            return math.nan
        rest = 1 - self.count / self.population if self.population else 1.0
        part = self.mean
        if 0 <= part <= 1 and abs(self.m2 - self.count * part * (1 - part)) <= 1e-9 * self.count * part:
            error = fraction_error(self.count, part)
        else:
            error = student_factor(self.count) * math.sqrt(self.variance / self.count)
        return error * math.sqrt(rest * (1.0 if self.design_effect is None else self.design_effect))
