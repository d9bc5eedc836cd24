"""One test's outcome, and what is left of it when many are made at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Statistic = Literal["runs", "serial correlation", "balance over shards", "drift over parts", "period"]


@dataclass(frozen=True)
class Evidence:
    """A test of the hypothesis that the stored order is a uniformly random one.

    Attributes:
        statistic: which test.
        subject: what was tested: a feature, or the classes.
        scale: the lag of a serial correlation, the parts or shards that were compared; 1 for runs.
        p_value: probability, under that hypothesis, of what was found or of what is less like it.
        effect: size of what was found, 0 for none; ``says`` tells its unit.
        says: found and expected, in words.
    """

    statistic: Statistic
    subject: str
    scale: int
    p_value: float
    effect: float
    says: str


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: to reject those below α keeps the chance of any false alarm at most α.

    p̃₍ᵢ₎ = max over j ≤ i of min(1, (n - j + 1) p₍ⱼ₎), p₍₁₎ the smallest of n; whatever the tests'
    dependence (Holm 1979, "A simple sequentially rejective multiple test procedure").
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
