"""The way of the parameters: its length ``Σ |θ_{t+1} − θ_t|``, and the distance ``|θ_t − θ_0|`` from its start.

The length is estimated from every n-th step: n times the sum of theirs. Of a resumed run it counts from there. A
length far above the distance tells of a walk that turns, by noise or across a valley (Deep Learning, 8.2.4 and 8.2.6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.stored import Stored
from streamtrain.values import Norms


@dataclass
class Trajectory(Stored):
    """Adds up the length; ``every`` steps one is seen.

    Attributes:
        every: see above. length: so far.
    """

    every: int
    length: float = 0.0

    def add(self, norms: Norms) -> None:
        """Takes in one step's."""
        self.length += self.every * math.sqrt(norms.total.update)
