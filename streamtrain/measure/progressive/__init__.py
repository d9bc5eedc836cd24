"""Progressive risk: loss and error of each minibatch before the update that uses it.

In a single pass every example is new to the parameters that it is measured at, so each of these losses is an
unbiased estimate of the generalization risk of its moment's parameters (Deep Learning, 8.1.3; Blum, Kalai & Langford
1999, *Beating the hold-out*). Means of them differ by what they are over: all of the run, a window, a fading past,
or a pass, of which only the first is unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from streamtrain.measure.progressive.by_pass import PassRisks
from streamtrain.measure.progressive.fading import Fading
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
        total: over all updates that were added.
    """

    window: Window
    fading: Fading
    total: Risk

    @classmethod
    def over(cls, examples: int) -> Self:
        """Of a run that has not begun, with windows of so many examples."""
        return cls(Window(examples), Fading(examples), pooled(()))

    def add(self, update: Update) -> bool:
        """Takes in one update; says whether another window is full with it."""
        windows_before = self.total.loss.count // self.window.examples
        risk = Risk(update.loss, update.error)
        self.total = pooled((self.total, risk))
        self.window.add(risk)
        self.fading.add(risk)
        return self.total.loss.count // self.window.examples != windows_before

    @property
    def recent(self) -> Risk:
        """Over the fewest last minibatches that fill the window; over all where there are fewer examples."""
        return self.window.risk
