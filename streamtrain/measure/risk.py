"""Risk: the mean loss and the mean error on a set of examples, all at the same parameters.

On training examples it is the empirical risk, ``(1/m) Σ L(f(x⁽ⁱ⁾; θ), y⁽ⁱ⁾)`` (Deep Learning, 8.3); on
unseen ones it estimates the generalization risk ``E L(f(x; θ), y)`` (8.2). Standard error: ``s/√n`` (5.46).

That takes examples for independent. In shards whose order is not known, neighbours may tell about one another: frames
of one film, lines of one text. Examples are measured in slices of neighbours, so the spread between slices holds what
they have in common: with wⱼ a slice's part of the examples and mⱼ its mean, the variance of the mean m is
``J/(J−1) Σ wⱼ²(mⱼ − m)²`` (Cochran 1977, section 9A), and its design effect that over s²/n. What reaches farther than a
slice, as between shards of one source each, is seen in part only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from streamtrain.values import Moments, Risk

NONE: Mapping[str, Callable[..., float]] = MappingProxyType({})
MOST_PARTS, LEAST_PARTS = 64, 4
"""Of examples in order: more are joined, and with fewer the spread of their means says too little."""
STANDARD_ERRORS = {
    "uniform": "of independent examples",
    "unknown": "of risks from the spread between slices, the order being unknown; of progressive means none holds",
}
"""What they rest on, by the order of a data set."""


def pooled(
    slices: Iterable[Risk],
    order: Literal["uniform", "unknown"] = "uniform",
    functions: Mapping[str, Callable[..., float]] = NONE,
) -> Risk:
    """The risk on the union of disjoint sets, merged in the order given, so with the same bits for any workers.

    Args:
        slices: of neighbours in the stored order, where that is ``unknown``: with the design effect that they show.
        functions: by the names of those metrics that are functions of means.
    """
    risks = list(slices)
    loss, error = Moments(), Moments()
    metrics: dict[str, Moments] = {}
    for risk in risks:
        loss, error = loss + risk.loss, error + risk.error
        for name, moments in risk.metrics.items():
            metrics[name] = metrics.get(name, Moments()) + moments
    metrics |= {name: metrics[name].mapped(function) for name, function in functions.items() if name in metrics}
    whole = Risk(loss, error, metrics)
    if order == "uniform":
        return whole
    parts = [part.quantities for part in joined(risks, functions)]
    return whole.mapped(lambda name, of: replace(of, design_effect=_design_effect([part[name] for part in parts], of)))


def joined(risks: Sequence[Risk], functions: Mapping[str, Callable[..., float]] = NONE) -> list[Risk]:
    """Slices in order as at most `MOST_PARTS` parts of equally many slices, the last perhaps of fewer."""
    size = -(-len(risks) // MOST_PARTS) or 1
    return [pooled(risks[start : start + size], functions=functions) for start in range(0, len(risks), size)]


def _design_effect(parts: Sequence[Moments], whole: Moments) -> float:
    parts = [part for part in parts if part.weight]
    count = len(parts)
    if count < LEAST_PARTS:
        return math.nan
    between = math.fsum((part.weight / whole.weight * (part.mean - whole.mean)) ** 2 for part in parts)
    independent = whole.variance / whole.count
    return between * count / (count - 1) / independent if independent > 0 else 1.0
