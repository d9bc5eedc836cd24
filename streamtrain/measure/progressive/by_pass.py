"""Loss and error of each minibatch before its update, over each of many passes.

Of the first pass it is the progressive risk, unbiased for the generalization risk on the way; later passes meet their
examples again, so theirs lies below it: how far is what the parameters remember.
"""

from __future__ import annotations

from streamtrain.measure.risk import pooled, risk_readings
from streamtrain.values import Reading, Risk, Update


class PassRisks:
    """Of the pass that goes on, and of those before it.

    Attributes:
        whole: of the passes that are done; of these, the first is unbiased.
    """

    def __init__(self) -> None:
        self._present = pooled(())
        self.whole: list[Risk] = []

    def add(self, update: Update) -> None:
        """Takes in one update whose minibatch was used."""
        self._present = pooled((self._present, Risk(update.loss, update.error)))

    def end(self, time: float) -> list[Reading]:
        """Ends the pass: its points, at its number from 1."""
        self.whole.append(self._present)
        self._present = pooled(())
        return risk_readings("progressive_pass", self.whole[-1], len(self.whole), time)
