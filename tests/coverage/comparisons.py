"""± of comparisons: of two runs on the same held-out examples, and of groups of runs, whose own chance is in it too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.measure.comparison import Point, differences, group_differences
from tests.coverage.simulation import Row, interval

PARTS, SIZE, OWN = 40, 10, 0.3


def measured(hard: NDArray[np.float64], risk: float, generator: np.random.Generator, step: int = 5) -> list[Point]:
    """One run's measurement on examples of which some are hard for all."""
    losses = risk + hard + OWN * generator.normal(size=len(hard))
    parts = losses.reshape(PARTS, SIZE).mean(axis=1)
    error = float(losses.std(ddof=1)) / len(losses) ** 0.5
    return [Point(step, float(losses.mean()), error, (SIZE,) * PARTS, tuple(parts.tolist()))]


def pairs(repetitions: int) -> Row:
    """Two runs."""
    found = []
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        hard = generator.normal(size=PARTS * SIZE)
        (each,) = differences(measured(hard, 0.1, generator), measured(hard, 0.0, generator))
        found.append((each.value, each.reach))
    return interval("difference of two runs", 0.1, *np.array(found).T)


def groups(runs: tuple[int, int], chance: float, repetitions: int) -> Row:
    """Groups of so many runs, each off by chance of such a spread."""
    found = []
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        hard = generator.normal(size=PARTS * SIZE)
        first, second = (
            [measured(hard, risk + chance * generator.normal(), generator) for _ in range(count)]
            for risk, count in zip((0.1, 0.0), runs, strict=True)
        )
        (each,) = group_differences(first, second)
        found.append((each.value, each.reach))
    why = "what held-out examples add is reckoned twice: it is in the spread over runs too"
    name = f"difference of {runs[0]} and {runs[1]} runs, each ± {chance:g}"
    return interval(name, 0.1, *np.array(found).T, or_more=why)


def fast() -> list[Row]:
    """One of each."""
    return [pairs(300), groups((3, 3), 0.05, 300)]


def slow() -> list[Row]:
    """More."""
    return [pairs(1000), *(groups(runs, 0.05, 1000) for runs in ((2, 2), (3, 5), (8, 8)))]
