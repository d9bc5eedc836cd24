"""The verdict on curves whose truth is known, by the number of measurements and of held-out examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.measure.gap import Parts
from streamtrain.measure.verdict import verdict
from streamtrain.order import evaluation_slice
from streamtrain.values import Moments, Risk
from tests.coverage.simulation import Row, rate

OWN = 0.31
"""Spread of what one measurement of an example has by itself, beside what it has in common with the others."""


def says_overfitting(measurements: int, examples: int, rise: float, generator: np.random.Generator) -> bool:
    """Of a held-out risk that is flat but for the last measurement, which is ``rise`` standard errors higher.

    The standard error is that of the difference of two measurements on the same examples. The training loss falls.
    """
    hard = generator.exponential(size=examples)
    curve = [0.95 * hard + OWN * generator.exponential(size=examples) for _ in range(measurements)]
    curve[-1] = curve[-1] + rise * OWN * np.sqrt(2 / examples)
    training = [Moments(examples, 1.26 - 0.001 * at, float(examples)) for at in range(measurements)]
    return verdict(training, [Moments.of(losses) for losses in curve], [parts(each) for each in curve]) == "overfitting"


def parts(losses: NDArray[np.float64]) -> Parts:
    """As an evaluation cuts them."""
    cut = np.array_split(losses, -(-len(losses) // evaluation_slice(len(losses))))
    return Parts.of([Risk(Moments.of(each), Moments.of(each)) for each in cut])


def flat(measurements: int, examples: int, repetitions: int) -> Row:
    """Flat curves that are called overfitting."""
    generator = np.random.default_rng(measurements + examples)
    said = [says_overfitting(measurements, examples, 0.0, generator) for _ in range(repetitions)]
    return rate("verdict, overfitting", f"flat, T = {measurements}, n = {examples:,}", said, at_most=0.05)


def risen(measurements: int, examples: int, repetitions: int) -> Row:
    """Rises of four standard errors that are called overfitting."""
    generator = np.random.default_rng(measurements + examples)
    said = [says_overfitting(measurements, examples, 4.0, generator) for _ in range(repetitions)]
    return rate(
        "verdict, overfitting", f"+4 standard errors, T = {measurements}, n = {examples:,}", said, at_least=0.75
    )


def fast() -> list[Row]:
    """One size of each."""
    return [flat(10, 400, 100), risen(10, 400, 100)]


def slow() -> list[Row]:
    """T from 5 to 50, n from 400 to 25,000."""
    grid = [(t, n) for t in (5, 10, 20, 50) for n in (400, 7000, 25_000)]
    return [row(t, n, 400) for t, n in grid for row in (flat, risen)]
