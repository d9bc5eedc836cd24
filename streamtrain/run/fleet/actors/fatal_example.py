"""Which example ends every worker that uses it: found by actors that use a minibatch's examples, and may be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from streamtrain.order import select_minibatch
from streamtrain.prepare.plan import Plan

Part = tuple[int, Sequence[int]]
"""A pass, and examples by their stored numbers."""


def find_fatal_example(plan: Plan, steps: range, begin: Callable[[], Any]) -> int | None:
    """The stored number of the first training example in the minibatches of ``steps`` that ends an examiner.

    Args:
        begin: a new examiner.
    """
    minibatches = [(plan.order.position(step).pass_index, _numbers(plan, step)) for step in steps]
    fatal = _first_fatal(minibatches, begin)
    single = None if fatal is None else _first_fatal([(fatal[0], [number]) for number in fatal[1]], begin)
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


def _numbers(plan: Plan, step: int) -> list[int]:
    """The examples of a minibatch by their stored numbers, in its order."""
    numbers: list[int] = select_minibatch(plan.order, plan.pass_orders, plan.order.position(step)).each().tolist()
    return numbers
