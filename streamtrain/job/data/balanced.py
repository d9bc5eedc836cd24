"""Classes with equal shares of every minibatch, however many examples each has."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_declared
from streamtrain.job.settings import OneSetting


@dataclass(frozen=True)
class Balanced(OneSetting):
    """Each value of a field has the same share of every minibatch, exactly, up to rounding.

    A pass uses as many examples as the training split has, each class its own in turn: an example of a small class
    comes several times, one of a large class perhaps not in every pass, and over the passes equally often. In online
    mode no example comes twice: the pass ends when the smallest class has no more.
    """

    field: str
    """The field: one whole number an example, e.g. class labels."""

    def __post_init__(self) -> None:
        require_declared(self, "st.Balanced, ")
        require(bool(self.field), "st.Balanced, field", "a field's name", self.field, 'name one, e.g. "label"')

    def __str__(self) -> str:
        return self.field
