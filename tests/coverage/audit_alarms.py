"""The audit's false alarms and its power, over sizes, rare classes and features, ties, one class, and groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.conclusion import judged
from streamtrain.inspect.audit.sample import Sample
from tests.coverage.simulation import Row, rate
from tests.support.foreign import buffered

Columns = tuple[NDArray[np.int64] | None, dict[str, NDArray[np.float64]]]
KINDS = ("rare class", "rare feature", "ties", "one class", "many classes", "skewed")


def columns(kind: str, n: int, generator: np.random.Generator) -> Columns:
    """Labels and features of ``n`` examples, in no order."""
    noise = generator.normal(size=n)
    rare = (np.arange(n) < max(2, round(n * 0.003))).astype(np.int64)
    if kind == "rare class":
        return rare, {"label's number": rare.astype(float), "noise": noise}
    if kind == "rare feature":
        return None, {"rare": rare.astype(float), "spread": np.where(rare, noise, 0.0)}
    if kind == "ties":
        return generator.integers(0, 2, n), {"few values": generator.integers(0, 3, n).astype(float)}
    if kind == "one class":
        return np.zeros(n, np.int64), {"noise": noise}
    if kind == "many classes":
        return generator.geometric(0.02, n), {"noise": noise}
    return generator.geometric(0.4, n), {"skewed": generator.lognormal(sigma=2.0, size=n)}


def false_alarms(kind: str, n: int, repetitions: int) -> Row:
    """Of a uniformly random order, in groups of unequal size."""
    generator = np.random.default_rng(n + len(kind))
    labels, features = columns(kind, n, generator)
    shards = np.searchsorted(np.sort(generator.integers(1, n, 5)), np.arange(n), side="right")
    alarms = []
    for _ in range(repetitions):
        order = generator.permutation(n)
        shuffled = {name: values[order] for name, values in features.items()}
        sample = Sample((n,), None if labels is None else labels[order], shuffled, shards, n)
        alarms.append(not judged(sample, 128).shuffled)
    return rate(f"audit, false alarms, {kind}", f"uniform, {n:,} examples", alarms, at_most=0.015)


def power(repetitions: int) -> Row:
    """Of a sorted set of ten classes behind a shuffle buffer of a tenth of it."""
    generator, seen, n = np.random.default_rng(5), [], 4000
    labels = np.arange(n) * 10 // n
    for seed in range(repetitions):
        order = np.array(buffered(range(n), n // 10, seed=seed))
        features = {"x": labels[order] + generator.normal(size=n)}
        seen.append(not judged(Sample((n,), labels[order], features, np.arange(n) * 4 // n, n), 128).shuffled)
    return rate("audit, power, shuffle buffer", "a buffer of a tenth", seen, at_least=0.95)


def fast() -> list[Row]:
    """Small cells."""
    return [false_alarms(kind, n, 150) for kind in ("rare class", "ties") for n in (10, 100)]


def grid(kind: str) -> list[Row]:
    """All sizes of a kind."""
    return [false_alarms(kind, n, 400) for n in (10, 30, 100, 1000, 5000, 50_000)]


def slow() -> list[Row]:
    """What is seen of what is there; the grid of false alarms is by kind."""
    return [power(400)]
