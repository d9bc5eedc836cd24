"""Whether what a job says of its loss, error and metrics goes together; each mistake in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streamtrain.checks import require
from streamtrain.job.objective.metric import Metric, is_half_one, is_whole
from streamtrain.job.objective.of_means import Measure, OfMeans

BUILT_IN = {"loss": ("cross_entropy", "mse"), "error": ("zero_one",)}


def check_names(names: Iterable[str]) -> None:
    """Refuses a metric's name that a curve cannot have."""
    for name in names:
        free = isinstance(name, str) and re.fullmatch(r"[\w.\- ]+", name) is not None and name not in ("loss", "error")
        free = free and not name.endswith("_standard_error")
        expected = "a name of letters, digits, _, -, . and spaces that is not taken"
        require(free, "metrics", expected, name, "rename it")


def check_measures(loss: Any, error: Any, metrics: Mapping[str, Measure | OfMeans | Metric]) -> None:
    """Refuses what is no function and no built-in one's name, and means of what is not there."""
    for where, value in (("loss", loss), ("error", error)):
        if isinstance(value, str):
            named = BUILT_IN[where]
            require(value in named, where, " or ".join(named), value, "choose one, or give a function")
        else:
            require(value is None or callable(value), where, "a function", value, "see its help")
    check_names(metrics)
    functions = (name for name, each in metrics.items() if not (isinstance(each, OfMeans) or is_whole(each)))
    plain = {"loss", "error", *functions}
    plain |= {"soft_error", "margin"} if loss == "cross_entropy" else set()
    for name, metric in metrics.items():
        where = f"metrics, {name!r}"
        do = "give an object, not its class, and each of several by a name of its own"
        require(not is_half_one(metric), where, "an object with update, merge and compute", metric, do)
        function = callable(metric) or isinstance(metric, OfMeans) or is_whole(metric)
        require(function, where, "a function, st.OfMeans or an st.Metric", metric, "see its help")
        for each in metric.measures if isinstance(metric, OfMeans) else ():
            known = not isinstance(each, str) or each in plain
            do = f"name one of {', '.join(sorted(plain))}, or give a function"
            require(known, where, "names of metrics that are means", each, do)


def check_objective(
    objective: Callable[..., Any],
    others: Mapping[str, tuple[Any, Any]],
    metrics: Mapping[str, Measure | OfMeans | Metric],
) -> None:
    """Refuses what is given beside an objective that takes the place of it.

    Args:
        others: settings by name, with their defaults.
    """
    do = 'e.g. objective=lambda model, batch: {"loss": …}'
    require(callable(objective), "objective", "a function of (model, batch)", objective, do)
    for name, (value, default) in others.items():
        free = value == default or value == ()
        require(free, name, "none beside an objective", value, "leave it out: the objective gives what is measured")
    check_names(metrics)
    for name, metric in metrics.items():
        ours = isinstance(metric, OfMeans) and all(isinstance(each, str) for each in metric.measures)
        do = "return it from the objective, by this name"
        require(ours, f"metrics, {name!r}", "st.OfMeans of names that the objective returns", metric, do)
