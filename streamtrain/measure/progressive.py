"""Progressive risk: loss and error of each minibatch before the update that uses it.

In a single pass every example is new to the parameters that it is measured at, so the mean is an
unbiased estimate of the generalization risk, averaged over the parameters of the window (Deep Learning,
8.1.3; Blum, Kalai & Langford 1999, *Beating the hold-out*).
"""

from __future__ import annotations

from collections import deque

from streamtrain.measure.risk import pooled, risk_readings
from streamtrain.values import Reading, Risk, Update


class Progressive:
    """Progressive risk over the run and over its last ``window`` examples, in whole minibatches."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._recent: deque[Risk] = deque()
        self._recent_examples = 0
        self.total = pooled(())

    def add(self, update: Update, time: float) -> list[Reading]:
        """Takes in one update; gives the points of both risks whenever another window is full."""
        windows_before = self.total.loss.count // self._window
        self._take(update)
        if self.total.loss.count // self._window == windows_before:
            return []
        return [
            *risk_readings("progressive", self.recent, update.step, time),
            *risk_readings("progressive_total", self.total, update.step, time),
        ]

    def _take(self, update: Update) -> None:
        risk = Risk(update.loss, update.error)
        self.total = pooled((self.total, risk))
        self._recent.append(risk)
        self._recent_examples += risk.loss.count
        while self._recent_examples - self._recent[0].loss.count >= self._window:
            self._recent_examples -= self._recent.popleft().loss.count

    @property
    def recent(self) -> Risk:
        """Over the fewest last minibatches that hold ``window`` examples; over all where there are fewer."""
        return pooled(self._recent)
