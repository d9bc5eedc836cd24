"""Whether each example is by itself: what a job makes of some together, in two groups and one by one, is the same.

An example's loss that depends on its neighbours (an output of shape (N, 1) against targets (N,), a mean over the
batch, negatives within the batch, padding) would depend on the lanes, on micro_batch and on how an evaluation is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from streamtrain.errors import JobError, complaint
from streamtrain.job import Pack, Weighted
from streamtrain.model.gradient import Batch, Gradient
from streamtrain.model.objective import Measured

OF_A_MODEL, OF_A_LOSS = 1e-3, 1e-4
"""Most that rounding may change, as a part of the largest number: kernels differ with the number of examples."""
OF_HALVES = 5e-2
"""The same under autocast."""


def check_examples_apart(gradient: Gradient, batch: Batch, output: Any, *, halves: bool, losses: bool = True) -> None:
    """Tries the model in evaluation mode, then the loss, the error and the metrics.

    Args:
        batch: some examples, transformed.
        output: the model's for all of them, or what the job's own objective returns.
        halves: forward passes are in half precision.
        losses: whether an example's loss is to be its own.

    Raises:
        JobError: an example's output or loss depends on the examples beside it.
    """
    examples = len(next(iter(batch.values())))
    of_a_model = OF_HALVES if halves else OF_A_MODEL
    groups = [(0, examples // 2), (examples // 2, examples)], [(i, i + 1) for i in range(examples)]
    for parts in groups if examples > 1 else ():
        pieces = [{name: tensor[start:stop] for name, tensor in batch.items()} for start, stop in parts]
        outputs = [gradient.output(piece) for piece in pieces]
        _check_outputs(output, outputs, parts, of_a_model)
        if not losses:
            continue
        sliced = [rows_of(output, examples, start, stop) for start, stop in parts]
        exact = all(found for found, _ in sliced) and not gradient.objective.is_own
        given = [own for _, own in sliced] if exact else outputs
        whole = tensors_of(gradient.objective.measures(output, batch))
        each = [tensors_of(gradient.objective.measures(one, piece)) for one, piece in zip(given, pieces, strict=True)]
        hint = _shapes(output, gradient.objective.target(batch))
        for name, values in whole.items():
            most = OF_A_LOSS if exact else 10 * of_a_model
            _check_values(name, values, [own[name] for own in each], parts, most=most, hint=hint)


def check_left_alone(
    gradient: Gradient, alone: Sequence[Batch], together: Batch, pack: Pack | None, *, halves: bool
) -> None:
    """Tries the loss, the error and the metrics on examples of different sizes, one by one and as one batch.

    Args:
        alone: a batch of each, transformed.
        together: of all of them, in the same order.
        pack: how they are laid into rows; ``None`` where they are padded.
        halves: forward passes are in half precision.

    Raises:
        JobError: an example's loss depends on what it is padded to, or on who else is in its row.
    """
    expected, found = "the same of an example whatever it is padded to", "another beside a longer one"
    do = "leave the padding out in the model and here, by the field's lengths that st.Pad adds"
    if pack is not None:
        expected, found = "the same of an example wherever in a row it lies", "another beside others"
        fields = f"{pack.example_field!r} and {pack.position_field!r}"
        do = f"let the model tell by {fields}, which st.Pack adds, who an entry belongs to, and where it is in it"
    most = 10 * (OF_HALVES if halves else OF_A_MODEL)
    whole, *each = (
        tensors_of(gradient.objective.measures(gradient.output(batch), batch)) for batch in (together, *alone)
    )
    for name, values in whole.items():
        for number, own in enumerate(each):
            if _differ(values[number : number + 1], own[name], most):
                raise JobError(complaint(name, expected=expected, found=found, do=do))


def tensors_of(measured: Mapping[str, Measured]) -> dict[str, torch.Tensor]:
    """The numbers of each example, by the names that messages give them; of a ratio its sums and its weights."""
    found: dict[str, Any] = {}
    for name, values in measured.items():
        where = name if name in ("loss", "error") else f"metrics, {name!r}"
        several = values if isinstance(values, tuple) else (values,)
        for number, each in enumerate(several, 1):
            which = where if len(several) == 1 else f"{where}, mean {number}"
            if isinstance(each, Weighted):
                found |= {f"{which}, sums": each.sums, f"{which}, weights": each.weights}
            else:
                found[which] = each
    return found


def _check_outputs(whole: Any, each: Sequence[Any], parts: Sequence[tuple[int, int]], most: float) -> None:
    """The model's outputs, where they are tensors with one row an example."""
    tensors = isinstance(whole, torch.Tensor) and all(isinstance(one, torch.Tensor) for one in each)
    examples = parts[-1][1]
    if not tensors or whole.dim() == 0 or len(whole) != examples:
        return
    for (start, stop), one in zip(parts, each, strict=True):
        if one.shape != whole[start:stop].shape or _differ(whole[start:stop], one, most):
            raise JobError(
                complaint(
                    "the model",
                    expected="in evaluation mode an output of each example by itself",
                    found="another one beside other examples",
                    do="look for statistics over the batch (BatchNorm that tracks none), or for the batch taken as "
                    "time (batch_first)",
                )
            )


def _check_values(
    name: str,
    whole: torch.Tensor,
    each: Sequence[torch.Tensor],
    parts: Sequence[tuple[int, int]],
    *,
    most: float,
    hint: str,
) -> None:
    """One measure of all examples together against that of their groups."""
    for (start, stop), one in zip(parts, each, strict=True):
        if tuple(one.shape) != (stop - start,):
            found = f"shape {tuple(one.shape)} of {stop - start} example(s) and {tuple(whole.shape)} of {len(whole)}"
            raise JobError(
                complaint(name, expected="one value an example", found=found + hint, do="look at its shapes")
            )
        if _differ(whole[start:stop], one, most):
            found = f"values that change with the examples beside it{hint}"
            do = "give output and target one shape, and let no example's loss depend on others of the batch"
            raise JobError(complaint(name, expected="of each example a value of its own", found=found, do=do))


def _shapes(output: Any, target: Any) -> str:
    """What broadcasting makes of output and target, where it makes something."""
    both = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
    if not both or output.shape == target.shape:
        return ""
    try:
        together = np.broadcast_shapes(tuple(output.shape), tuple(target.shape))
    except ValueError:
        return ""
    if together in (tuple(output.shape), tuple(target.shape)):
        return ""
    return f" (an output of shape {tuple(output.shape)} and a target of {tuple(target.shape)} broadcast to {together})"


def rows_of(value: Any, examples: int, start: int, stop: int) -> tuple[bool, Any]:
    """Some examples' part of an output, and whether it could be cut out."""
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and len(value) == examples, value[start:stop] if value.dim() else value
    if type(value) in (tuple, list):
        found = [rows_of(each, examples, start, stop) for each in value]
        return all(cut for cut, _ in found), type(value)(each for _, each in found)
    if type(value) is dict:
        rows = {name: rows_of(each, examples, start, stop) for name, each in value.items()}
        return all(cut for cut, _ in rows.values()), {name: each for name, (_, each) in rows.items()}
    return False, value


def _differ(one: torch.Tensor, other: torch.Tensor, most: float) -> bool:
    """Whether two tensors differ by more than ``most`` of the largest finite number in them."""
    a, b = (each.detach().to(torch.complex128 if each.is_complex() else torch.float64) for each in (one, other))
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not bool(finite.any()):
        return False
    a, b = a[finite], b[finite]
    return float((a - b).abs().max()) > most * max(float(a.abs().max()), float(b.abs().max()))
