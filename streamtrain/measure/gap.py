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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from streamtrain.measure.risk import LEAST_PARTS, NONE, joined
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
    """A risk part by part: how many examples each has, and their mean loss, error, … by name.

    ``weights``: what the examples of each part weigh, by the names of weighted means; one of weight 0 has the mean 0.
    """

    examples: tuple[int, ...]
    means: dict[str, tuple[float, ...]]
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, risks: Sequence[Risk], functions: Mapping[str, Callable[..., float]] = NONE) -> Parts:
        """Of slices in order, joined into parts of equally many slices, the last perhaps of fewer.

        Args:
            functions: see `pooled`.
        """
        parts = [risk.quantities for risk in joined(risks, functions)]
        names = parts[0] if parts else ()
        examples = tuple(part["loss"].count for part in parts)
        means = {name: tuple(part[name].mean if part[name].weight else 0.0 for part in parts) for name in names}
        weights = {name: tuple(part[name].weight for part in parts) for name in names}
        return cls(examples, means, {name: each for name, each in weights.items() if each != examples})

    def weights_of(self, name: str) -> tuple[float, ...]:
        """What the parts' means of a quantity weigh: their examples, or the weights of these."""
        return self.weights.get(name, self.examples)


@dataclass(frozen=True)
class PartRisks(Stored):
    """Both risks on one data set of a mixture, at the same parameters.

    Attributes:
        name: of the data set, among those of the mixture.
        empirical: on a random part of its training examples that updates have used.
        generalization: on a part of its validation split.
    """

    name: str
    empirical: Risk
    generalization: Risk

    @property
    def gap_of_loss(self) -> Gap:
        """Generalization minus empirical risk, of the surrogate loss."""
        return gap(self.empirical.loss, self.generalization.loss)

    @property
    def gap_of_error(self) -> Gap:
        """Generalization minus empirical risk, of the error."""
        return gap(self.empirical.error, self.generalization.error)


def paired(weights: Sequence[float], first: Sequence[float], second: Sequence[float]) -> Gap | None:
    """Second minus first, means over the same parts of the same examples.

    ``None`` for fewer than `LEAST_PARTS`, or where one of the means is no number.

    Args:
        weights: of the parts.
    """
    count = sum(weight > 0 for weight in weights)
    if count < LEAST_PARTS or not all(map(math.isfinite, (*first, *second))):
        return None
    shares = [each / sum(weights) for each in weights]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean = math.fsum(w * d for w, d in zip(shares, differences, strict=True))
    squares = math.fsum((w * (d - mean)) ** 2 for w, d in zip(shares, differences, strict=True))
    return Gap(mean, math.sqrt(count / (count - 1) * squares))
