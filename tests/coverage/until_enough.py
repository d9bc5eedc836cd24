"""± of a held-out error that was looked at only until it was small enough: the stop depends on what was seen."""

from __future__ import annotations

import numpy as np

from streamtrain.order import evaluation_slice
from streamtrain.run.watching.measuring.evaluator import _enough, _first
from streamtrain.values import Moments
from tests.coverage.simulation import Row, interval


def stopped(wrong: float, held_out: int, until: float, repetitions: int) -> Row:
    """An error of this part, of so many held-out examples at most."""
    generator = np.random.default_rng(held_out)
    size = evaluation_slice(held_out)
    sizes = [min(size, held_out - start) for start in range(0, held_out, size)]
    means, errors = [], []
    for _ in range(repetitions):
        values = (generator.random(held_out) < wrong).astype(float)
        places = generator.permutation(len(sizes)).tolist()
        count = _first(sizes, places)
        while True:
            seen = np.concatenate([values[place * size : place * size + sizes[place]] for place in places[:count]])
            found = Moments.of(seen)
            if count == len(sizes) or found.standard_error <= until:
                break
            count = min(len(sizes), max(count + 1, _enough(count, found.standard_error, until)))
        means.append(found.mean)
        errors.append(found.standard_error)
    return interval(f"error of {wrong:g}, until ± {until:g} of {held_out:,}", wrong, means, errors)


def fast() -> list[Row]:
    """One of each: rare and frequent."""
    return [stopped(0.1, 10_000, 0.008, 400), stopped(0.02, 50_000, 0.004, 400)]


def slow() -> list[Row]:
    """From one in a hundred to a half."""
    cells = (
        (0.1, 10_000, 0.008),
        (0.02, 50_000, 0.004),
        (0.3, 5_000, 0.012),
        (0.5, 20_000, 0.02),
        (0.01, 20_000, 0.003),
    )
    return [stopped(*cell, 1000) for cell in cells]
