"""What is measured of each example: by functions of output and target, built-in ones, or a job's objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from streamtrain.aggregate.moments import Values, take_joint, take_moments
from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job import Job, Measure, OfMeans, Value
from streamtrain.job.objective.metric import is_whole
from streamtrain.model.machine.device import choose_autocast, choose_image_layout
from streamtrain.model.objective.built_in import cross_entropy, margin, mse, soft_error, zero_one
from streamtrain.model.objective.whole_set import WholeSet
from streamtrain.values import Moments, Risk

Batch = dict[str, torch.Tensor]
Measured = Value | tuple[Value, ...]
"""One number of each example, shape (examples,); of a function of means several."""


class Objective:
    """How a job measures a batch.

    Args:
        job: whose functions these are.

    Attributes:
        is_own: whether the job's own function calls the model; what it returns is then the output.
        whole, by_class: the job's metrics of whole sets; with a classifier's counts of each class.
    """

    def __init__(self, job: Job) -> None:
        self._data = job.data
        self._function = job.objective
        self.is_own = job.objective is not None
        self._loss, self._error = loss_and_error(job)
        self._metrics = metrics_of(job)
        self.whole = WholeSet.of(job)
        self.by_class = WholeSet.of(job, by_class=True)
        self._autocast = choose_autocast(job)
        self._laid_out = choose_image_layout(job)

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """What the model is called with; nothing where the job's own function calls it."""
        return () if self.is_own else tuple(self._laid_out(batch[name]) for name in self._data.inputs)

    def output(self, model: Callable[..., Any], batch: Batch) -> Any:
        """What the model returns for these examples, or the job's own function.

        Raises:
            JobError: the function fails, or returns something else than measures by name, a loss among them.
        """
        if self._function is None:
            with self._autocast(), users_code("the model's forward"):
                return model(*self.inputs(batch))
        with self._autocast(), users_code("the objective"):
            found = self._function(model, {name: self._laid_out(tensor) for name, tensor in batch.items()})
        if not isinstance(found, Mapping) or "loss" not in found:
            what = f"a dict of {', '.join(map(str, found)) or 'nothing'}" if isinstance(found, Mapping) else repr(found)
            do = "return each example's loss by that name"
            raise JobError(complaint("objective", expected='a dict with "loss"', found=what[:100], do=do))
        return found

    def losses(self, output: Any, batch: Batch) -> Values:
        """Loss and error of each example, shape (examples,); the latter without a graph."""
        if self.is_own:
            return output["loss"], output.get("error", output["loss"])
        return self.compared(output, self.target(batch))

    def compared(self, output: Any, target: Any) -> Values:
        """Loss and error of each example, from output and target."""
        with self._autocast(), users_code("the loss"):
            losses = self._loss(output, target)
        with torch.no_grad(), users_code("the error"):
            return losses, losses if self._error is self._loss else self._error(output, target)

    def measures(self, output: Any, batch: Batch) -> dict[str, Measured]:
        """Loss, error and every metric of each example, by name."""
        found = dict(zip(("loss", "error"), self.losses(output, batch), strict=True))
        if self.is_own:
            named = found | {name: values for name, values in output.items() if name not in found}
            return named | take_metrics(self._metrics, None, None, named)
        with self._autocast():
            return found | take_metrics(self._metrics, output, self.target(batch), found)

    def target(self, batch: Batch) -> Any:
        """What the loss compares an output with: one field, or a dict of several; ``None`` of an own objective."""
        target = self._data.target
        if self.is_own:
            return None
        return batch[target] if isinstance(target, str) else {name: batch[name] for name in target}


def metrics_of(job: Job) -> dict[str, Measure | OfMeans]:
    """What is measured of each example beside loss and error: functions; with cross-entropy soft error and margin."""
    built_in: dict[str, Measure | OfMeans] = {}
    if job.loss == "cross_entropy" and job.objective is None:
        built_in = {"soft_error": soft_error, "margin": margin}
    own: dict[str, Any] = {name: metric for name, metric in job.metrics.items() if not is_whole(metric)}
    return built_in | own


def take_metrics(
    metrics: Mapping[str, Measure | OfMeans], output: Any, target: Any, found: Mapping[str, Value]
) -> dict[str, Measured]:
    """Every metric of each example.

    Args:
        found: loss and error of each, and what else there is, by name.

    Raises:
        JobError: a function of means names what there is not.
    """
    values: dict[str, Value] = dict(found)
    for name, metric in metrics.items():
        if not isinstance(metric, OfMeans):
            values[name] = _call(name, metric, output, target)
    several: dict[str, Measured] = {}
    for name, metric in metrics.items():
        if isinstance(metric, OfMeans):
            for each in metric.measures:
                if isinstance(each, str) and each not in values:
                    where, do = f"metrics, {name!r}", f"name one of {', '.join(values)}"
                    raise JobError(complaint(where, expected="names of what is measured", found=each, do=do))
            several[name] = tuple(
                values[each] if isinstance(each, str) else _call(name, each, output, target) for each in metric.measures
            )
    return {name: several[name] if name in several else values[name] for name in metrics}


def risk_of(measured: Mapping[str, Measured]) -> Risk:
    """The moments of all that was measured of some examples, loss and error among it."""
    moments = {name: _moments(each) for name, each in measured.items()}
    return Risk(moments.pop("loss"), moments.pop("error"), moments)


def loss_and_error(job: Job) -> tuple[Measure, Measure]:
    """The job's functions, built-in names and the default error resolved."""
    loss = {"cross_entropy": cross_entropy, "mse": mse}[job.loss] if isinstance(job.loss, str) else job.loss
    if job.error is None:
        return loss, zero_one if job.loss == "cross_entropy" else loss
    return loss, zero_one if isinstance(job.error, str) else job.error


def _call(name: str, metric: Measure, output: Any, target: Any) -> Value:
    with users_code(f"metrics, {name!r}"):
        return metric(output, target)


def _moments(measured: Measured) -> Moments:
    return take_joint(measured) if isinstance(measured, tuple) else take_moments(measured)
