"""Metrics that are no mean over the examples, but a function of means: perplexity, R², F1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from streamtrain.checks import require
from streamtrain.job.objective.weighted import Value

if TYPE_CHECKING:
    import torch

    Measure = Callable[[Any, torch.Tensor], Value]
else:
    Measure = Callable[..., Any]


class OfMeans:
    """``function`` of the means of ``measures`` over all examples.

    Its standard error is the delta method's: of the function's linearization, with all covariances of the means.

    >>> perplexity = OfMeans(math.exp, "loss")

    Args:
        function: numbers, in the order of ``measures`` -> a number.
        measures: (output, target) -> tensor of shape (examples,) or `Weighted` each, or the name of another metric, or
            ``"loss"`` or ``"error"``.
    """

    def __init__(self, function: Callable[..., float], *measures: Measure | str) -> None:
        where = "st.OfMeans"
        do = 'e.g. st.OfMeans(math.exp, "loss")'
        require(callable(function), where, "a function of the means first", function, do)
        require(bool(measures), where, "what the means are of, after the function", "nothing", do)
        for each in measures:
            fits = isinstance(each, str) or (callable(each) and not isinstance(each, OfMeans))
            require(fits, where, "functions of (output, target), or names of metrics", each, do)
        self.function = function
        self.measures = measures
        names = (each if isinstance(each, str) else _name(each) for each in measures)
        self.__name__ = f"{_name(function)} of {' and '.join(names)}"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def functions_in(metrics: Mapping[str, Any]) -> dict[str, Callable[..., float]]:
    """The functions of those metrics that are a function of means, by name."""
    return {name: metric.function for name, metric in metrics.items() if isinstance(metric, OfMeans)}
