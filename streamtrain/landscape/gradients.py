"""Gradients of the minibatches that come next and of held-out examples, for their `Directions`.

In evaluation mode, without augmentation. Costs two gradients of as many examples as a probe has, and as many vectors as
there are minibatches and groups.
"""

from __future__ import annotations

import numpy as np
import torch

from streamtrain.job import Online
from streamtrain.landscape.surface import Surface
from streamtrain.measure.diagnostics.directions import Directions, Gram, directions
from streamtrain.measure.diagnostics.directions.gram import FEWEST
from streamtrain.order import select_minibatch
from streamtrain.prepare.plan import Plan
from streamtrain.values import Lane, Selection

MINIBATCHES, GROUPS = 16, 8
"""At most, and of held-out examples."""


def directions_at(surface: Surface, plan: Plan, here: torch.Tensor, step: int) -> Directions | None:
    """At the parameters ``here``, after ``step`` updates; ``None`` where too few minibatches or examples are left."""
    chosen, whole = _minibatches(plan, step, surface.examples)
    held_out = _held_out(plan, surface.examples)
    if min(len(chosen), len(held_out)) < FEWEST:
        return None
    splits = ("train",) * len(chosen) + ("validation",) * len(held_out)
    batches = (surface.batch_of(split, each) for split, each in zip(splits, chosen + held_out, strict=True))
    rows = torch.stack([surface.gradient_of(here, batch) for batch in batches])
    bound = plan.job.clip.norm if whole else None
    return directions(Gram((rows @ rows.T).numpy(), len(chosen)), bound)


def _minibatches(plan: Plan, step: int, examples: int) -> tuple[list[Selection], bool]:
    """Those that come next, of about ``examples`` in all, and whether they are whole; else a part of each, evenly."""
    order = plan.order
    batch = order.size(step)
    count = min(MINIBATCHES, max(examples // batch, 1))
    size = batch if count >= FEWEST else max(1, examples // MINIBATCHES)
    count = count if count >= FEWEST else MINIBATCHES
    last = order.steps if isinstance(plan.job.mode, Online) else step + count
    found = []
    for each in range(step, min(step + count, last)):
        chosen = select_minibatch(order, plan.pass_orders, order.position(each))
        numbers = chosen.each()
        if len(numbers) >= size:  # the short last one of a pass would have another spread
            found.append(Selection(chosen.pass_index, numbers=numbers[:: len(numbers) // size][:size]))
    return found, size == batch


def _held_out(plan: Plan, examples: int) -> list[Selection]:
    """Groups of equal size, as many examples in all, spread evenly over the split."""
    there = plan.manifest.splits["validation"].examples
    size = min(examples, plan.held_out(whole=True)) // GROUPS
    spread = [
        np.linspace(own[0].start, own[-1].stop, count, endpoint=False).astype(np.int64)
        for own, count in plan.by_share("validation", [Lane(0, 0, there)], size * GROUPS)
        if count
    ]
    numbers = np.concatenate(spread) if size else np.empty(0, np.int64)
    return [Selection(0, numbers=numbers[group::GROUPS]) for group in range(GROUPS)] if size else []
