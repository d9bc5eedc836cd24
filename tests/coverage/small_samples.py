"""± of few examples, and of fractions, near 0 too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.values import Moments
from tests.coverage.simulation import Row, interval

SKEWED = "skewed losses of so few examples: their tail is not in the sample"


def few(examples: int, repetitions: int, *, skewed: bool = False) -> Row:
    """The mean of a few losses."""
    generator = np.random.default_rng(examples)
    losses = (generator.exponential if skewed else generator.normal)(size=(repetitions, examples))
    kind = "exponential" if skewed else "normal"
    name = f"risk of {examples} examples, {kind} losses"
    return _of(name, 1.0 if skewed else 0.0, losses, but=SKEWED if skewed else "")


def fractions(examples: int, wrong: tuple[float, float], repetitions: int) -> Row:
    """An error of so many wrong examples, from and to, in the mean: each repetition has another."""
    generator = np.random.default_rng(examples)
    parts = np.exp(generator.uniform(*np.log(wrong), size=repetitions)) / examples
    values = (generator.random((repetitions, examples)) < parts[:, None]).astype(float)
    why = "" if wrong[0] > 3 else "less than one step of 1/n is not told apart"
    return _of(f"error, {wrong[0]:g} to {wrong[1]:g} of {examples:,} wrong", parts, values, or_more=why)


def _of(
    name: str, truth: float | NDArray[np.float64], values: NDArray[np.float64], *, or_more: str = "", but: str = ""
) -> Row:
    moments = [Moments.of(each) for each in values]
    means, errors = [each.mean for each in moments], [each.standard_error for each in moments]
    return interval(name, truth, means, errors, or_more=or_more, but=but)


def fast() -> list[Row]:
    """The smallest."""
    return [few(3, 400), few(10, 400), fractions(400, (0.05, 3), 300), fractions(400, (5, 200), 300)]


def slow() -> list[Row]:
    """From two examples to thirty, and fractions of few and many."""
    small = [few(n, 2000) for n in (2, 3, 5, 10, 29)] + [few(n, 2000, skewed=True) for n in (5, 29)]
    return [*small, *(fractions(n, wrong, 1000) for n in (20, 400, 7000) for wrong in ((0.05, 3), (5, n / 2)))]
