"""What a user declares about the update: `SGD`, its `Schedule`, and `Group`s of parameters with their own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamtrain.checks import require, require_count, require_finite

ENDING = ("linear", "cosine")
"""Kinds of schedules that need to know the last step."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the run, as a factor of sgd.lr."""

    kind: Literal["constant", "linear", "cosine", "step", "inverse_sqrt"] = "constant"
    """Shape after the warm-up: constant; falling to `floor` at the last step of the longest possible run (linear,
    cosine); times `gamma` at each of `milestones` (step); as one over the root of the step (inverse_sqrt)."""
    warmup_steps: int = 0
    """Steps over which the rate first rises linearly to sgd.lr."""
    floor: float = 0.0
    """Factor at the end of `linear` and `cosine`."""
    milestones: tuple[int, ...] = ()
    """Global steps at which `step` lowers the rate."""
    gamma: float = 0.1
    """What `step` multiplies the rate by at each milestone."""

    def __post_init__(self) -> None:
        require_count("sgd.schedule.warmup_steps", self.warmup_steps, lowest=0)
        require(
            0 <= self.floor <= 1, "sgd.schedule.floor", "between 0 and 1", self.floor, "choose a part of the full rate"
        )
        require_finite("sgd.schedule.gamma", self.gamma, positive=True)
        for milestone in self.milestones:
            require_count("sgd.schedule.milestones", milestone)
        require(
            (self.kind == "step") == bool(self.milestones),
            "sgd.schedule.milestones",
            "steps for kind 'step', and only for it",
            self.milestones,
            "set kind and milestones together",
        )


@dataclass(frozen=True)
class Group:
    """Settings for the parameters whose names match a pattern; what is not set here is as in `SGD`."""

    pattern: str
    """Pattern of names as in a shell, e.g. "*.bias"; the first group that matches a name has it."""
    lr_factor: float = 1.0
    """Factor of the learning rate."""
    momentum: float | None = None
    """Momentum α."""
    weight_decay: float | None = None
    """Coefficient of the L2 penalty."""
    clip_norm: float | None = None
    """Clip this group by its own norm, apart from all others; 0: not at all."""
    clip_value: float | None = None
    """Clamp every element to ±this; 0: not at all."""
    clip_adaptive: float | None = None
    """Adaptive clipping as in SGD; 0: not at all."""

    def __post_init__(self) -> None:
        require(bool(self.pattern), "sgd.groups.pattern", "a pattern of names", self.pattern, 'e.g. "*.bias"')
        _require_settings("sgd.groups", self.momentum, lr_factor=self.lr_factor, weight_decay=self.weight_decay)
        _require_settings(
            "sgd.groups",
            None,
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            clip_adaptive=self.clip_adaptive,
        )


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, in `torch.optim.SGD`'s semantics, on the clipped mean gradient."""

    lr: float = 0.1
    """Learning rate ε."""
    lr_batch_size: int | None = None
    """Batch size that `lr` was chosen for: the rate is lr · batch_size / this (linear scaling, Goyal et al. 2017)."""
    momentum: float = 0.0
    """Momentum α; 0 is plain SGD."""
    dampening: float = 0.0
    """The gradient enters the momentum times 1 minus this, but for a parameter's first."""
    nesterov: bool = False
    """Nesterov's variant of momentum."""
    weight_decay: float = 0.0
    """Coefficient of the L2 penalty, added to the clipped gradient."""
    clip_value: float | None = None
    """Clamp every element of the gradient to ±this; the first of the three clippings."""
    clip_adaptive: float | None = None
    """Scale every unit's gradient to at most this times its weights' norm (AGC, Brock et al. 2021); the second."""
    clip_norm: float | None = None
    """Scale the whole gradient to at most this Euclidean norm; the third."""
    schedule: Schedule = field(default_factory=Schedule)
    groups: tuple[Group, ...] = ()
    """Parameters with settings of their own, by name."""
    average: float | None = None
    """Evaluate and return the exponential moving average of the parameters, with this decay, e.g. 0.999."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is NaN or infinite: stop, or pass the minibatch over without an update."""
    skip_limit: int = 10
    """For `skip`: stop after this many such minibatches in a row."""

    def __post_init__(self) -> None:
        require_finite("sgd.lr", self.lr, positive=True)
        require_count("sgd.lr_batch_size", self.lr_batch_size)
        _require_settings("sgd", self.momentum, weight_decay=self.weight_decay)
        require_finite("sgd.dampening", self.dampening, positive=False)
        for name in ("clip_norm", "clip_value", "clip_adaptive"):
            if getattr(self, name) is not None:
                require_finite(f"sgd.{name}", getattr(self, name), positive=True)
        if self.average is not None:
            require(
                0 < self.average < 1, "sgd.average", "above 0 and below 1", self.average, "choose a decay, e.g. 0.999"
            )
        require_count("sgd.skip_limit", self.skip_limit)
        momenta = [self.momentum, *(group.momentum for group in self.groups if group.momentum is not None)]
        require(
            not self.nesterov or (min(momenta) > 0 and not self.dampening),
            "sgd.nesterov",
            "a momentum above 0 with it, and no dampening",
            (*momenta, self.dampening),
            "set sgd.momentum or leave sgd.nesterov off",
        )


def _require_settings(where: str, momentum: float | None, **not_negative: float | None) -> None:
    if momentum is not None:
        require(
            0 <= momentum < 1, f"{where}.momentum", "at least 0 and below 1", momentum, "choose a momentum, e.g. 0.9"
        )
    for name, value in not_negative.items():
        if value is not None:
            require_finite(f"{where}.{name}", value, positive=False)
