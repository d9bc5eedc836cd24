"""Which category is an emoji of? A small convolutional network on pictures that are changed at random.

    python jobs/classification/emoji_data.py data/emoji
    streamtrain pack data/emoji/pictures data/emoji/packed
    streamtrain train jobs/classification/emoji.py

Each time that a training picture comes it is moved and perhaps mirrored (`moved`), and a rectangle of it is erased
(`erased`). Held-out pictures stay as they are.
"""

from typing import Any

import numpy as np
import torch

import streamtrain as st

SIDE, CATEGORIES, MARGIN = 32, 9, 4


def moved(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Up to MARGIN pixels each way, on white, and every second one mirrored."""
    top, left = rng.integers(0, 2 * MARGIN + 1, 2)
    wide = np.pad(example["image"], ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)
    image = wide[top : top + SIDE, left : left + SIDE]
    return {**example, "image": image[:, ::-1] if rng.random() < 0.5 else image}


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels from 0 … 255 to -1 … 1, colours first."""
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2).float() / 127.5 - 1}


def erased(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A square of each picture, a quarter of its side to a half, becomes grey."""
    images = batch["image"]
    one_each = (len(images), 1, 1)
    side = torch.randint(SIDE // 4, SIDE // 2 + 1, one_each, generator=generator, device=images.device)
    top, left = (torch.randint(0, SIDE, one_each, generator=generator, device=images.device) - side // 2 for _ in "yx")
    across = torch.arange(SIDE, device=images.device)
    rows, columns = across[:, None], across[None, :]
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return {**batch, "image": images.masked_fill(inside[:, None], 0.0)}


def layer(channels: int, more: int) -> torch.nn.Sequential:
    """Half the sides, more channels."""
    convolution = torch.nn.Conv2d(channels, more, 3, padding=1)
    return torch.nn.Sequential(convolution, torch.nn.GroupNorm(8, more), torch.nn.ReLU(), torch.nn.MaxPool2d(2))


def model() -> torch.nn.Module:
    """Three layers of 32, 64 and 128 channels, their mean over the picture, and a score for each category."""
    return torch.nn.Sequential(
        *(layer(3, 32), layer(32, 64), layer(64, 128)),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(128, CATEGORIES)),
    )


job = st.Job(
    data=st.Data(
        "data/emoji/packed",
        image_size=(SIDE, SIDE),
        image_mode="rgb",
        augment=moved,
        transform=scaled,
        augment_batch=erased,
    ),
    model=model,
    mode=st.Epochs(max_passes=30, patience=30),
    evaluate=st.Evaluate(every=15_000),
    optimizer=st.AdamW(lr=2e-3, weight_decay=0.05),
    schedule=st.Schedule("cosine", warmup_steps=50),
    batch_size=64,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
