"""A model's trainable parameters as one flat vector, and its buffers as two more.

Tied parameters appear once; frozen ones not at all (`exchange/memory/frozen.py`).
Every parameter starts at a multiple of 256 bytes in the vector, so that arithmetic on any run of parameters takes
whole vector registers and has the same bits wherever a run is cut; the gaps stay zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from streamtrain.errors import JobError, complaint

ALIGNMENT = 256
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Place:
    """Elements ``[start, stop)`` of a vector, seen as ``shape``; of images' filters perhaps channels last."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    channels_last: bool = False

    def view(self, vector: torch.Tensor) -> torch.Tensor:
        """The tensor as a view of ``vector``."""
        flat = vector[self.start : self.stop]
        if not self.channels_last:
            return flat.view(self.shape)
        outputs, channels, height, width = self.shape
        return flat.view(outputs, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """Where a model's tensors lie in its vectors.

    Attributes:
        parameters: trainable parameters, in the model's order.
        dtype: their element type.
        buffers: floating-point buffers (BatchNorm's running statistics), in a float64 vector; complex ones as pairs.
        counters: the other buffers, in an int64 vector.
    """

    parameters: tuple[Place, ...]
    dtype: torch.dtype
    buffers: tuple[Place, ...]
    counters: tuple[Place, ...]

    @property
    def size(self) -> int:
        """Elements of the parameter vector, gaps included."""
        return self.end(self.parameters[-1])

    def end(self, place: Place) -> int:
        """Where a parameter ends, the gap after it included."""
        return _padded(place.stop, self.dtype.itemsize)

    @property
    def buffer_size(self) -> int:
        """Elements of the vector of floating-point buffers."""
        return self.buffers[-1].stop if self.buffers else 0

    @property
    def counter_size(self) -> int:
        """Elements of the vector of other buffers."""
        return self.counters[-1].stop if self.counters else 0


def layout_of(model: torch.nn.Module) -> Layout:
    """The layout of ``model``; the same for every process that built it.

    Raises:
        JobError: nothing to train, or trainable parameters of more than one element type.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    dtypes = {p.dtype for p in trainable.values()}
    if len(dtypes) != 1:
        found = ", ".join(sorted(str(d) for d in dtypes)) or "none"
        raise JobError(
            complaint(
                "model",
                expected="trainable parameters of one element type",
                found=found,
                do="check requires_grad and dtypes",
            )
        )
    dtype = dtypes.pop()
    buffers = {name: real_view(buffer) for name, buffer in model.named_buffers()}
    return Layout(
        parameters=_places(trainable, dtype.itemsize),
        dtype=dtype,
        buffers=_places({n: b for n, b in buffers.items() if b.is_floating_point()}),
        counters=_places({n: b for n, b in buffers.items() if not b.is_floating_point()}),
    )


def gaps_of(layout: Layout) -> torch.Tensor:
    """Indices of the elements between parameters, which are 0 in all vectors."""
    gaps = [torch.arange(place.stop, layout.end(place)) for place in layout.parameters]
    return torch.cat(gaps)


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's memory without its graph: complex numbers as pairs along a new last axis, others as they are."""
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()


def write(places: tuple[Place, ...], tensors: Mapping[str, torch.Tensor], vector: torch.Tensor) -> None:
    """Copies the named tensors to their places in ``vector``."""
    for place in places:
        place.view(vector).copy_(real_view(tensors[place.name]))


def _places(tensors: Mapping[str, torch.Tensor], itemsize: int = 8) -> tuple[Place, ...]:
    places = []
    start = 0
    for name, tensor in tensors.items():
        last = tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=CHANNELS_LAST)
        places.append(Place(name, start, start + tensor.numel(), tuple(tensor.shape), last))
        start = _padded(start + tensor.numel(), itemsize)
    return tuple(places)


def _padded(elements: int, itemsize: int) -> int:
    step = ALIGNMENT // itemsize
    return -(-elements // step) * step
