"""The learning rate over the run: a factor of the optimizer's, by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from streamtrain.checks import require, require_count, require_declared, require_finite

Kind = Literal[
    "constant", "linear", "cosine", "step", "inverse_sqrt", "one-cycle", "warmup-stable-decay", "cosine-restarts"
]
ENDING = ("linear", "cosine", "one-cycle", "warmup-stable-decay")
"""Kinds of schedules that need to know the last step."""
NEEDED = {"milestones": "step", "decay_steps": "warmup-stable-decay", "cycle_steps": "cosine-restarts"}
"""Settings that one kind needs, and no other has."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the run, as a factor of optimizer.lr."""

    kind: Kind = "constant"
    """Shape after the warm-up: constant; falling to `floor` at the last step of the longest possible run (linear,
    cosine); times `gamma` at each of `milestones` (step); as one over the root of the step (inverse_sqrt); constant
    until the last `decay_steps`, over which it falls linearly to `floor` (warmup-stable-decay); a cosine from 1 to
    `floor` that begins again after `cycle_steps` (cosine-restarts). With one-cycle the warm-up is half a cosine too,
    from `start`, over `warmup_steps` or, where they are 0, over 30 % of the steps; then a cosine falls to `floor`."""
    warmup_steps: int = 0
    """Steps over which the rate first rises linearly to optimizer.lr."""
    floor: float = 0.0
    """Factor at the end of linear, cosine, one-cycle and warmup-stable-decay, and of each cycle of cosine-restarts."""
    milestones: tuple[int, ...] = ()
    """Global steps at which `step` lowers the rate."""
    gamma: float = 0.1
    """What `step` multiplies the rate by at each milestone."""
    start: float = 0.04
    """Factor at the first step of one-cycle."""
    decay_steps: int = 0
    """Steps over which warmup-stable-decay falls."""
    cycle_steps: int = 0
    """Steps of the first cycle of cosine-restarts."""
    cycle_factor: int = 1
    """How many times as long as the one before each further cycle of cosine-restarts is."""

    def __post_init__(self) -> None:
        require_declared(self, "schedule.")
        for name in ("warmup_steps", "decay_steps", "cycle_steps"):
            require_count(f"schedule.{name}", getattr(self, name), lowest=0)
        require_count("schedule.cycle_factor", self.cycle_factor)
        for name in ("floor", "start"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"schedule.{name}", "between 0 and 1", value, "choose a part of the full rate")
        require_finite("schedule.gamma", self.gamma, positive=True)
        for milestone in self.milestones:
            require_count("schedule.milestones", milestone)
        for name, kind in NEEDED.items():
            value, expected = getattr(self, name), f"steps for kind '{kind}', and only for it"
            fits = (self.kind == kind) == bool(value)
            require(fits, f"schedule.{name}", expected, value, f"set kind and {name} together")
        largest = len(self.milestones) * math.log10(self.gamma)
        require(largest < 300, "schedule.gamma", "a product over all milestones below 1e300", self.gamma, "lower it")


def needs_last_step(schedule: Schedule | Callable[[int], float]) -> bool:
    """Whether rates depend on how many steps the longest possible run has."""
    return isinstance(schedule, Schedule) and schedule.kind in ENDING
