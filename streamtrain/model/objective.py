"""What is measured of each example: the built-in losses, errors and metrics, and which of them a job asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from streamtrain.aggregate.moments import take_joint, take_moments
from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job import Job, Measure, OfMeans, Value
from streamtrain.values import Moments, Risk

Measured = Value | tuple[Value, ...]
"""One number of each example, shape (examples,); of a function of means several."""


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each example's class, in nats; shape (examples,).

    Raises:
        JobError: the output is no tensor of shape (examples, classes).
    """
    if not isinstance(output, torch.Tensor) or output.dim() < 2:
        _refuse("cross_entropy", "an output of shape (examples, classes)", output)
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


def mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Each example's squared error, averaged over its components; shape (examples,).

    Output and target are compared number by number: shapes (examples,) and (examples, 1) go together either way.

    Raises:
        JobError: the output is no tensor, or has another count of numbers an example than the target.
    """
    if not isinstance(output, torch.Tensor) or output.dim() == 0:
        _refuse("mse", "an output of shape (examples, ...)", output)
    if output.shape != target.shape:
        if output.shape[0] != target.shape[0] or output.numel() != target.numel():
            _refuse(
                "mse", f"an output of as many numbers an example as the target of shape {tuple(target.shape)}", output
            )
        target = target.reshape(output.shape)
    return (output - target).square().reshape(len(output), -1).mean(1)


def zero_one(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 where the largest output is not the target's class, else 0; shape (examples,).

    Raises:
        JobError: the output is no tensor of shape (examples, classes).
    """
    if not isinstance(output, torch.Tensor) or output.dim() < 2:
        _refuse("zero_one", "an output of shape (examples, classes)", output, what="error")
    return (output.argmax(1) != target).float()


def soft_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the probability of the target's class (Nakkiran et al. 2021, *The Deep Bootstrap*); (examples,)."""
    return 1 - output.softmax(1).gather(1, target[:, None]).squeeze(1)


def margin(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By how much the target's class is above the largest other one, in logits; below 0 where it is wrong; (examples,).

    It may go on growing where the training error is 0 (Deep Learning, 8.1.2).
    """
    right = output.gather(1, target[:, None])
    others = output.scatter(1, target[:, None], -torch.inf)
    return (right - others.amax(1, keepdim=True)).squeeze(1)


def metrics_of(job: Job) -> dict[str, Measure | OfMeans]:
    """What is measured beside loss and error: the job's own functions; with cross-entropy soft error and margin."""
    built_in: dict[str, Measure | OfMeans] = {}
    if job.loss == "cross_entropy":
        built_in = {"soft_error": soft_error, "margin": margin}
    return built_in | dict(job.metrics)


def take_metrics(
    metrics: Mapping[str, Measure | OfMeans], output: Any, target: Any, found: Mapping[str, Value]
) -> dict[str, Measured]:
    """Every metric of each example.

    Args:
        found: loss and error of each, by those names.
    """
    values: dict[str, Value] = dict(found)
    for name, metric in metrics.items():
        if not isinstance(metric, OfMeans):
            values[name] = _call(name, metric, output, target)
    several = {
        name: tuple(
            values[each] if isinstance(each, str) else _call(name, each, output, target) for each in metric.measures
        )
        for name, metric in metrics.items()
        if isinstance(metric, OfMeans)
    }
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


def _refuse(name: str, expected: str, output: object, *, what: str = "loss") -> NoReturn:
    found = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
    do = f"return such a tensor, or give the {what} as a function of (output, target), e.g. of output.logits"
    raise JobError(complaint(f"{what} {name!r}", expected=expected, found=found, do=do))
