"""The generalization gap: generalization risk minus empirical risk, at the same parameters.

Its standard error is ``√(se₁² + se₂²)``: the two sets of examples are disjoint, so the means are independent given
the parameters, and there is nothing to pair. The parameters do depend on the training examples: the error is that of
measuring the gap of these parameters, not of the training procedure's.

Two measurements on the same examples can be paired, part by part of these: what is easy or hard in a part is so for
both, and leaves their difference. With D = Σ wⱼdⱼ the mean of the parts' differences, weighted by their examples, the
standard error is ``√(J/(J−1) Σ wⱼ²(dⱼ − D)²)``, which is s/√J for J equal parts. It also holds where nothing is shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamtrain.measure.risk import LEAST_PARTS, joined
from streamtrain.stored import Stored
from streamtrain.values import Moments, Risk


@dataclass(frozen=True)
class Gap:
    """Generalization minus empirical risk and its standard error."""

    value: float
    standard_error: float


def gap(empirical: Moments, generalization: Moments) -> Gap:
    """See the module; for losses or for errors."""
    error = math.hypot(empirical.standard_error, generalization.standard_error)
    return Gap(generalization.mean - empirical.mean, error)


@dataclass(frozen=True)
class Parts(Stored):
    """A risk part by part: how many examples each has, and their mean loss, error, … by name."""

    examples: tuple[int, ...]
    means: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, risks: Sequence[Risk]) -> Parts:
        """Of slices in order, joined into parts of equally many slices, the last perhaps of fewer."""
        parts = [risk.quantities for risk in joined(risks)]
        names = parts[0] if parts else ()
        examples = tuple(part["loss"].count for part in parts)
        return cls(examples, {name: tuple(part[name].mean for part in parts) for name in names})


def paired(examples: Sequence[int], first: Sequence[float], second: Sequence[float]) -> Gap | None:
    """Second minus first, means over the same parts of the same examples; ``None`` for fewer than `LEAST_PARTS`."""
    count = len(examples)
    if count < LEAST_PARTS:
        return None
    weights = [each / sum(examples) for each in examples]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean = math.fsum(w * d for w, d in zip(weights, differences, strict=True))
    squares = math.fsum((w * (d - mean)) ** 2 for w, d in zip(weights, differences, strict=True))
    return Gap(mean, math.sqrt(count / (count - 1) * squares))
