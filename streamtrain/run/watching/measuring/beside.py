"""A measurement in a spare process, while the workers train on; driven by a thread of the controller's process."""

from __future__ import annotations

import concurrent.futures
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

from streamtrain.prepare.plan import Plan
from streamtrain.run.checkpoints.point import Point
from streamtrain.run.fleet.protocol import Measures, Spare
from streamtrain.run.outcome.result import Evaluation
from streamtrain.run.watching.measuring.evaluator import Evaluator

if TYPE_CHECKING:
    import torch


class Beside:
    """One at a time.

    Args:
        spare: who measures.
        evaluator: what is asked of it.
    """

    def __init__(self, spare: Spare, evaluator: Evaluator) -> None:
        self.spare = spare
        self._evaluator = evaluator
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "measuring")
        self._making: concurrent.futures.Future[Evaluation] | None = None

    def begin(self, plan: Plan, point: Point, parameters: Mapping[str, torch.Tensor]) -> None:
        """Has the parameters measured that a run has at this point."""

        def measure(those: Measures) -> Evaluation:
            evaluator = copy.copy(self._evaluator)
            evaluator.fleet = those
            return evaluator.measure(plan, point)

        assert self._making is None
        self._making = self._thread.submit(self.spare.at, plan, parameters, measure)

    def ready(self, seconds: float = 0.0) -> bool:
        """Whether it is made, after waiting so long for it."""
        assert self._making is not None
        concurrent.futures.wait([self._making], seconds)
        return self._making.done()

    def take(self) -> Evaluation:
        """The one that is ready.

        Raises:
            StreamtrainError: what it met.
        """
        assert self._making is not None
        making = self._making
        self._making = None
        return making.result()

    def abandon(self) -> None:
        """Does without the one that is being made, if there is one."""
        if self._making is not None:
            self.spare.give_up()
            concurrent.futures.wait([self._making])
            self._making = None
