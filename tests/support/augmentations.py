"""Augmentations of 8×8 digits that draw from everything that they may, and a job with them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import streamtrain as st

Batch = dict[str, torch.Tensor]


def shifted(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Rolled, mirrored, dimmed and with noise: by the example's own generator and by each global one."""
    image = np.roll(example["image"], rng.integers(-1, 2, 2), (0, 1))
    if random.random() < 0.5:
        image = image[:, ::-1]
    image = image * np.random.uniform(0.5, 1) + torch.rand(8, 8).numpy()
    return {**example, "image": image.astype(np.uint8)}


def erased(batch: Batch, generator: torch.Generator) -> Batch:
    """Some pixels of a lane's batch, by the batch's generator and by each global one."""
    image = batch["image"]
    kept = torch.rand(image.shape, generator=generator) > 0.1 * np.random.rand()
    noise = torch.rand(image.shape) * 0.01 * random.random()
    return {**batch, "image": image * kept + noise}


def scaled(batch: Batch) -> Batch:
    return {**batch, "image": batch["image"].float() / 255}


def model() -> torch.nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))


def augmented_job(folder: Path, **data: Any) -> st.Job:
    """Of digits that lie in a folder; two passes in another order each."""
    chosen = {"transform": scaled, "augment": shifted, "augment_batch": erased, **data}
    mode = st.Epochs(max_passes=2, patience=2, reshuffle="examples")
    off = st.Tracking(enabled=False)
    return st.Job(st.Data(str(folder), **chosen), model, mode=mode, batch_size=40, lanes=4, seed=5, tracking=off)
