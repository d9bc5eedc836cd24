"""What passes were worth, where the one-pass curve is a known power law and held-out examples are the same for all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.measure.comparison import Point, reuse
from tests.coverage.simulation import Row, interval

SIZES = (32,) * 64
COMMON, OWN = 0.5, 0.2
"""Spread of one example's loss: what it has in all measurements, and what in each."""
EXAMPLES = 6000


def law(examples: NDArray[np.float64] | float) -> NDArray[np.float64] | float:
    """The risk after one pass."""
    return 0.1 + 30 * examples**-0.5


def measured(
    place: int,
    risk: NDArray[np.float64] | float,
    hard: NDArray[np.float64],
    chance: float,
    generator: np.random.Generator,
) -> Point:
    """A measurement of a run whose own chance has such a spread; ``hard``: of the parts, standard normal."""
    of_run = chance * generator.normal()
    parts = risk + of_run + (COMMON * hard + OWN * generator.normal(size=len(SIZES))) / SIZES[0] ** 0.5
    error = (COMMON**2 + OWN**2) ** 0.5 / sum(SIZES) ** 0.5
    return Point(place, float(parts.mean()), error, SIZES, tuple(parts.tolist()))


def known(times: float, chance: float, repetitions: int) -> Row:
    """Passes that are worth so much, with runs of such a chance of their own."""
    found, errors = [], []
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        hard = generator.normal(size=len(SIZES))
        places = np.linspace(5000, 50_000, 10)
        one = [measured(int(n), law(n), hard, chance, generator) for n in places]
        worth = reuse(7, EXAMPLES, measured(0, law(times * EXAMPLES), hard, chance, generator), one)
        assert worth is not None
        found.append(worth.times)
        errors.append(worth.standard_error)
    where = "within" if times * EXAMPLES <= 50_000 else "extrapolated"
    return interval(f"what passes were worth, {where}, runs ± {chance:g}", times, found, errors)


def fast() -> list[Row]:
    """One."""
    return [known(3.1, 0.002, 150)]


def slow() -> list[Row]:
    """With and without chance of the runs, and beyond what was measured."""
    return [known(times, chance, 400) for times in (3.1, 12.0) for chance in (0.0, 0.002, 0.005)]
