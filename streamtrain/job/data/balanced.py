"""How often examples come in training, where not each comes once: by class, or by weights of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from streamtrain.checks import require, require_declared
from streamtrain.job.settings import OneSetting

WEIGHTS = "weights="


@dataclass(frozen=True)
class Balanced(OneSetting):
    """By class: each value of a field has the same share of every minibatch, exactly, up to rounding. By weights: an
    example of the w/W-th part of all weights comes n·w/W times in a pass of n examples, rounded down or up.

    A pass uses as many examples as the training split has. By class, each class gives its own in turn: an example of a
    small class comes several times, one of a large class perhaps not in every pass, and over the passes equally often.
    In online mode no example comes twice: the pass ends when the smallest class has no more. By weights, each pass has
    a random order of its own, and other examples that come once more; not in online mode.
    """

    field: str | None = None
    """The field: one whole number an example, e.g. class labels."""
    weights: str | None = None
    """In its place, the field of the weights: one number an example, not below 0."""

    def __post_init__(self) -> None:
        require_declared(self, "st.Balanced, ")
        given = [name for name in (self.field, self.weights) if name is not None]
        do = 'name one, e.g. st.Balanced("label") or st.Balanced(weights="weight")'
        one = len(given) == 1 and bool(given[0])
        require(one, "st.Balanced, field", "a field's name, or weights", self.field or self.weights, do)

    def __str__(self) -> str:
        """As `spelled` takes it."""
        return self.field or f"{WEIGHTS}{self.weights}"

    @classmethod
    def spelled(cls, text: str) -> Self:
        """What a flag says: a field of classes, or ``weights=`` and a field of weights."""
        return cls(weights=text.removeprefix(WEIGHTS)) if text.startswith(WEIGHTS) else cls(text)
