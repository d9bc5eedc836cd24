"""What is trained on a GPU: models, data sets, and a plain PyTorch loop over the same minibatches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.inline import InlineFleet, alone

CLASSES = 10
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        side, width: of an image in pixels; channels of the CNN's first layer, and an eighth of the GPT's and MLP's.
        context, layers, vocabulary: of the GPT.
        examples, rows: images and rows of tokens in the data sets.
        batch, batch_rows: of a minibatch.
        steps: of a check.
        timed: steps of a round of a race.
        rounds: of a race.
    """

    side: int
    width: int
    context: int
    layers: int
    vocabulary: int
    examples: int
    rows: int
    batch: int
    batch_rows: int
    steps: int
    timed: int
    rounds: int


SIZES = {
    "full": Size(96, 96, 512, 8, 8192, 8192, 4096, 256, 32, steps=30, timed=60, rounds=5),
    "tiny": Size(8, 4, 8, 1, 32, 160, 160, 16, 16, steps=6, timed=4, rounds=2),
}


def mlp(size: Size) -> torch.nn.Module:
    """Two hidden layers on images."""
    wide = 8 * size.width
    layers = (torch.nn.Linear(3 * size.side**2, wide), torch.nn.ReLU(), torch.nn.Linear(wide, wide), torch.nn.ReLU())
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(wide, CLASSES))


class CNN(torch.nn.Module):
    """Convolutions with BatchNorm; each third one halves the image. Only operations that have deterministic kernels."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        channels = 3
        for depth in range(3):
            wide = size.width << depth
            for stride in (1, 1, 2):
                layers += [torch.nn.Conv2d(channels, wide, 3, stride, padding=1, bias=False)]
                layers += [torch.nn.BatchNorm2d(wide), torch.nn.ReLU()]
                channels = wide
        self.layers, self.head = torch.nn.Sequential(*layers), torch.nn.Linear(channels, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.layers(images).mean((2, 3)))
        return output


class Block(torch.nn.Module):
    """Causal attention and a perceptron, each on what a LayerNorm gives."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.joint, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.joint(self.before(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        output: torch.Tensor = x + self.down(functional.gelu(self.up(self.between(x))))
        return output


class GPT(torch.nn.Module):
    """A small language model: rows of tokens in, logits of the next ones out."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        wide = 8 * size.width
        self.tokens = torch.nn.Embedding(size.vocabulary, wide)
        self.places = torch.nn.Parameter(0.02 * torch.randn(size.context, wide))
        self.blocks = torch.nn.Sequential(*(Block(wide, max(1, wide // 64)) for _ in range(size.layers)))
        self.head = torch.nn.Linear(wide, size.vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.blocks(self.tokens(tokens) + self.places))
        return output


MODELS: dict[str, Callable[[Size], torch.nn.Module]] = {"mlp": mlp, "cnn": CNN, "gpt": GPT}


def scaled(batch: dict[str, Any]) -> dict[str, Any]:
    """Pixels in [0, 1]; tokens as indices."""
    if batch["x"].dtype == torch.uint8:
        return {**batch, "x": batch["x"].float() / 255}
    return {name: field.long() for name, field in batch.items()}


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each example, shape (examples,): the mean over its tokens, where it has several."""
    each = functional.cross_entropy(output.flatten(0, -2).float(), target.flatten(), reduction="none")
    return each.unflatten(0, target.shape).flatten(1).mean(1) if target.dim() > 1 else each


@dataclass(frozen=True)
class Case:
    """A model in an arithmetic, with an optimizer; ``others`` are settings of the job."""

    model: str
    precision: str = "float32"
    optimizer: str = "sgd"
    others: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.model, self.precision, self.optimizer, *self.others))


class Bench:
    """The data sets in a folder, and ours and a plain loop on them.

    Args:
        folder: to pack into.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, folder: Path, device: str, size: Size) -> None:
        self.device, self.size, self._folder = device, size, folder
        draw = np.random.default_rng(1)
        images = draw.integers(0, 256, (size.examples, 3, size.side, size.side), np.uint8)
        tokens = draw.integers(0, size.vocabulary, (size.rows, size.context + 1), np.int32)
        self._pack("images", images, draw.integers(0, CLASSES, size.examples))
        self._pack("tokens", tokens[:, :-1], tokens[:, 1:])

    def _pack(self, name: str, x: np.ndarray, y: np.ndarray) -> None:
        source = self._folder / f"{name}.npz"
        np.savez(source, x=x, y=y)
        pack(str(source), self._folder / name, PackOptions(splits=(0.8, 0.1, 0.1), blocks=False))
        source.unlink()

    def place(self, case: Case) -> Path:
        """The folder of its data set."""
        return self._folder / ("tokens" if case.model == "gpt" else "images")

    def batch(self, case: Case) -> int:
        """Examples of a minibatch."""
        return self.size.batch_rows if case.model == "gpt" else self.size.batch

    def job(self, case: Case, **others: Any) -> st.Job:
        """One lane, unless told otherwise."""
        rule = st.SGD(lr=0.01, momentum=0.9) if case.optimizer == "sgd" else st.AdamW(lr=1e-3, weight_decay=0.1)
        size = self.size
        settings: dict[str, Any] = {
            "mode": st.Epochs(max_passes=10**6), "optimizer": rule, "batch_size": self.batch(case), "lanes": 1,
            "device": self.device, "precision": case.precision, "threads": 1 if self.device == "cpu" else 4,
            "tracking": st.Tracking(enabled=False, log_every=10**6, diagnostics=False), "seed": 3,
        }  # fmt: skip
        data = st.Data(str(self.place(case)), inputs=("x",), target="y", transform=scaled)
        return st.Job(data, lambda: MODELS[case.model](size), loss_of, **settings | case.others | others)

    def fleet(self, job: st.Job) -> InlineFleet:
        """Ours: `advance` trains."""
        return InlineFleet(plan(alone(job)))

    def trained(self, job: st.Job, steps: int) -> dict[str, torch.Tensor]:
        """The state dict after so many steps of ours."""
        with self.fleet(job) as fleet:
            fleet.advance(steps)
            return fleet.snapshot()


class Plain:
    """The same model, optimizer and arithmetic in a plain loop of PyTorch.

    Args:
        wrap: what else is to be made of the model, for a peer.
    """

    def __init__(self, bench: Bench, case: Case, wrap: Callable[[Any], Any] = lambda model: model) -> None:
        torch.manual_seed(3)
        model = MODELS[case.model](bench.size)
        if case.others.get("channels_last"):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.to(bench.device)
        self._call = wrap(torch.compile(self.model) if case.others.get("compile") else self.model)
        self._layout = torch.channels_last if case.others.get("channels_last") else torch.contiguous_format
        parameters = self.model.parameters()
        if case.optimizer == "sgd":
            self._optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        else:
            self._optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
        self._scaler = torch.amp.GradScaler(bench.device, init_scale=16.0, enabled=case.precision == "fp16")
        half = HALVES.get(case.precision)
        self._cast = (lambda: torch.autocast(bench.device, half)) if half else contextlib.nullcontext

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """One update."""
        ready = scaled(batch)
        x = ready["x"]
        if x.dim() == 4:
            x = x.contiguous(memory_format=self._layout)
        self._optimizer.zero_grad()
        with self._cast():
            loss = loss_of(self._call(x), ready["y"]).mean()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()


def minibatches(bench: Bench, case: Case) -> Iterator[dict[str, torch.Tensor]]:
    """Those of our run, as `st.open` gives them, pass after pass; on the device."""
    opened = st.open(str(bench.place(case)))
    while True:
        yield from opened.batches(bench.batch(case), device=bench.device)
