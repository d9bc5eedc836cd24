"""A model as one program without Python: transform, types, model in evaluation mode, outputs by name.

`torch.export` runs the very calls of evaluation once on tensors without values, so exporting costs seconds whatever the
model's size, and no memory for activations. What it records is then called with real examples, and must give what the
model gives. It is read without pickle: weights as bytes, the graph as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamtrain.errors import JobError, StreamtrainError
from streamtrain.job import Job
from streamtrain.model.gradient import Batch, Gradient
from streamtrain.values import Arrays

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TRACED_EXAMPLES = 3
"""Of the batch that is exported: with one, export would take it for a batch of one always."""
CLOSE = {"float32": 1e-5, "float64": 1e-12, "bf16": 2e-2, "fp16": 5e-3}
"""Of the largest output, how far the program's may be from the model's in each precision: kernels may be others."""
OWN_OPERATORS = ("aten", "prims", "prim", "higher_order", "_operator", "math", "builtins", "torch")


class NotExported(Exception):
    """Why a model cannot be such a program, in one line."""


@dataclass(frozen=True)
class Program:
    """What `export` made.

    Attributes:
        exported: torch's.
        fields: its inputs' names, in order; each a tensor whose first axis is the example, as the reader gives it.
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
            raise NotExported(f"torch.export.save: {_first_line(error)}") from None

    def read_back(self, file: Path) -> Program:
        """The same as `save` has written it.

        Raises:
            NotExported: torch.export cannot read it.
        """
        try:
            return dataclasses.replace(self, exported=torch.export.load(file))
        except Exception as error:
            raise NotExported(f"torch.export.load: {_first_line(error)}") from None

    @functools.cached_property
    def _module(self) -> torch.nn.Module:
        return self.exported.module()


class Evaluated(torch.nn.Module):
    """A model as evaluation calls it: tensors of fields in, tensors out.

    Args:
        gradient: of a job on the CPU; its modes are set to evaluation.
        fields: names of what it is called with.
        missing: other fields that the job's functions look at and no output depends on, as a few examples have them;
            they are zeros.

    Attributes:
        fields: these names.
    """

    def __init__(self, gradient: Gradient, fields: Sequence[str], missing: Arrays | None = None) -> None:
        super().__init__()
        self.model = gradient.model
        self._gradient = gradient
        self.fields = tuple(fields)
        forms = {name: torch.as_tensor(array[:1]) for name, array in (missing or {}).items()}
        self._missing = {name: (one.shape[1:], one.dtype) for name, one in forms.items()}

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs, in the order of `names`."""
        found, _ = named_tensors(self.output(self.batch(tensors)))
        return tuple(tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in found.values())

    def batch(self, tensors: Sequence[torch.Tensor]) -> Batch:
        """Transformed, as the model takes it."""
        given = dict(zip(self.fields, tensors, strict=True))
        examples = tensors[0].shape[0]
        zeros = {name: torch.zeros((examples, *shape), dtype=dtype) for name, (shape, dtype) in self._missing.items()}
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
            evaluated = _with_needed_fields(job, gradient, arrays)
            examples = _traced(tensors_of(evaluated.fields, arrays))
            names, left_out = named_tensors(evaluated.output(evaluated.batch(examples)))
            exported = _export(evaluated, examples, any_size=job.data.collate is not None)
    except NotExported:
        raise
    except (
        Exception
    ) as error:  # whatever torch.export raises for what it cannot trace, in the user's code or in its own
        raise NotExported(f"torch.export: {_first_line(error)}") from None
    outputs = () if list(names) == [""] else tuple(names)
    program = Program(exported, evaluated.fields, outputs, left_out, packages=_packages(exported))
    return dataclasses.replace(program, difference=difference(program, job, gradient, arrays))


def difference(program: Program, job: Job, gradient: Gradient, arrays: Arrays) -> float:
    """The largest between the program's outputs and the model's, for one of these examples and for all of them.

    Raises:
        NotExported: it is not close to 0.
    """
    gradient.modes.evaluate()
    worst = 0.0
    for examples in sorted({1, len(next(iter(arrays.values())))}):
        some = {name: array[:examples].copy() for name, array in arrays.items()}
        try:
            found = program(some)
        except Exception as error:  # a guard of the graph on a size that it was not traced with
            raise NotExported(f"a batch of {examples}: {_first_line(error)}") from None
        with torch.no_grad():
            evaluated = Evaluated(gradient, list(some))
            expected, _ = named_tensors(evaluated.output(evaluated.batch(tensors_of(list(some), some))))
        for name, tensor in expected.items():
            worst = max(worst, _part(name, tensor, torch.from_numpy(found[name]), CLOSE[job.precision], examples))
    return worst


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


def _with_needed_fields(job: Job, gradient: Gradient, arrays: Arrays) -> Evaluated:
    """Called with the fields that outputs depend on: a label that is read for the loss is none of them."""
    every = tuple(arrays)
    whole = Evaluated(gradient, every)
    part: torch.nn.Module = whole if gradient.objective.is_own else _Inputs(whole, job.data.inputs)
    if not gradient.objective.is_own and job.data.transform is None:
        return Evaluated(gradient, job.data.inputs)
    traced = _export(part, _traced(tensors_of(every, arrays)), any_size=job.data.collate is not None)
    used = _used(traced)
    fields = [name for name, is_used in zip(every, used, strict=True) if is_used]
    if not fields:
        raise NotExported("no output depends on any field")
    alone = Evaluated(gradient, fields)
    try:
        alone(*_traced(tensors_of(fields, arrays)))
    except StreamtrainError:  # a function of the job's looks at another field, if only for the loss
        return Evaluated(gradient, fields, {name: array for name, array in arrays.items() if name not in fields})
    return alone


def _traced(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    rows = [torch.arange(TRACED_EXAMPLES) % len(tensor) for tensor in tensors]
    return tuple(tensor[which] for tensor, which in zip(tensors, rows, strict=True))


def _export(module: torch.nn.Module, examples: tuple[torch.Tensor, ...], *, any_size: bool) -> ExportedProgram:
    """For any number of examples; with ``any_size`` for other axes of any length too, where the model allows it."""
    dim = torch.export.Dim
    shapes = tuple(
        {axis: dim.DYNAMIC if axis == 0 else dim.AUTO if any_size else dim.STATIC for axis in range(tensor.dim())}
        for tensor in examples
    )
    module.eval()
    with _silent():
        return _traced_program(module, examples, shapes)


def _traced_program(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], shapes: tuple[dict[int, Any], ...]
) -> ExportedProgram:
    try:
        return torch.export.export(module, examples, dynamic_shapes=(shapes,), strict=False)
    except Exception:
        # which reads Python itself: for it `len(x)` is no number, but it knows fewer kinds of code
        with contextlib.suppress(Exception):
            return torch.export.export(module, examples, dynamic_shapes=(shapes,), strict=True)
        raise


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What torch.export prints and logs of code that it cannot take, pages of it, stays away from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(_OthersOnly(sys.stderr)):
            yield
    finally:
        logging.disable(before)


class _OthersOnly(io.TextIOBase):
    """A stream as other threads see it; what the one that made this writes is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._silent = threading.get_ident()

    def write(self, text: str, /) -> int:
        return len(text) if threading.get_ident() == self._silent else int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()


def _used(exported: ExportedProgram) -> list[bool]:
    """Which of its inputs an output depends on."""
    reached: set[Any] = set()
    waiting = [node for node in exported.graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += [] if _is_batch_size(node) else node.all_input_nodes
    names = {node.name for node in reached}
    return [name in names for name in exported.graph_signature.user_inputs]


def _is_batch_size(node: Any) -> bool:
    """Whether it asks how many examples there are: every field says the same."""
    return node.target is torch.ops.aten.sym_size.int and node.args[1] == 0


def _packages(exported: ExportedProgram) -> tuple[str, ...]:
    """Whose operators the graph calls, beside torch's own: they have to be imported before it is read."""
    modules = [module for module in exported.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = [node.target for module in modules for node in module.graph.nodes if node.op == "call_function"]
    spaces = {str(getattr(target, "namespace", "") or target.__module__).partition(".")[0] for target in targets}
    return tuple(sorted(spaces - set(OWN_OPERATORS)))


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


def _first_line(error: BaseException) -> str:
    """Of torch's errors, which go on for pages; of one in the user's code, without our words around it."""
    if isinstance(error, JobError) and error.__cause__ is not None:
        error = error.__cause__
    text = (str(error).strip().splitlines() or [""])[0]
    if text.startswith("Constraints violated"):
        text = "its code makes a number of how many examples there are, or goes another way by it"
    return f"{type(error).__name__}: {text}"[:300]
