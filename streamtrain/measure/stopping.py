"""Early stopping on the validation error (Deep Learning, algorithm 7.1), as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """State after some passes.

    Attributes:
        patience: passes without a better error before stopping.
        min_delta: how much lower an error must be to count as better.
        best_error: lowest error so far. best_pass: the pass, from 0, that had it; -1 before the first.
        waited: passes since.
    """

    patience: int
    min_delta: float = 0.0
    best_error: float = math.inf
    best_pass: int = -1
    waited: int = 0

    def after(self, pass_index: int, error: float) -> EarlyStopping:
        """The state after pass ``pass_index`` had validation ``error``."""
        if error < self.best_error - self.min_delta:
            return EarlyStopping(self.patience, self.min_delta, error, pass_index, 0)
        return EarlyStopping(self.patience, self.min_delta, self.best_error, self.best_pass, self.waited + 1)

    @property
    def improved(self) -> bool:
        """Whether the last pass was the best so far."""
        return self.best_pass >= 0 and self.waited == 0

    @property
    def should_stop(self) -> bool:
        """Whether patience is used up."""
        return self.waited >= self.patience
