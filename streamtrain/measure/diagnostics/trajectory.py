"""The way of the parameters: its length ``Σ |θ_{t+1} − θ_t|``, and the distance ``|θ_t − θ_0|`` from its start.

The length is estimated from one step of every n, drawn by chance: n times the sum of theirs. Where chance makes it
shorter than the distance, the distance is said. A length far above the distance tells of a walk that turns, by noise or
across a valley (Deep Learning, 8.2.4 and 8.2.6).
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
