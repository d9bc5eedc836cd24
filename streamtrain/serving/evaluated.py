"""A model as evaluation calls it, tensors in and tensors out: what is exported, and what a program is held against."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from streamtrain.model.gradient import Batch, Gradient
from streamtrain.values import Arrays


class NotExported(Exception):
    """Why a model cannot be such a program, in one line."""


class Evaluated(torch.nn.Module):
    """A model as evaluation calls it: tensors of fields in, tensors out.

    Args:
        gradient: of a job on the CPU; its modes are set to evaluation.
        fields: names of what it is called with.
        missing: other fields that the job's functions look at and no output depends on, as a few examples have them;
            they are zeros, as many as some of ``fields`` has that is of rows, or is not, as well.
        rows: fields whose first axis is the row that examples share, and not the example.

    Attributes:
        fields: these names.
    """

    def __init__(
        self, gradient: Gradient, fields: Sequence[str], missing: Arrays | None = None, rows: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.model = gradient.model
        self._gradient = gradient
        self.fields = tuple(fields)
        forms = {name: torch.as_tensor(array[:1]) for name, array in (missing or {}).items()}
        self._missing = {
            name: (next(field for field in fields if (field in rows) == (name in rows)), one.shape[1:], one.dtype)
            for name, one in forms.items()
        }

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs, in the order of `names`."""
        found, _ = named_tensors(self.output(self.batch(tensors)))
        return tuple(tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in found.values())

    def batch(self, tensors: Sequence[torch.Tensor]) -> Batch:
        """Transformed, as the model takes it."""
        given = dict(zip(self.fields, tensors, strict=True))
        zeros = {
            name: torch.zeros((given[like].shape[0], *shape), dtype=dtype)
            for name, (like, shape, dtype) in self._missing.items()
        }
        return self._gradient.batch({**zeros, **given})

    def output(self, batch: Batch) -> Any:
        """What the model returns; where the job's own function calls it, what it returned there.

        Raises:
            NotExported: that function calls the model several times, or never.
        """
        if not self._gradient.objective.is_own:
            return self._gradient.output(batch)
        found: list[Any] = []
        hook = self.model.register_forward_hook(lambda _, __, output: found.append(output))
        try:
            self._gradient.output(batch)
        finally:
            hook.remove()
        if len(found) != 1:
            raise NotExported(f"the objective calls the model {len(found)} times for a batch, and not once")
        return found[0]


def tensors_of(fields: Iterable[str], arrays: Arrays) -> tuple[torch.Tensor, ...]:
    """Some fields of examples, as the program takes them."""
    return tuple(torch.as_tensor(np.ascontiguousarray(arrays[name])) for name in fields)


def named_tensors(output: Any) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """What a model returned, by name, the empty one of a single tensor; and what of it is no tensor.

    Raises:
        NotExported: no tensor is in it.
    """
    if isinstance(output, Mapping):
        named = {str(name): value for name, value in output.items()}
    elif isinstance(output, tuple | list):
        named = {f"output_{index}": value for index, value in enumerate(output)}
    else:
        named = {"": output}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in named.items() if name not in tensors and value is not None}
    if not tensors:
        raise NotExported(f"the model returns no tensor but {type(output).__name__}")
    return tensors, tuple(f"{name} ({type(value).__name__})" for name, value in others.items())
