"""Which example ends every worker that uses it: found by actors that use a minibatch's examples, and may be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from streamtrain.order import select_minibatch
from streamtrain.prepare.plan import Plan

Part = tuple[Sequence[int], Sequence[int]]
"""Examples: the pass and the stored number of each."""


def find_fatal_example(plan: Plan, steps: range, begin: Callable[[], Any]) -> int | None:
    """The stored number of the first training example in the minibatches of ``steps`` that ends an examiner.

    Args:
        begin: a new examiner.
    """
    fatal = _first_fatal([_minibatch(plan, step) for step in steps], begin)
    single = None if fatal is None else _first_fatal([([own], [n]) for own, n in zip(*fatal, strict=True)], begin)
    return None if single is None else single[1][0]


def _first_fatal(parts: Sequence[Part], begin: Callable[[], Any]) -> Part | None:
    examiner = begin()
    try:
        ray.get(examiner.__ray_ready__.remote())
    except RayActorError:
        return None  # there is no room, or the model ends it: not an example
    for part in parts:
        try:
            ray.get(examiner.use.remote(*part))  # one at a time: with a process go answers that it has given
        except RayActorError:
            return part
    ray.kill(examiner)
    return None


def _minibatch(plan: Plan, step: int) -> Part:
    """The examples of a minibatch, in its order."""
    chosen = select_minibatch(plan.order, plan.pass_orders, plan.order.position(step))
    numbers: list[int] = chosen.each().tolist()
    return [chosen.pass_index] * len(numbers) if chosen.passes is None else chosen.passes.tolist(), numbers
