"""Whether workers wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require_count, require_declared


@dataclass(frozen=True)
class Synchronous:
    """Every update waits for all of its minibatch, computed at the parameters of the update before."""

    backup: int = 0
    """Do not wait for so many of the slowest lanes: their examples come in a later minibatch of the pass, or stay
    unused in online mode. Above 0 the bits depend on timing."""

    def __post_init__(self) -> None:
        require_declared(self, "aggregation.")
        require_count("aggregation.backup", self.backup, lowest=0)


@dataclass(frozen=True)
class Stale:
    """Workers take lanes' parts from a common pool, and wait for nobody who is less than `bound` minibatches behind."""

    bound: int = 1
    """Most updates that may be missing from the parameters at which a gradient is computed; 0 gives the synchronous
    bits, with a slow worker's parts done by others."""

    def __post_init__(self) -> None:
        require_declared(self, "aggregation.")
        require_count("aggregation.bound", self.bound, lowest=0)
