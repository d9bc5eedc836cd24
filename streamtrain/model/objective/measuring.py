"""What is measured of each example: by functions of output and target, built-in ones, or a job's objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from streamtrain.aggregate.moments import Values
from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job import Job, Measure, OfMeans, Value
from streamtrain.job.objective.metric import is_whole
from streamtrain.model.machine.device import choose_autocast, choose_image_layout
from streamtrain.model.objective.built_in import OfLosses, cross_entropy, margin, mse, soft_error, zero_one
from streamtrain.model.objective.entries import Entries
from streamtrain.model.objective.whole_set import WholeSet

Batch = dict[str, torch.Tensor]
Measured = Value | tuple[Value, ...]
"""One number of each example, shape (examples,); of a function of means several."""
OfExamples = Callable[[str, Any], Value]
Metric = Measure | OfMeans | OfLosses


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
        self._pack = job.data.pack
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
        return self._both(self._compared(output, self.compared_of(output, batch)), self._of_examples(batch))

    def compared(self, output: Any, target: Any) -> Values:
        """Loss and error as the job's functions give them, from output and target."""
        with self._autocast(), users_code("the loss"):
            losses = self._loss(output, target)
        with torch.no_grad(), users_code("the error"):
            return losses, losses if self._error is self._loss else self._error(output, target)

    def measures(self, output: Any, batch: Batch) -> dict[str, Measured]:
        """Loss, error and every metric of each example, by name."""
        of_examples = self._of_examples(batch)
        pair = self.compared_of(output, batch)
        compared = self._compared(output, pair)
        found = dict(zip(("loss", "error"), self._both(compared, of_examples), strict=True))
        if self.is_own:
            found |= self.own_values(output, batch)

        def measure(name: str, metric: Measure | OfLosses) -> Value:
            with users_code(f"metrics, {name!r}"):
                values = metric.function(compared[0]) if isinstance(metric, OfLosses) else metric(*pair)
            return of_examples(f"metrics, {name!r}", values)

        with self._autocast():
            return found | take_metrics(self._metrics, measure, found)

    def own_values(self, output: Mapping[str, Any], batch: Batch) -> dict[str, Value]:
        """What the job's own function gave of each example beside loss and error, by name."""
        of_examples = self._of_examples(batch)
        return {name: of_examples(name, value) for name, value in output.items() if name not in ("loss", "error")}

    def compared_of(self, output: Any, batch: Batch) -> tuple[Any, Any]:
        """Output and target as losses, errors and metrics get them: of rows the entries, one behind the other.

        Of an own objective's output, values by name, nothing is compared.
        """
        target = self.target(batch)
        if self._pack is None or self.is_own:
            return output, target
        entries = Entries(self._pack, batch)
        return entries.of(output), entries.of(target)

    def _compared(self, output: Any, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        """Losses and errors as functions give them: of examples, or of entries."""
        if self.is_own:
            return output["loss"], output.get("error", output["loss"])
        return self.compared(*pair)

    def _both(self, compared: tuple[Any, Any], of_examples: OfExamples) -> Values:
        losses, errors = compared
        found = of_examples("loss", losses)
        return found, found if errors is losses else of_examples("error", errors)

    def _of_examples(self, batch: Batch) -> OfExamples:
        """Makes values of examples of what may have been given of entries, by the name of what it is."""
        if self._pack is None:
            return lambda _, value: value
        entries = Entries(self._pack, batch)
        if self.is_own:  # it has seen rows, and may give values of either
            return lambda name, value: entries.of_examples(name, entries.of(value), of_rows=entries.are_in(value))
        of_rows = entries.are_in(self.target(batch))
        return lambda name, value: entries.of_examples(name, value, of_rows=of_rows)

    def target(self, batch: Batch) -> Any:
        """What the loss compares an output with: one field, or a dict of several; ``None`` of an own objective."""
        target = self._data.target
        if self.is_own:
            return None
        return batch[target] if isinstance(target, str) else {name: batch[name] for name in target}


def metrics_of(job: Job) -> dict[str, Metric]:
    """What is measured of each example beside loss and error: functions; with cross-entropy soft error and margin."""
    built_in: dict[str, Metric] = {}
    if job.loss == "cross_entropy" and job.objective is None:
        built_in = {"soft_error": OfLosses(soft_error), "margin": margin}
    own: dict[str, Any] = {name: metric for name, metric in job.metrics.items() if not is_whole(metric)}
    return built_in | own


def take_metrics(
    metrics: Mapping[str, Metric],
    measure: Callable[[str, Measure | OfLosses], Value],
    found: Mapping[str, Value],
) -> dict[str, Measured]:
    """Every metric of each example.

    Args:
        measure: calls a function for the metric of this name.
        found: loss and error of each, and what else there is, by name.

    Raises:
        JobError: a function of means names what there is not.
    """
    values: dict[str, Value] = dict(found)
    for name, metric in metrics.items():
        if not isinstance(metric, OfMeans):
            values[name] = measure(name, metric)
    several: dict[str, Measured] = {}
    for name, metric in metrics.items():
        if isinstance(metric, OfMeans):
            for each in metric.measures:
                if isinstance(each, str) and each not in values:
                    where, do = f"metrics, {name!r}", f"name one of {', '.join(values)}"
                    raise JobError(complaint(where, expected="names of what is measured", found=each, do=do))
            several[name] = tuple(
                values[each] if isinstance(each, str) else measure(name, each) for each in metric.measures
            )
    return {name: several[name] if name in several else values[name] for name in metrics}


def loss_and_error(job: Job) -> tuple[Measure, Measure]:
    """The job's functions, built-in names and the default error resolved."""
    loss = {"cross_entropy": cross_entropy, "mse": mse}[job.loss] if isinstance(job.loss, str) else job.loss
    if job.error is None:
        return loss, zero_one if job.loss == "cross_entropy" else loss
    return loss, zero_one if isinstance(job.error, str) else job.error
