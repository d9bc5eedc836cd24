"""The mean over the last minibatches that hold a number of examples."""

from __future__ import annotations

from collections import deque

from streamtrain.measure.risk import pooled
from streamtrain.values import Risk


class Window:
    """Of ``examples`` examples, in whole minibatches."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._recent: deque[Risk] = deque()
        self._held = 0

    def add(self, risk: Risk) -> None:
        """One more minibatch; those that are no longer needed leave."""
        self._recent.append(risk)
        self._held += risk.loss.count
        while self._held - self._recent[0].loss.count >= self._examples:
            self._held -= self._recent.popleft().loss.count

    @property
    def risk(self) -> Risk:
        """Over the fewest last minibatches that hold so many examples; over all where there are fewer."""
        return pooled(self._recent)
