"""Loss and error of each minibatch before its update, over each of many passes.

Of the first pass it is the progressive risk, unbiased for the generalization risk on the way; later passes meet their
examples again, so theirs lies below it: how far is what the parameters remember.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamtrain.measure.risk import pooled
from streamtrain.stored import Stored
from streamtrain.values import Risk, Update


@dataclass
class PassRisks(Stored):
    """Of the pass that goes on, and of those before it.

    Attributes:
        whole: of the passes that are done; of these, the first is unbiased.
        present: of the pass that goes on, so far.
    """

    whole: list[Risk] = field(default_factory=list)
    present: Risk = field(default_factory=lambda: pooled(()))

    def add(self, update: Update) -> None:
        """Takes in one update whose minibatch was used."""
        self.present = pooled((self.present, Risk(update.loss, update.error)))

    def end(self) -> Risk:
        """Ends the pass, and returns what it was."""
        self.whole.append(self.present)
        self.present = pooled(())
        return self.whole[-1]
