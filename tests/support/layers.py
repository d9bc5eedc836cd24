"""Every layer of torch.nn, each built from small numbers into a model of 4 × 16 numbers an example and 5 classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Shape = tuple[int, ...]
Take = Callable[[Any], torch.Tensor]
Layers = dict[str, tuple[Callable[[], nn.Module], Shape]]
CLASSES = 5
FLAT, LINE, PLANE, SPACE = (64,), (4, 16), (4, 4, 4), (4, 2, 2, 4)
"""Shapes that an example may be given: by itself, or as channels and places in one, two or three dimensions."""


class Headed(nn.Module):
    """Some layer between two linear ones; ``take`` picks the tensor out of what it returns."""

    def __init__(
        self, body: nn.Module, shape: tuple[int, ...], take: Callable[[Any], torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        self.shape, self.take = shape, take
        self.first = nn.Linear(64, 64)
        self.body = body
        with torch.no_grad():
            width = self.middle(torch.zeros(2, *LINE)).flatten(1).shape[1]
        self.head = nn.Linear(width, CLASSES)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        made = self.body(self.first(x.flatten(1)).reshape(len(x), *self.shape))
        found: torch.Tensor = made if self.take is None else self.take(made)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.middle(x).flatten(1))
        return output


class Numbered(nn.Module):
    """A layer that takes whole numbers below 8, eight of them an example."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer((x.flatten(1)[:, :8].detach() * 5).long().remainder(8))
        return output


class Twice(nn.Module):
    """A layer of two arguments, given halves of its input or all of it twice."""

    def __init__(self, layer: nn.Module, *, halves: bool = False) -> None:
        super().__init__()
        self.layer, self.halves = layer, halves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = x.chunk(2, 1) if self.halves else (x, x)
        output: torch.Tensor = self.layer(one, other)
        return output


class Cell(nn.Module):
    """A recurrent cell, once; its output, where that is a pair the first of it."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.cell(x)
        output: torch.Tensor = made[0] if isinstance(made, tuple) else made
        return output


class Unpooled(nn.Module):
    """A pool and its inverse."""

    def __init__(self, pool: nn.Module, unpool: nn.Module) -> None:
        super().__init__()
        self.pool, self.unpool = pool, unpool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.unpool(*self.pool(x))
        return output


class Attention(nn.Module):
    """Self-attention over the places of an example."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=batch_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.attention(x, x, x)[0]
        return output


def _first(made: Any) -> torch.Tensor:
    found: torch.Tensor = made[0]
    return found


def _of(name: str, *arguments: Any, **named: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(nn, name)(*arguments, **named)


def _elementwise() -> Layers:
    plain = [
        *("ELU", "CELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
        *("LogSigmoid", "LogSoftmax", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax"),
        *("Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Flatten", "Dropout", "AlphaDropout"),
    ]
    with_axis = {"LogSoftmax", "Softmax", "Softmin"}
    made = {name: (_of(name, 1) if name in with_axis else _of(name), FLAT) for name in plain}
    made |= {name: (_of(name), LINE) for name in ("Dropout1d", "FeatureAlphaDropout")}
    made |= {"Dropout2d": (_of("Dropout2d"), PLANE), "Dropout3d": (_of("Dropout3d"), SPACE)}
    return made | {"Threshold": (_of("Threshold", 0.1, 0.0), FLAT), "Softmax2d": (_of("Softmax2d"), PLANE)}


def _by_dimension() -> Layers:
    made = {}
    for d, shape in ((1, LINE), (2, PLANE), (3, SPACE)):
        made[f"Conv{d}d"] = _of(f"Conv{d}d", 4, 3, 1), shape
        made[f"ConvTranspose{d}d"] = _of(f"ConvTranspose{d}d", 4, 3, 1), shape
        for pool in ("MaxPool", "AvgPool"):
            made[f"{pool}{d}d"] = _of(f"{pool}{d}d", 2), shape
        made[f"LPPool{d}d"] = _of(f"LPPool{d}d", 2, 2), shape
        for pool in ("AdaptiveAvgPool", "AdaptiveMaxPool"):
            made[f"{pool}{d}d"] = _of(f"{pool}{d}d", 2), shape
        for pad in ("ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad"):
            made[f"{pad}{d}d"] = _of(f"{pad}{d}d", 1), shape
        made[f"ConstantPad{d}d"] = _of(f"ConstantPad{d}d", 1, 0.5), shape
        made[f"BatchNorm{d}d"] = _of(f"BatchNorm{d}d", 4), shape
        made[f"InstanceNorm{d}d"] = _of(f"InstanceNorm{d}d", 4, affine=True, track_running_stats=True), shape
        made[f"MaxUnpool{d}d"] = (
            lambda d=d: Unpooled(getattr(nn, f"MaxPool{d}d")(2, return_indices=True), getattr(nn, f"MaxUnpool{d}d")(2)),
            shape,
        )
    return made


def _others() -> Layers:
    return {
        "SyncBatchNorm": (_of("SyncBatchNorm", 4), PLANE),
        "GroupNorm": (_of("GroupNorm", 2, 4), PLANE),
        "LayerNorm": (_of("LayerNorm", 16), LINE),
        "RMSNorm": (_of("RMSNorm", 16), LINE),
        "LocalResponseNorm": (_of("LocalResponseNorm", 2), PLANE),
        "CrossMapLRN2d": (_of("CrossMapLRN2d", 2), PLANE),
        "Linear": (_of("Linear", 64, 8), FLAT),
        "Bilinear": (lambda: Twice(nn.Bilinear(32, 32, 4), halves=True), FLAT),
        "CosineSimilarity": (lambda: Twice(nn.CosineSimilarity(), halves=True), LINE),
        "PairwiseDistance": (lambda: Twice(nn.PairwiseDistance(keepdim=True), halves=True), FLAT),
        "Embedding": (lambda: Numbered(nn.Embedding(8, 4)), FLAT),
        "EmbeddingBag": (lambda: Numbered(nn.EmbeddingBag(8, 4)), FLAT),
        "PixelShuffle": (_of("PixelShuffle", 2), PLANE),
        "PixelUnshuffle": (_of("PixelUnshuffle", 2), PLANE),
        "ChannelShuffle": (_of("ChannelShuffle", 2), PLANE),
        "Upsample": (_of("Upsample", scale_factor=2), PLANE),
        "UpsamplingNearest2d": (_of("UpsamplingNearest2d", scale_factor=2), PLANE),
        "UpsamplingBilinear2d": (_of("UpsamplingBilinear2d", scale_factor=2), PLANE),
        "Unfold": (_of("Unfold", 2), PLANE),
        "Fold": (_of("Fold", (5, 5), 2), LINE),
        "Unflatten": (_of("Unflatten", 1, (8, 8)), FLAT),
        "RNNCell": (lambda: Cell(nn.RNNCell(64, 8)), FLAT),
        "LSTMCell": (lambda: Cell(nn.LSTMCell(64, 8)), FLAT),
        "GRUCell": (lambda: Cell(nn.GRUCell(64, 8)), FLAT),
        "MultiheadAttention": (Attention, LINE),
        "TransformerEncoderLayer": (_of("TransformerEncoderLayer", 16, 2, 16, batch_first=True), LINE),
        "TransformerEncoder": (
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), 2),
            LINE,
        ),
        "TransformerDecoderLayer": (lambda: Twice(nn.TransformerDecoderLayer(16, 2, 16, batch_first=True)), LINE),
        "TransformerDecoder": (
            lambda: Twice(nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 16, batch_first=True), 2)),
            LINE,
        ),
        "Transformer": (lambda: Twice(nn.Transformer(16, 2, 1, 1, 16, batch_first=True)), LINE),
        "FractionalMaxPool2d": (_of("FractionalMaxPool2d", 2, output_size=5), (1, 8, 8)),
        "FractionalMaxPool3d": (_of("FractionalMaxPool3d", 1, output_size=3), (1, 4, 4, 4)),
    }


LAYERS = _elementwise() | _by_dimension() | _others()
RECURRENT: Layers = {
    name: (_of(name, 16, 8, batch_first=True, num_layers=2, dropout=0.2), LINE) for name in ("RNN", "LSTM", "GRU")
}
NOT_LAYERS = {
    "Module": "the base", "RNNBase": "a base", "RNNCellBase": "a base", "Container": "a base",
    "Sequential": "holds layers", "ModuleList": "holds layers", "ModuleDict": "holds layers",
    "ParameterList": "holds parameters", "ParameterDict": "holds parameters", "DataParallel": "among the other models",
}  # fmt: skip
"""What torch.nn has beside layers, losses, and layers without a shape until they are called."""


def layer(name: str) -> nn.Module:
    """The model around one layer."""
    if name in RECURRENT:
        make, shape = RECURRENT[name]
        return Headed(make(), shape, _first)
    make, shape = LAYERS[name]
    return Headed(make(), shape)
