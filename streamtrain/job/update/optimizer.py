"""What every optimizer is: settings, the vectors that it keeps, and how elements of the parameters move.

The optimizers of this library are a file each in `streamtrain.aggregate.optimizers`; a job file may declare its own by
the same contract. Nothing else knows their names: memory, checkpoints, masks and exchanges take what they say.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from streamtrain.checks import require, require_count, require_declared, require_finite
from streamtrain.errors import ConfigError, complaint
from streamtrain.job.update.gradient_clip import Clip

if TYPE_CHECKING:
    import torch

    from streamtrain.aggregate.vector import Layout

MOVED = {
    **{f"clip_{name}": f"clip=st.Clip({name}=…)" for name in ("norm", "value", "adaptive")},
    "schedule": "schedule=st.Schedule(…)",
    "groups": "groups=(st.Group(…),)",
    "average": "average=st.Average(decay=…)",
    "nonfinite": "nonfinite=…",
    "skip_limit": "skip_limit=…",
}
"""What once was set in the optimizer, and the job's field that it is now."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """How parameters move: a frozen dataclass of settings, and `move`.

    Attributes:
        scaling: how the best rate grows with the batch size, where `lr_batch_size` is set.
        together: what `move` is given at once: any elements, flat; or one whole parameter, in its shape; or the vectors
            of the whole model, and the `numbers`.
        takes_halves: whether it is right for parameters of 16 bits, in whose arithmetic 0.999 · x is x.
        has_norm: whether `norm_weights` says in which norm it takes gradients; a batch that follows noise needs it.
    """

    lr: float = 0.01
    """Learning rate ε."""
    lr_batch_size: int | None = field(default=None, kw_only=True)
    """Batch size that `lr` was chosen for: the rate is lr times the ratio of the batch sizes (linear scaling, Goyal et
    al. 2017), or its root for optimizers that divide by the gradient's size (Malladi et al. 2022)."""

    scaling: ClassVar[Literal["linear", "root"]] = "linear"
    together: ClassVar[Literal["elements", "parameter", "model"]] = "elements"
    takes_halves: ClassVar[bool] = False
    has_norm: ClassVar[bool] = False

    def __new__(cls, *_: object, **settings: object) -> Self:
        """Refuses what once was set here."""
        refuse_moved(cls.__name__, settings, MOVED)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        require_declared(self, "optimizer.")
        require_finite("optimizer.lr", self.lr, positive=True)
        require_count("optimizer.lr_batch_size", self.lr_batch_size)

    @abstractmethod
    def vectors(self) -> tuple[str, ...]:
        """Names of the vectors that it keeps beside the parameters, an element of each for each of theirs; 0 at first.

        They are in every exchange's memory, and in checkpoints as ``NAME/PARAMETER``.
        """

    def numbers(self) -> int:
        """How many float64 numbers it keeps beside the vectors, all 0 at first; only with ``together = "model"``."""
        return 0

    def fitted(self, layout: Layout) -> Optimizer:  # noqa: ARG002  # of the contract
        """The optimizer for a model, where what it keeps depends on that."""
        return self

    def parts(self) -> tuple[Optimizer, ...]:
        """The optimizers that may move a parameter: itself, and others that it leaves some to."""
        return (self,)

    def of(self, name: str, shape: tuple[int, ...]) -> Optimizer:  # noqa: ARG002  # of the contract
        """The one of its `parts` that moves a parameter."""
        return self

    def counts_updates(self) -> bool:
        """Whether `move` looks at ``updates``; if not, it may be given anything."""
        return True

    def norm_weights(
        self,
        old: Mapping[str, torch.Tensor],  # noqa: ARG002  # of the contract
        updates: int | torch.Tensor,  # noqa: ARG002
    ) -> torch.Tensor | None:
        """Weights ``w`` of its own norm, ``|g|² = Σ w·g²``: what it multiplies each element of a gradient by.

        To first order an update of rate ε then lowers the loss by ``ε·|g|²``. 0 for elements that had no gradient yet.
        ``None`` where all are 1.

        Args:
            old, updates: as in `move`.
        """
        return None

    @abstractmethod
    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,
    ) -> None:
        """Writes the new ``parameters``, and each of `vectors`, of some elements: flat tensors of one length.

        Which elements come together is up to the library, so each must move by its own numbers alone; but with
        ``together = "parameter"`` they are a whole parameter in its shape, by one worker. Must be the same function
        of these each time, and leave ``old`` as it is: a step that stops halfway is made again.

        Args:
            rate: the learning rate, after schedule and group.
            gradient: the clipped mean gradient; may be used up.
            old, new: tensors by name.
            updates: that these elements had before this one; on a device of each element, float64. Of a whole model
                of each parameter, shape (parameters,), and below 0 where it has no gradient now.
        """


@dataclass(frozen=True, init=False)
class Group:
    """Settings for the parameters whose names match a pattern; what is not set here is as in the job."""

    pattern: str
    """Pattern of names as in a shell, e.g. "*.bias"; the first group that matches a name has it."""
    lr_factor: float
    """Factor of the learning rate."""
    clip: Clip
    """Clipping of its own; with a norm it is clipped by its own, apart from all others."""
    settings: tuple[tuple[str, Any], ...]
    """Settings of the optimizer that have another value here, by name."""

    def __init__(self, pattern: str, *, lr_factor: float = 1.0, clip: Clip | None = None, **settings: Any) -> None:
        require(bool(pattern), "groups.pattern", "a pattern of names", pattern, 'e.g. "*.bias"')
        require_finite("groups.lr_factor", lr_factor, positive=False)
        refuse_moved("Group", settings, {name: do for name, do in MOVED.items() if name.startswith("clip")})
        for name, value in (
            ("pattern", pattern),
            ("lr_factor", lr_factor),
            ("clip", Clip() if clip is None else clip),
            ("settings", tuple(sorted(settings.items()))),
        ):
            object.__setattr__(self, name, value)

    def check(self, whole: Optimizer) -> None:
        """Refuses settings that no part of the optimizer has, or not with such a value."""
        parts = whole.parts()
        names = [{each.name for each in dataclasses.fields(part)} for part in parts]
        fitting = [p for p, known in zip(parts, names, strict=True) if known.issuperset(dict(self.settings))]
        for part in fitting or parts[:1]:
            self.optimizer(part)

    def optimizer(self, whole: Optimizer) -> Optimizer:
        """The optimizer with this group's settings.

        Raises:
            ConfigError: it has no such setting, or not such a value.
        """
        where = f"groups, {self.pattern!r}"
        known = [each.name for each in dataclasses.fields(whole)]
        for name, _ in self.settings:
            if name not in known:
                expected = f"a setting of {type(whole).__name__}: {', '.join(known)}"
                raise ConfigError(complaint(where, expected=expected, found=repr(name), do="leave it out"))
        try:
            return dataclasses.replace(whole, **dict(self.settings))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def refuse_moved(what: str, settings: Mapping[str, object], moved: Mapping[str, str]) -> None:
    """Raises `ConfigError` where a setting is given that has another place now."""
    for name in settings:
        if name in moved:
            expected, found = f"{moved[name]} in st.Job", "its old place"
            raise ConfigError(complaint(f"st.{what}({name}=…)", expected=expected, found=found, do="move it"))
