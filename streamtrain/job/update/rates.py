"""The learning rate over the run: a factor of the optimizer's, by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamtrain.checks import require, require_count, require_finite

ENDING = ("linear", "cosine")
"""Kinds of schedules that need to know the last step."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the run, as a factor of optimizer.lr."""

    kind: Literal["constant", "linear", "cosine", "step", "inverse_sqrt"] = "constant"
    """Shape after the warm-up: constant; falling to `floor` at the last step of the longest possible run (linear,
    cosine); times `gamma` at each of `milestones` (step); as one over the root of the step (inverse_sqrt)."""
    warmup_steps: int = 0
    """Steps over which the rate first rises linearly to optimizer.lr."""
    floor: float = 0.0
    """Factor at the end of `linear` and `cosine`."""
    milestones: tuple[int, ...] = ()
    """Global steps at which `step` lowers the rate."""
    gamma: float = 0.1
    """What `step` multiplies the rate by at each milestone."""

    def __post_init__(self) -> None:
        require_count("schedule.warmup_steps", self.warmup_steps, lowest=0)
        require(0 <= self.floor <= 1, "schedule.floor", "between 0 and 1", self.floor, "choose a part of the full rate")
        require_finite("schedule.gamma", self.gamma, positive=True)
        for milestone in self.milestones:
            require_count("schedule.milestones", milestone)
        require(
            (self.kind == "step") == bool(self.milestones),
            "schedule.milestones",
            "steps for kind 'step', and only for it",
            self.milestones,
            "set kind and milestones together",
        )
