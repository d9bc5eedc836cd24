"""Progressive risk: loss and error of each minibatch before the update that uses it.

In a single pass every example is new to the parameters that it is measured at, so each of these losses is an
unbiased estimate of the risk of its moment's parameters *as they train* (Deep Learning, 8.1.3; Blum, Kalai & Langford
1999, *Beating the hold-out*). That is the held-out risk on the way only where training and evaluation compute the same:
not with dropout, BatchNorm in training mode, augmentation, or parameters that are evaluated as an average. Means of
them differ by what they are over: all of the run, a window, a fading past, or a pass, of which only the first is so. A
mean belongs to the middle of what it is over, not to its end: while the risk falls, it lies above the risk at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from streamtrain.measure.progressive.by_pass import PassRisks
from streamtrain.measure.progressive.fading import Fading
from streamtrain.measure.progressive.own_spread import joined_risk
from streamtrain.measure.progressive.window import Window
from streamtrain.measure.risk import pooled
from streamtrain.stored import Stored
from streamtrain.values import Risk, Update

__all__ = ["PassRisks", "Progressive"]


@dataclass
class Progressive(Stored):
    """Of the run, of its last examples, and fading as fast as the window of these is long.

    Attributes:
        window, fading: over the last examples, both of one size.
        total: over all updates that were added. last: the minibatch of the last of them.
    """

    window: Window
    fading: Fading
    total: Risk
    last: Risk = field(default_factory=lambda: pooled(()))

    @classmethod
    def over(cls, examples: int) -> Self:
        """Of a run that has not begun, with windows of so many examples."""
        return cls(Window(examples), Fading(examples), pooled(()))

    def add(self, update: Update) -> bool:
        """Takes in one update; says whether another window is full with it."""
        windows_before = self.total.loss.count // self.window.examples
        risk = Risk(update.loss, update.error)
        self.total = joined_risk(self.total, risk, self.last)
        self.window.add(risk)
        self.fading.add(risk, self.last)
        self.last = risk
        return self.total.loss.count // self.window.examples != windows_before

    @property
    def recent(self) -> Risk:
        """Over the fewest last minibatches that fill the window; over all where there are fewer examples."""
        return self.window.risk
