"""Metrics of a whole set of examples, which no mean over them gives: AUROC, macro F1, a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

OF_TORCHMETRICS = ("torchmetrics", "Metric")
"""Package and class whose objects are taken as they are."""


@runtime_checkable
class Metric(Protocol):
    """An object with these three methods, beside functions in a job's ``metrics``.

    Held-out examples come in slices. Of each, a copy of the object is given the examples (``copy.deepcopy``), in the
    process that evaluates it; the copies are then merged in the slices' order, in one fixed binary tree. So every
    example counts once, and the bits are those of any number of workers. The object itself is never changed. What a
    copy holds has to be picklable, and travels: an exact AUROC holds a number or two of every example.

    There is no standard error. A metric that fails gives NaN, and a line says why; the run goes on.
    """

    def update(self, output: Any, target: Any) -> object:
        """Takes some examples, as a loss gets them, without a graph and on the CPU."""

    def merge(self, other: Self) -> object:
        """Takes what ``other`` has taken, whose examples come after its own."""

    def compute(self) -> Any:
        """Of all examples: a number, numbers by name (each a curve, ``metric.name``), or an array of numbers (a
        table)."""


def is_whole(metric: object) -> bool:
    """Whether this is an object that takes a whole set, one of torchmetrics among them."""
    return not isinstance(metric, type) and (isinstance(metric, Metric) or is_of_torchmetrics(metric))


def is_of_torchmetrics(metric: object) -> bool:
    """Whether torchmetrics made it; without an import of that."""
    package, name = OF_TORCHMETRICS
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(metric).__mro__)


def whole_in(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a job's metrics that take a whole set, by name."""
    return {name: metric for name, metric in metrics.items() if is_whole(metric)}


def is_half_one(metric: object) -> bool:
    """Whether this looks like one, but is a class, or cannot be merged."""
    return not is_whole(metric) and all(callable(getattr(metric, name, None)) for name in ("update", "compute"))
