"""Bounds on the mean gradient: by value, by unit, by norm."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require_declared, require_finite


@dataclass(frozen=True)
class Clip:
    """Clipping of the mean gradient of the whole minibatch, in the order of the fields; none by default.

    In a `Group` it holds for its parameters: what is not set is as in the job's, and 0 is not at all.
    """

    value: float | None = None
    """Clamp every element of the gradient to ±this; the first of the three clippings."""
    adaptive: float | None = None
    """Scale every unit's gradient to at most this times its weights' norm (AGC, Brock et al. 2021); the second."""
    norm: float | None = None
    """Scale the whole gradient to at most this Euclidean norm; the third. In a group: its own norm, apart from all."""

    def __post_init__(self) -> None:
        require_declared(self, "clip.")
        for name in ("value", "adaptive", "norm"):
            if getattr(self, name) is not None:
                require_finite(f"clip.{name}", getattr(self, name), positive=False)

    def of_group(self, own: Clip) -> Clip:
        """What holds for a group with a clipping of its own."""

        def chosen(name: str) -> float | None:
            mine: float | None = getattr(self, name)
            its: float | None = getattr(own, name)
            return (mine if its is None else its) or None

        return Clip(value=chosen("value"), adaptive=chosen("adaptive"), norm=chosen("norm"))
