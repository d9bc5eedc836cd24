"""The average of the parameters that is evaluated and returned in their place."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_count, require_declared


@dataclass(frozen=True)
class Average:
    """Evaluate and return an average of the parameters over the updates; none by default."""

    decay: float | None = None
    """Exponential moving average with this decay, e.g. 0.999."""
    equal: bool = False
    """The mean of the parameters, each time with the same weight (SWA, Izmailov et al. 2018), in place of a decay."""
    start: int = 0
    """Global step of the first update that it takes in; until then it is the parameters themselves."""
    every: int = 1
    """Updates from one that it takes in to the next."""

    def __post_init__(self) -> None:
        require_declared(self, "average.")
        if self.decay is not None:
            require(
                0 < self.decay < 1, "average.decay", "above 0 and below 1", self.decay, "choose a decay, e.g. 0.999"
            )
        both = self.equal and self.decay is not None
        do = "leave one of them out"
        require(not both, "average.equal", "a decay or equal weights", (self.decay, self.equal), do)
        require_count("average.start", self.start, lowest=0)
        require_count("average.every", self.every)

    @property
    def is_kept(self) -> bool:
        """Whether there is an average at all."""
        return self.equal or self.decay is not None

    def takes_in(self, step: int) -> bool:
        """Whether the update of global ``step`` goes into it."""
        return step >= self.start and (step - self.start) % self.every == 0
