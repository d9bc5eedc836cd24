"""A run's measurements one after another: by the workers, who wait, or by a spare process while they train on.

Beside training, a measurement is begun at one place and decided by at the next, whenever it was made meanwhile: what
follows from it does not depend on how long it took. Where a run stands with it is `Progress.outstanding`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from streamtrain.measure.run_curves import RunCurves
from streamtrain.prepare.plan import Plan
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.fleet.protocol import Fleet, Spare
from streamtrain.run.outcome.chosen import part_readings
from streamtrain.run.outcome.result import Evaluation
from streamtrain.run.outcome.wording import describe
from streamtrain.run.watching.measuring.beside import Beside
from streamtrain.run.watching.measuring.evaluator import Evaluator, other_readings
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import Tracker

if TYPE_CHECKING:
    import torch

PATIENCE = 0.2
"""Seconds of waiting, after which a run that is asked to stop does."""
TELL_SECONDS = 60
"""Seconds of waiting, after which a line says for what."""


class Measurements:
    """Makes them, and tells the tracker and the terminal.

    Args:
        fleet: the workers.
        spare: who measures beside them; ``None`` where they do it themselves.
        curves: of the run.

    Attributes:
        evaluator: the workers', for what is measured once.
        parameters: the state dict whose measurement is outstanding; empty where the workers have it.
    """

    def __init__(
        self, fleet: Fleet, spare: Spare | None, curves: RunCurves, tracker: Tracker, terminal: Terminal
    ) -> None:
        self._fleet = fleet
        self._curves = curves
        self._tracker = tracker
        self._terminal = terminal
        self._lines: list[str] = []  # of metrics that failed, perhaps in another thread: said with what is measured
        self._here: Evaluation | None = None
        self.evaluator = Evaluator(fleet, self._lines.append)
        self._beside = None if spare is None else Beside(spare, self.evaluator)
        self.parameters: dict[str, torch.Tensor] = {}

    @property
    def beside(self) -> bool:
        """Whether training goes on meanwhile."""
        return self._beside is not None

    def begin(self, plan: Plan, progress: Progress, *, last: bool = False) -> None:
        """Measures the workers' present parameters, or has it done beside what they do next.

        Args:
            last: whether a run in one pass ends here.
        """
        started = time.monotonic()
        progress.outstanding = point = progress.point(plan, self._curves.noise, last=last)
        if self._beside is None:
            self._here = self.evaluator.measure(plan, point)
        else:
            self.parameters = self._fleet.snapshot()
            self._beside.begin(plan, point, self.parameters)
        progress.measures.evaluating.spend(time.monotonic() - started)
        if plan.job.tracking.diagnostics:
            self._tracker.log(self._curves.trajectory(self._fleet.distance(), progress.step, time.time()))

    def go_on(self, plan: Plan, progress: Progress, parameters: Mapping[str, torch.Tensor]) -> None:
        """Begins again with what was outstanding when a checkpoint was taken, and was not made."""
        self.parameters = dict(parameters)
        if self._beside is not None and progress.outstanding is not None and not progress.is_told:
            self._beside.begin(plan, progress.outstanding, self.parameters)

    def abandon(self) -> None:
        """Does without what is outstanding: the run begins again at its last checkpoint."""
        self._here = None
        if self._beside is not None:
            self._beside.abandon()

    def tell_ready(self, plan: Plan, progress: Progress) -> None:
        """Tells what is outstanding, where it is made and not told."""
        if progress.outstanding is not None and not progress.is_told and self._ready():
            self._tell(plan, progress)

    def settle(self, plan: Plan, progress: Progress, meanwhile: Callable[[], None]) -> Evaluation | None:
        """What is outstanding, told, to be decided by; ``None`` where nothing is.

        Args:
            meanwhile: called again and again while it is waited for; what it raises ends the waiting.

        Raises:
            StreamtrainError: what measuring met.
        """
        point = progress.outstanding
        if point is None:
            return None
        if not progress.is_told and self._beside is None and self._here is None:
            self._terminal.line(f"step {point.step:,} is not measured: evaluate.beside is off since then")
            progress.outstanding = None
            return None
        if not progress.is_told:
            started = time.monotonic()
            told = False
            while not self._ready(PATIENCE):
                meanwhile()
                if not told and time.monotonic() - started > TELL_SECONDS:
                    self._tell_waiting(point.step)
                    told = True
            if self.beside:
                progress.measures.evaluating.spend(time.monotonic() - started)
            self._tell(plan, progress)
        return progress.evaluations[-1]

    def _ready(self, seconds: float = 0.0) -> bool:
        return self._here is not None if self._beside is None else self._beside.ready(seconds)

    def _tell_waiting(self, step: int) -> None:
        """Says what stands in the way of a measurement beside: it may be for ever, and only the user can tell."""
        assert self._beside is not None
        waits_for = self._beside.spare.waits_for()
        do = "to go on without, stop the run and --resume it with evaluate.beside off"
        self._terminal.line(f"waiting for step {step:,} to be measured beside, by {waits_for}; {do}")

    def _tell(self, plan: Plan, progress: Progress) -> None:
        try:
            evaluation = self._here if self._beside is None else self._beside.take()
        finally:
            for line in self._lines:
                self._terminal.line(line)
            self._lines.clear()
        self._here = None
        assert evaluation is not None
        if self._beside is not None:
            progress.bad.update(self._beside.spare.skipped())
        progress.evaluations.append(evaluation)
        risks = evaluation.empirical, evaluation.generalization
        now = time.time()
        curves = self._curves.evaluation(*risks, evaluation.step, plan.order, progress.seconds, now)
        of_parts = part_readings(evaluation.of_parts, evaluation.step, now)
        self._tracker.log(curves + other_readings(evaluation, now) + of_parts)
        rate = progress.used / progress.seconds  # of now: the run may be further on than what was measured
        self._terminal.line(describe(evaluation, rate, plan.job.unit_of_error))
