"""A place on a run's way that is measured."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.measure.diagnostics.noise_scale import Noise
from streamtrain.stored import Stored
from streamtrain.values import Lane, Risk


@dataclass(frozen=True)
class Point(Stored):
    """All that a measurement needs of a run beside its parameters: it may be made while the run goes on.

    Attributes:
        step: updates in the parameters. examples_used, passes, progressive, noise: as an `Evaluation` has them.
        last: whether a run in one pass ends here: then all is looked at that the job lets it look at.
        used: training examples that are in some update, as (lane, start, stop) by `Plan.select`'s numbers.
    """

    step: int
    examples_used: int
    passes: float
    used: tuple[tuple[int, int, int], ...]
    last: bool = False
    progressive: Risk | None = None
    noise: Noise | None = None

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The used examples."""
        return tuple(Lane(*each) for each in self.used)
