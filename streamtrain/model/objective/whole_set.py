"""Metrics of whole sets: a copy of each for every slice, merged in the slices' order, computed at the end.

Slices are the same for any number of workers, and copies are merged in one binary tree over them: so are the bits.
What fails, fails for its metric alone: the value is NaN, and a line says why.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job import Job
from streamtrain.job.objective.metric import is_of_torchmetrics, whole_in
from streamtrain.model.objective.by_class import ClassCounts
from streamtrain.values import Moments, Risk, SliceRisk

Answer = TypeVar("Answer")
Table = NDArray[np.generic]
CLASSES = "by class/"
"""Name of a classifier's own counts, which no metric of a job can have."""
MOST_IN_A_TABLE = 2
"""Axes of an array that a metric gives."""


@dataclass(frozen=True)
class Failed:
    """In the place of a copy, or of its value: why there is none, in one line."""

    why: str


@dataclass(frozen=True)
class Computed:
    """Of a whole set.

    Attributes:
        numbers: by name, NaN where a metric failed. tables: arrays of numbers, by name.
        failures: one line for each metric that failed, by name.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def beside(self, risk: Risk) -> Risk:
        """The risk on the set with these numbers among its metrics; their standard errors are not known."""
        numbers = {name: Moments(risk.loss.count, each, np.nan) for name, each in self.numbers.items()}
        return Risk(risk.loss, risk.error, risk.metrics | numbers)


class WholeSet:
    """Metrics of whole sets, by name; see the module.

    Args:
        metrics: never changed.
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self._metrics = {name: TorchMetric(m) if is_of_torchmetrics(m) else m for name, m in metrics.items()}

    @classmethod
    def of(cls, job: Job, *, by_class: bool = False) -> WholeSet:
        """A job's own; ``by_class`` with a classifier's counts, where it is one."""
        # the entries of an example are no examples: their errors go together, and so would the figure's ±
        is_classifier = job.errs_by_classes and isinstance(job.data.target, str) and job.data.pack is None
        counts = {CLASSES: ClassCounts()} if by_class and is_classifier else {}
        return cls(whole_in(job.metrics) | counts)

    def __bool__(self) -> bool:
        return bool(self._metrics)

    def begin(self) -> dict[str, Any]:
        """New copies, for a slice."""
        return {name: _try(name, copy.deepcopy, metric) for name, metric in self._metrics.items()}

    def update(self, states: dict[str, Any], output: Any, target: Any) -> None:
        """Gives some examples to a slice's copies."""
        output, target = on_cpu(output), on_cpu(target)
        for name, state in states.items():
            if not isinstance(state, Failed):
                found = _try(name, state.update, output, target)
                if isinstance(found, Failed):
                    states[name] = found

    def compute(self, slices: Sequence[Risk]) -> Computed:
        """Of all slices together; of those without examples there is nothing to take."""
        found = Computed()
        for name in self._metrics:
            states = [each.states[name] for each in slices if isinstance(each, SliceRisk) and each.states]
            value = Failed("") if not states else _computed(name, states)
            if isinstance(value, Failed):
                found.numbers[name] = np.nan
                found.failures.update({name: value.why} if value.why else {})
            elif isinstance(value, dict):
                found.numbers.update({f"{name}.{key}": each for key, each in value.items()})
            elif isinstance(value, float):
                found.numbers[name] = value
            else:
                found.tables[name] = value
        return found


class TorchMetric:
    """A metric of torchmetrics as one of ours: its states come together as over the processes of a parallel run.

    It is given float64, and holds its sums in it: in float32 some are off, as R² where the mean is large.
    """

    def __init__(self, metric: Any) -> None:
        if not metric.metric_state:
            expected, do = "one with states of its own", "name its parts as metrics of their own"
            found = f"{type(metric).__name__} of torchmetrics, which is made of others"
            raise JobError(complaint("metrics", expected=expected, found=found, do=do))
        self._metric = copy.deepcopy(metric).cpu().set_dtype(torch.float64)
        self._states: list[dict[str, Any]] = []

    def update(self, output: Any, target: Any) -> None:
        """Takes some examples."""
        self._metric.update(in_float64(output), in_float64(target))

    def merge(self, other: TorchMetric) -> None:
        """Takes another's states, which come after its own."""
        self._states = [*self._taken, *other._taken]

    @property
    def _taken(self) -> list[dict[str, Any]]:
        return self._states or [self._metric.metric_state]

    def compute(self) -> Any:
        """Of all states: each brought together by the function that the metric names for it."""
        whole = copy.deepcopy(self._metric)
        whole.reset()
        whole._update_count = 1  # it warns of a metric that was never given anything
        for name, function in whole._reductions.items():
            several = [state[name] for state in self._taken]
            if isinstance(several[0], list):
                joined: Any = [each for state in several for each in state]
                joined = joined if function is None or not joined else function(joined)
            else:
                joined = torch.stack(several)
                joined = joined if function is None else function(joined)
                if function is None and len(several) == 1:
                    joined = several[0]
            setattr(whole, name, joined)
        return whole.compute()


def check_whole(metrics: WholeSet, output: Any, target: Any, pieces: Sequence[tuple[Any, ...]]) -> list[str]:
    """Tries them on some examples at once, and on the same in pieces that are merged; the names of their numbers.

    Args:
        pieces: output and target of each.

    Raises:
        JobError: one fails, gives something else than numbers, or another value of the pieces.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few examples: a class may be missing
        whole, parts = (_of(metrics, several) for several in ([(output, target)], pieces))
    for each in (whole, parts):
        for why in each.failures.values():
            raise JobError(why)
    for name, value in (whole.numbers | whole.tables).items():
        again = (parts.numbers | parts.tables).get(name)
        if again is None or not np.allclose(again, value, rtol=1e-4, atol=1e-6, equal_nan=True):
            expected = "the same of some examples at once as of parts of them that are merged"
            do = "take in merge(other) all that the other has taken, and weigh nothing by parts"
            found = f"{again} in place of {value}"
            raise JobError(complaint(f"metrics, {name!r}", expected=expected, found=found.replace("\n", ""), do=do))
    return list(whole.numbers)


def on_cpu(value: Any) -> Any:
    """What a model returned, with its tensors on the CPU."""
    return mapped(value, lambda tensor: tensor.detach().cpu())


def in_float64(value: Any) -> Any:
    """The same with its numbers in float64, but whole ones."""
    return mapped(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def _of(metrics: WholeSet, several: Sequence[tuple[Any, ...]]) -> Computed:
    slices = []
    for output, target in several:
        states = metrics.begin()
        metrics.update(states, output, target)
        slices.append(SliceRisk(Moments(), Moments(), states=states))
    return metrics.compute(slices)


def _computed(name: str, states: Sequence[Any]) -> float | dict[str, float] | Table | Failed:
    """The value of these copies, merged in a binary tree, neighbours first."""
    while len(states) > 1:
        pairs = [_merged(name, *states[at : at + 2]) for at in range(0, len(states) - 1, 2)]
        states = [*pairs, *states[len(pairs) * 2 :]]
    (state,) = states
    return state if isinstance(state, Failed) else _try(name, lambda: _numbers(name, state.compute()))


def _merged(name: str, one: Any, other: Any) -> Any:
    if isinstance(one, Failed) or isinstance(other, Failed):
        return one if isinstance(one, Failed) else other
    found = _try(name, one.merge, other)
    return found if isinstance(found, Failed) else one


def _numbers(name: str, value: Any) -> float | dict[str, float] | Table:
    """What a metric computed: a number, numbers by name, or an array.

    Raises:
        JobError: it is something else.
    """
    if isinstance(value, Mapping):
        return {str(key): _number(name, each) for key, each in value.items()}
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind in "biuf" and array.size > 1 and array.ndim <= MOST_IN_A_TABLE:
        return array
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size != 1:
        expected = f"a number, numbers by name, or an array of numbers of at most {MOST_IN_A_TABLE} axes"
        found = f"{array.dtype} of shape {array.shape}" if array.ndim else type(value).__name__
        do = "let compute return one of these; math.nan where there is none"
        raise JobError(complaint(f"metrics, {name!r}", expected=expected, found=found, do=do))
    return float(array.reshape(()))


def _try(name: str, call: Callable[..., Answer], *arguments: Any) -> Answer | Failed:
    try:
        with users_code(f"metrics, {name!r}", "return math.nan where there is no number"):
            return call(*arguments)
    except JobError as error:
        return Failed(str(error))


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The tensors of what a model returns changed, in tuples, lists and dicts too; all else as it is."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return type(value)({name: mapped(each, change) for name, each in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple | list):
        parts = [mapped(each, change) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
