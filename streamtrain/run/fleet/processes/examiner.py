"""Which example ends the workers that use it: used one by one in a process that may be lost.

`Examiner` is a plain class, made an actor in `actors.recruiting`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from streamtrain.errors import StreamtrainError
from streamtrain.model.machine.device import prepare_process
from streamtrain.model.whole_minibatch import make_gradient
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.processes.audit import private_lane
from streamtrain.values import Selection


class Examiner:
    """Uses examples as a worker does, one by one.

    Args:
        plan: of the run.
        parameters: the model's state dict at the step in question.
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, torch.Tensor]) -> None:
        prepare_process(plan.job)
        self._plan = plan
        self._gradient = make_gradient(plan.job)
        self._reader = plan.reader("train")
        memory = private_lane(self._gradient, plan)
        self._gradient.write(memory.states[0], parameters)
        self._gradient.load(memory.states[0])
        self._slot = memory.slots[0]

    def use(self, passes: Sequence[int], numbers: Sequence[int]) -> None:
        """Reads each example as its pass does, and computes its gradient; whatever fails but does not end the process
        is left out.
        """
        for pass_index, number in zip(passes, numbers, strict=True):
            with contextlib.suppress(StreamtrainError):
                twice = Selection(pass_index, numbers=np.array([number, number]))  # BatchNorm wants two
                arrays = self._reader.select(twice, self._plan.augmentation)
                if arrays:
                    self._gradient.lane(arrays, self._slot, seed=0)
