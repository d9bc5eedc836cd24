"""Which example ends the workers that use it: used one by one in a process that may be lost.

`Examiner` is a plain class, made an actor in `recruiting`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.memory import (
    Capacity,
    DeviceMemory,
    Memory,
    private_memory,
)
from streamtrain.errors import StreamtrainError
from streamtrain.model.device import prepare_process
from streamtrain.model.gradient import Gradient
from streamtrain.order import select_minibatch
from streamtrain.prepare.plan import Plan


class Examiner:
    """Uses examples as a worker does, one by one.

    Args:
        plan: of the run.
        parameters: the model's state dict at the step in question.
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, torch.Tensor]) -> None:
        prepare_process(plan.job)
        self._gradient = Gradient(plan.job)
        self._reader = plan.reader("train")
        memory = private_lane(self._gradient, plan)
        self._gradient.write(memory.states[0], parameters)
        self._gradient.load(memory.states[0])
        self._slot = memory.slots[0]

    def use(self, numbers: Sequence[int]) -> None:
        """Reads each example and computes its gradient; whatever fails but does not end the process is left out."""
        for number in numbers:
            with contextlib.suppress(StreamtrainError):
                arrays = self._reader.take(np.array([number, number]))  # BatchNorm wants two
                if arrays:
                    self._gradient.lane(arrays, self._slot, seed=0)


def private_lane(gradient: Gradient, plan: Plan) -> Memory | DeviceMemory:
    """Memory of one lane for this process alone, where the model computes; pages that nobody writes cost nothing."""
    layout = gradient.layout
    descent = Descent.of(plan.job)
    if plan.job.device == "cpu":
        return private_memory(layout, descent, Capacity(1))
    return DeviceMemory(layout, descent, 1, range(1), torch.device(plan.job.device))


def fatal_example(plan: Plan, steps: range, begin: Callable[[], Any]) -> int | None:
    """The stored number of the first training example in the minibatches of ``steps`` that ends an examiner.

    Args:
        begin: a new examiner.
    """
    minibatches = [_numbers(plan, step) for step in steps]
    fatal = _first_fatal(minibatches, begin)
    single = None if fatal is None else _first_fatal([[number] for number in fatal], begin)
    return None if single is None else single[0]


def _first_fatal(parts: Sequence[Sequence[int]], begin: Callable[[], Any]) -> Sequence[int] | None:
    examiner = begin()
    try:
        ray.get(examiner.__ray_ready__.remote())
    except RayActorError:
        return None  # there is no room, or the model ends it: not an example
    for part in parts:
        try:
            ray.get(examiner.use.remote(part))  # one at a time: with a process go answers that it has given
        except RayActorError:
            return part
    ray.kill(examiner)
    return None


def _numbers(plan: Plan, step: int) -> list[int]:
    """The examples of a minibatch by their stored numbers, in its order."""
    numbers: list[int] = select_minibatch(plan.order, plan.pass_orders, plan.order.position(step)).each().tolist()
    return numbers
