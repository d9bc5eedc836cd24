"""A model as one program without Python: transform, types, model in evaluation mode, outputs by name.

`torch.export` runs the very calls of evaluation once on tensors without values, so exporting costs seconds whatever the
model's size, and no memory for activations. What it records is then called with real examples, and must give what the
model gives. It is read without pickle: weights as bytes, the graph as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamtrain.errors import StreamtrainError
from streamtrain.job import Job
from streamtrain.model.gradient import Gradient
from streamtrain.serving.evaluated import Evaluated, NotExported, named_tensors, tensors_of
from streamtrain.serving.examples import first_of, rows_in, traced_of
from streamtrain.serving.tracing import first_line, packages_of, trace, used_inputs
from streamtrain.values import Arrays, examples_in

if TYPE_CHECKING:
    from torch.export import ExportedProgram

CLOSE = {"float32": 1e-5, "float64": 1e-12, "bf16": 2e-2, "fp16": 5e-3}
"""Of the largest output, how far the program's may be from the model's in each precision: kernels may be others."""


@dataclass(frozen=True)
class Program:
    """What `export` made.

    Attributes:
        exported: torch's.
        fields: its inputs' names, in order; each a tensor whose first axis is the example, or the row that some share,
            as the reader gives it.
        outputs: names of what it gives; none where the model gives one tensor.
        left_out: outputs of the model that are no tensors, each with its type.
        difference: the largest between its outputs and the model's, as a part of the largest output.
        packages: that have operators of their own in it.
    """

    exported: ExportedProgram
    fields: tuple[str, ...]
    outputs: tuple[str, ...]
    left_out: tuple[str, ...]
    difference: float = 0.0
    packages: tuple[str, ...] = ()

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs for examples, by name; a single one by the empty name."""
        with torch.no_grad():
            found = self._module(*tensors_of(self.fields, arrays))
        return {name: tensor.numpy() for name, tensor in zip(self.outputs or ("",), found, strict=True)}

    def save(self, file: Path) -> None:
        """Writes it, without the examples that it was exported with.

        Raises:
            NotExported: torch.export cannot.
        """
        self.exported._example_inputs = None  # the public setter of torch 2.6 takes no None
        try:
            torch.export.save(self.exported, file)
        except Exception as error:
            raise NotExported(f"torch.export.save: {first_line(error)}") from None

    def read_back(self, file: Path) -> Program:
        """The same as `save` has written it.

        Raises:
            NotExported: torch.export cannot read it.
        """
        try:
            return dataclasses.replace(self, exported=torch.export.load(file))
        except Exception as error:
            raise NotExported(f"torch.export.load: {first_line(error)}") from None

    @functools.cached_property
    def _module(self) -> torch.nn.Module:
        return self.exported.module()


class _Inputs(torch.nn.Module):
    """What the model is called with, of all fields: cheap to trace, since the model is not called."""

    def __init__(self, evaluated: Evaluated, names: Sequence[str]) -> None:
        super().__init__()
        self._batch = evaluated.batch
        self._names = names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch = self._batch(tensors)
        return tuple(batch[name] for name in self._names)


def export(job: Job, gradient: Gradient, arrays: Arrays) -> Program:
    """The program of a model, held against it on one example and on all of these.

    Args:
        job: whose functions are called.
        gradient: of this job on the CPU, not compiled; with a model of its own, that nothing else uses.
        arrays: examples as the job's reader gives them.

    Raises:
        NotExported: it cannot be, or gives other numbers than the model.
    """
    gradient.modes.evaluate()
    if any(isinstance(part, torch.jit.ScriptModule) for part in gradient.model.modules()):
        raise NotExported("parts of it are TorchScript, which torch.export does not take")
    try:
        with torch.no_grad():
            traced = traced_of(arrays, job.data.pack)
            evaluated = _with_needed_fields(job, gradient, traced)
            examples = tensors_of(evaluated.fields, traced)
            names, left_out = named_tensors(evaluated.output(evaluated.batch(examples)))
            exported = trace(evaluated, examples, any_size=job.data.collate is not None)
    except NotExported:
        raise
    except (
        Exception
    ) as error:  # whatever torch.export raises for what it cannot trace, in the user's code or in its own
        raise NotExported(f"torch.export: {first_line(error)}") from None
    outputs = () if list(names) == [""] else tuple(names)
    program = Program(exported, evaluated.fields, outputs, left_out, packages=packages_of(exported))
    return dataclasses.replace(program, difference=difference(program, job, gradient, arrays))


def difference(program: Program, job: Job, gradient: Gradient, arrays: Arrays) -> float:
    """The largest between the program's outputs and the model's, for one of these examples and for all of them.

    Raises:
        NotExported: it is not close to 0.
    """
    gradient.modes.evaluate()
    worst = 0.0
    pack = job.data.pack
    every = examples_in(arrays) if pack is None else len(arrays[pack.row_field])
    for examples in sorted({1, every}):
        some = first_of(arrays, examples, pack)
        try:
            found = program(some)
        except Exception as error:  # a guard of the graph on a size that it was not traced with
            raise NotExported(f"a batch of {examples}: {first_line(error)}") from None
        with torch.no_grad():
            evaluated = Evaluated(gradient, list(some))
            expected, _ = named_tensors(evaluated.output(evaluated.batch(tensors_of(list(some), some))))
        for name, tensor in expected.items():
            worst = max(worst, _part(name, tensor, torch.from_numpy(found[name]), CLOSE[job.precision], examples))
    return worst


def _with_needed_fields(job: Job, gradient: Gradient, arrays: Arrays) -> Evaluated:
    """Called with the fields that outputs depend on: a label that is read for the loss is none of them.

    Args:
        arrays: what is traced with.
    """
    every = tuple(arrays)
    whole = Evaluated(gradient, every)
    part: torch.nn.Module = whole if gradient.objective.is_own else _Inputs(whole, job.data.inputs)
    if not gradient.objective.is_own and job.data.transform is None:
        return Evaluated(gradient, job.data.inputs)
    pack = job.data.pack
    traced = trace(part, tensors_of(every, arrays), any_size=job.data.collate is not None)
    used = used_inputs(traced, one_size=pack is None)
    fields = [name for name, is_used in zip(every, used, strict=True) if is_used]
    if not fields:
        raise NotExported("no output depends on any field")
    alone = Evaluated(gradient, fields)
    try:
        alone(*tensors_of(fields, arrays))
    except StreamtrainError:  # a function of the job's looks at another field, if only for the loss
        rows = rows_in(every, pack)
        sizes = {name in rows for name in fields}  # how many rows or examples zeros are of, some field has to say
        fields = [name for name in every if name in fields or (name in rows) not in sizes]
        missing = {name: array for name, array in arrays.items() if name not in fields}
        return Evaluated(gradient, fields, missing, rows)
    return alone


def _part(name: str, expected: torch.Tensor, found: torch.Tensor, close: float, examples: int) -> float:
    """The largest difference, as a part of the largest value.

    Raises:
        NotExported: more than ``close``, or another shape.
    """
    what = f"output {name!r} of {examples}" if name else f"the output of {examples}"
    if expected.shape != found.shape:
        raise NotExported(f"{what}: shape {tuple(found.shape)}, and the model's is {tuple(expected.shape)}")
    wide = torch.complex128 if expected.is_complex() else torch.float64
    one, other = expected.detach().to(wide), found.to(wide)
    same = (one == other) | (one.isnan() & other.isnan())
    if same.all():
        return 0.0
    finite = one.isfinite()
    largest = float(one[finite].abs().max()) if finite.any() else 0.0
    worst = float((one - other)[~same].abs().nan_to_num(torch.inf, torch.inf).max())
    part = worst / largest if largest else float("inf")
    if part > close:
        raise NotExported(f"{what}: other numbers than the model's, by {part:.2g} of the largest")
    return part
