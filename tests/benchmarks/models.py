"""What the training benchmarks train: three models, their data and the settings of the optimizers."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential

BATCH = 256
EXAMPLES = 20_000
LR, MOMENTUM = 0.01, 0.9
ADAMW_LR = 1e-3
ROUND_STEPS = {"mlp": 300, "mlp3m": 36, "cnn": 12}
"""About a second, as a run's stints are: a call to the workers costs milliseconds."""


def mlp() -> torch.nn.Module:
    """0.27 million parameters."""
    return Sequential(Flatten(), Linear(784, 256), ReLU(), Linear(256, 256), ReLU(), Linear(256, 10))


def mlp3m() -> torch.nn.Module:
    """2.9 million parameters."""
    hidden = [layer for _ in range(2) for layer in (Linear(1024, 1024), ReLU())]
    return Sequential(Flatten(), Linear(784, 1024), ReLU(), *hidden, Linear(1024, 10))


def cnn() -> torch.nn.Module:
    """0.22 million parameters."""
    first, second = Conv2d(1, 32, 3, padding=1), Conv2d(32, 64, 3, padding=1)
    head = (Flatten(), Linear(64 * 49, 64), ReLU(), Linear(64, 10))
    return Sequential(first, ReLU(), MaxPool2d(2), second, ReLU(), MaxPool2d(2), *head)


MODELS = {"mlp": mlp, "mlp3m": mlp3m, "cnn": cnn}


def images() -> tuple[np.ndarray, np.ndarray]:
    """As large as MNIST's; their content is no matter here."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (EXAMPLES, 28, 28), np.uint8), generator.integers(0, 10, EXAMPLES)


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    """The same in memory, as a model takes them."""
    pixels, labels = images()
    return torch.from_numpy(pixels).float().div(255).unsqueeze(1), torch.from_numpy(labels)
