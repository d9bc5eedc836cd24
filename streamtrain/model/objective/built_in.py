"""The losses, errors and metrics that are named, or come by themselves with a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch

from streamtrain.errors import JobError, complaint


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


@dataclass(frozen=True)
class OfLosses:
    """A metric that follows from the losses, (examples,) -> (examples,): another softmax takes as long as they did.

    Attributes:
        function: of each example's loss, before it is weighted.
    """

    function: Callable[[torch.Tensor], torch.Tensor]


def soft_error(cross_entropies: torch.Tensor) -> torch.Tensor:
    """One minus the probability of the target's class (Nakkiran et al. 2021, *The Deep Bootstrap*); (examples,)."""
    return -torch.expm1(-cross_entropies)


def margin(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By how much the target's class is above the largest other one, in logits; below 0 where it is wrong; (examples,).

    It may go on growing where the training error is 0 (Deep Learning, 8.1.2).
    """
    right = output.gather(1, target[:, None])
    others = output.scatter(1, target[:, None], -torch.inf)
    return (right - others.amax(1, keepdim=True)).squeeze(1)


def _refuse(name: str, expected: str, output: object, *, what: str = "loss") -> NoReturn:
    found = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
    do = f"return such a tensor, or give the {what} as a function of (output, target), e.g. of output.logits"
    raise JobError(complaint(f"{what} {name!r}", expected=expected, found=found, do=do))
