"""The trial of `data.augment` and `data.augment_batch`: that they draw where they may, and keep an example's form.

Where examples are collated, their sizes may change, but not their type and number of axes.
Training examples of another form or type than evaluation's would be trained on without an error, and measured as
something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamtrain.errors import JobError, complaint
from streamtrain.model.gradient import Gradient, Part
from streamtrain.prepare.draws import MAY_DRAW, try_twice
from streamtrain.prepare.plan import Plan
from streamtrain.values import Arrays, Selection

TRIED_EXAMPLES, TRIED_PASSES = 4, 3


def first_tried(plan: Plan, pass_index: int = 0) -> Selection:
    """The first examples, in a pass."""
    return Selection(pass_index, ((0, min(TRIED_EXAMPLES, plan.order.examples)),))


def first_augmented(plan: Plan, arrays: Arrays) -> Arrays:
    """The first examples as training sees them; the same ones where nothing changes them.

    Args:
        arrays: as evaluation sees them.

    Raises:
        JobError: `data.augment` fails, draws elsewhere than from its generator and the global ones, or gives another
            form than it was given.
    """
    augmentation = plan.augmentation
    if augmentation is None:
        return arrays
    reader = plan.reader("train")
    first = reader.first_good(augmentation)

    def augmented() -> Arrays:
        return reader.select(first_tried(plan), augmentation) or first

    found = dict(try_twice("data.augment", augmented, MAY_DRAW))
    _check_form("data.augment", plan, arrays, found)
    for pass_index in range(1, TRIED_PASSES):
        _check_form("data.augment", plan, arrays, reader.select(first_tried(plan, pass_index), augmentation) or found)
    return found


def try_augmented_batch(plan: Plan, gradient: Gradient, arrays: Arrays) -> None:
    """Calls `data.augment_batch`, where there is one, as a lane does.

    Raises:
        JobError: it fails, draws elsewhere than from its generator and the global ones, or leaves a field out.
    """
    data = plan.job.data
    if data.augment_batch is None:
        return

    def augmented() -> Mapping[str, Any]:
        return gradient.training_batch(Part(0, {name: array.copy() for name, array in arrays.items()}, seed=1))

    batch = try_twice("data.augment_batch", augmented, MAY_DRAW)
    for name in data.fields_used if data.pack is None else (*data.fields_used, *data.pack.made):
        if name not in batch:
            found = ", ".join(sorted(batch))
            expected, do = f"a field {name!r}", "return it too"
            raise JobError(complaint("data.augment_batch", expected=expected, found=found, do=do))


def _check_form(function: str, plan: Plan, before: Arrays, after: Arrays) -> None:
    data = plan.job.data
    for name in data.fields_used:
        if name in before and name not in after:
            expected, found = f"a field {name!r}", ", ".join(sorted(after))
            raise JobError(complaint(function, expected=expected, found=found, do="return it too"))
    for name in before.keys() & after.keys():
        forms = [_form(each[name], sizes=data.collate is None) for each in (before, after)]
        if forms[0] != forms[1]:
            do = "bring examples to their form in data.map, which evaluation calls too, and keep it here"
            where = f"{function}, field {name!r}"
            raise JobError(complaint(where, expected=f"{forms[0]}, as it was given", found=forms[1], do=do))


def _form(array: np.ndarray[Any, Any], *, sizes: bool) -> str:
    """An example's in words; without its sizes where these may differ."""
    return f"{array.dtype} of shape {array.shape[1:]}" if sizes else f"{array.dtype} with {array.ndim - 1} axes"
