"""The generalization gap: generalization risk minus empirical risk, at the same parameters.

Its standard error is ``√(se₁² + se₂²)``: the two sets of examples are disjoint, so the means are independent given
the parameters, and there is nothing to pair. The parameters do depend on the training examples: the error is that of
measuring the gap of these parameters, not of the training procedure's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.values import Moments, Reading, Risk


@dataclass(frozen=True)
class Gap:
    """Generalization minus empirical risk and its standard error."""

    value: float
    standard_error: float


def gap(empirical: Moments, generalization: Moments) -> Gap:
    """See the module; for losses or for errors."""
    error = math.hypot(empirical.standard_error, generalization.standard_error)
    return Gap(generalization.mean - empirical.mean, error)


def gap_readings(empirical: Risk, generalization: Risk, step: int, time: float) -> list[Reading]:
    """``gap/loss``, ``gap/loss_standard_error``, and so for every quantity."""
    gaps = {name: gap(moments, generalization.quantities[name]) for name, moments in empirical.quantities.items()}
    return [
        Reading(f"gap/{name}{suffix}", value, step, time)
        for name, of in gaps.items()
        for suffix, value in (("", of.value), ("_standard_error", of.standard_error))
    ]
