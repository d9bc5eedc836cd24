"""The mean over the last minibatches that hold a number of examples."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from streamtrain.measure.progressive.own_spread import joined_risk
from streamtrain.measure.risk import pooled
from streamtrain.stored import Stored
from streamtrain.values import Risk


@dataclass
class Window(Stored):
    """Of ``examples`` examples, in whole minibatches: ``recent``, which hold ``held`` examples."""

    examples: int
    recent: deque[Risk] = field(default_factory=deque)
    held: int = 0

    def add(self, risk: Risk) -> None:
        """One more minibatch; those that are no longer needed leave."""
        self.recent.append(risk)
        self.held += risk.loss.count
        while self.held - self.recent[0].loss.count >= self.examples:
            self.held -= self.recent.popleft().loss.count

    @property
    def risk(self) -> Risk:
        """Over the fewest last minibatches that hold so many examples; over all where there are fewer."""
        total = pooled(())
        before = pooled(())
        for each in self.recent:
            total = joined_risk(total, each, before)
            before = each
        return total
