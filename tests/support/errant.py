"""A processor that errs: a model whose gradient has a flipped bit, in one process and from some backward on.

The process that finds the file ``fault`` beside it at its 100th backward is it; whoever comes in its place is sound.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FAULT = "STREAMTRAIN_TEST_FAULT"
"""Environment variable: the file."""
FIRST = 100
backwards = 0


class Flip(torch.autograd.Function):
    """The identity; its gradient as a processor gives it that may err."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        global backwards
        backwards += 1
        (gradient,) = gradients
        return flipped(gradient, backwards) if errs(backwards) else gradient


def errs(count: int) -> bool:
    """Whether this process has the fault, which one takes by renaming the file."""
    file = Path(os.environ[FAULT])
    taken = file.with_name(f"fault.{os.getpid()}")
    if count == FIRST and file.exists():
        try:
            file.rename(taken)
        except FileNotFoundError:
            return False
    return count >= FIRST and taken.exists()


def flipped(gradient: torch.Tensor, count: int) -> torch.Tensor:
    """One bit of the largest element; another one in each of eight calls in a row."""
    words = gradient.clone().contiguous()
    words.view(torch.int32).view(-1)[words.abs().argmax()] ^= 1 << (4 + count % 8)
    return words


class Errant(torch.nn.Module):
    """A small multilayer perceptron for the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = Flip.apply(self.first(x.flatten(1)))  # type: ignore[no-untyped-call]
        scores: torch.Tensor = self.second(torch.relu(hidden))
        return scores


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 15}
