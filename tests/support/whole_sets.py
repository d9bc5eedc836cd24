"""Metrics of whole sets for tests: exact, by a few lines each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


class Auroc:
    """Of one class against all others: the part of the pairs that are in the right order, ties by half."""

    def __init__(self, positive: int = 0) -> None:
        self.positive = positive
        self.scores: list[np.ndarray[Any, Any]] = []
        self.labels: list[np.ndarray[Any, Any]] = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.scores.append(output.softmax(1)[:, self.positive].double().numpy())
        self.labels.append((target == self.positive).numpy())

    def merge(self, other: Auroc) -> None:
        self.scores += other.scores
        self.labels += other.labels

    def compute(self) -> float:
        scores, labels = np.concatenate(self.scores), np.concatenate(self.labels)
        if labels.all() or not labels.any():
            return math.nan
        apart = scores[labels][:, None] - scores[~labels][None, :]
        return float(((apart > 0) + 0.5 * (apart == 0)).mean())


class Keys:
    """Every example's first number, in the order in which it comes: an array, and how many they are."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.seen += output[:, 0].tolist()

    def merge(self, other: Keys) -> None:
        self.seen += other.seen

    def compute(self) -> np.ndarray[Any, Any]:
        return np.array(self.seen)


class Named(Auroc):
    """Numbers by name."""

    def compute(self) -> Any:
        return {"area": super().compute(), "examples": sum(map(len, self.labels))}


class Raises(Auroc):
    """Fails where it computes of more examples than the trial has."""

    def compute(self) -> float:
        if sum(map(len, self.labels)) > 4:
            raise ValueError("too many")
        return 0.0
