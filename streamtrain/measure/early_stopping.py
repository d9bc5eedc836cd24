"""Early stopping on the validation error (Deep Learning, algorithm 7.1), as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.stored import Stored

ROUNDING = 1e-9
"""More than what is lost where a place in passes is a rounded quotient, and less than a step."""


@dataclass(frozen=True)
class EarlyStopping(Stored):
    """State after some measurements, each at a place in the run that is counted in passes or in examples.

    Passes may be counted in part.

    Attributes:
        patience: how far the run may go without a better error, in that unit.
        min_delta: how much lower an error must be to count as better.
        best_error: lowest error so far. best_at: the place that had it; 0 before the first.
        at: the last place.
    """

    patience: int
    min_delta: float = 0.0
    best_error: float = math.inf
    best_at: float = 0
    at: float = 0

    def after(self, at: float, error: float) -> EarlyStopping:
        """The state after validation ``error`` was measured at ``at``, further on than before."""
        if error < self.best_error - self.min_delta:
            return EarlyStopping(self.patience, self.min_delta, error, at, at)
        return EarlyStopping(self.patience, self.min_delta, self.best_error, self.best_at, at)

    @property
    def improved(self) -> bool:
        """Whether the last measurement was the best so far."""
        return self.at > 0 and self.best_at == self.at

    @property
    def should_stop(self) -> bool:
        """Whether patience is used up."""
        return self.at - self.best_at >= self.patience - ROUNDING
