"""The forms of a job's functions on examples and batches; names for type checkers and flags only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.random
    import torch

    from streamtrain.job.data.in_rows import Pack
    from streamtrain.job.data.padding import Pad

    Batch = dict[str, torch.Tensor]
    Transform = Callable[[Batch], Batch]
    Map = Callable[[dict[str, Any]], Mapping[str, Any]]
    Augment = Callable[[dict[str, Any], numpy.random.Generator], Mapping[str, Any]]
    AugmentBatch = Callable[[Batch, torch.Generator], Batch]
    Collate = Pad | tuple[Pad, ...] | Pack | Callable[[list[dict[str, Any]]], Mapping[str, Any]]
else:  # a job is declared without importing torch
    Transform = Map = Augment = AugmentBatch = Collate = Callable[..., Any]
