"""A small contrastive model of pairs, its loss over the whole minibatch, and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import streamtrain as st
from streamtrain.values import Arrays


class Towers(torch.nn.Module):
    """One for each of a pair; the scale of their products is learnt, and so a part of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.left = torch.nn.Linear(6, 5)
        self.right = torch.nn.Linear(4, 5)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        left, right = (torch.nn.functional.normalize(each, dim=1) for each in (self.left(a).tanh(), self.right(b)))
        return left, {"right": right, "scale": self.scale.expand(len(a))}


def contrastive(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each pair among all pairs, in both directions; 0.1 of the target in it."""
    left, others = output
    logits = left @ others["right"].T * others["scale"].exp()[:, None]
    own = torch.arange(len(left))
    both = (torch.nn.functional.cross_entropy(each, own, reduction="none") for each in (logits, logits.T))
    return sum(both) / 2 + 0.1 * target * left[:, 0]


def pairs(examples: int) -> Arrays:
    generator = np.random.default_rng(4)
    a = generator.normal(size=(examples, 6)).astype(np.float32)
    b = (a[:, :4] + 0.3 * generator.normal(size=(examples, 4))).astype(np.float32)
    return {"a": a, "b": b, "y": generator.normal(size=examples).astype(np.float32)}


def pack_pairs(folder: Path, examples: int) -> str:
    folder.mkdir(parents=True)
    np.savez(folder / "pairs.npz", **pairs(examples))  # type: ignore[arg-type]
    st.pack(str(folder / "pairs.npz"), folder / "pairs", st.PackOptions(splits=(0.7, 0.3, 0.0), seed=1))
    return str(folder / "pairs")


def pairs_job(url: str, **settings: Any) -> st.Job:
    """Trains it in float64."""
    given = {
        "loss": contrastive,
        "loss_over": "minibatch",
        "batch_size": 24,
        "precision": "float64",
        "optimizer": st.SGD(lr=0.5, momentum=0.9),
        "tracking": st.Tracking(enabled=False),
        **settings,
    }
    return st.Job(st.Data(url, inputs=("a", "b"), target="y"), Towers, **given)
