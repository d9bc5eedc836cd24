"""Loss and error of each minibatch before its update, over each of many passes.

Of the first pass it is the progressive risk: no example came before; later passes meet their
examples again, so theirs lies below it: how far is what the parameters remember.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamtrain.measure.progressive.own_spread import joined_risk
from streamtrain.measure.risk import pooled
from streamtrain.stored import Stored
from streamtrain.values import Risk, Update


@dataclass
class PassRisks(Stored):
    """Of the pass that goes on, and of those before it.

    Attributes:
        whole: of the passes that are done; in the first, no example came before.
        present: of the pass that goes on, so far. last: the last minibatch.
    """

    whole: list[Risk] = field(default_factory=list)
    present: Risk = field(default_factory=lambda: pooled(()))
    last: Risk = field(default_factory=lambda: pooled(()))

    def add(self, update: Update) -> None:
        """Takes in one update whose minibatch was used."""
        risk = Risk(update.loss, update.error)
        self.present = joined_risk(self.present, risk, self.last)
        self.last = risk

    def end(self) -> Risk:
        """Ends the pass, and returns what it was."""
        self.whole.append(self.present)
        self.present = pooled(())
        return self.whole[-1]
