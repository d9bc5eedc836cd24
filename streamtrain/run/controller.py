"""Decides how far the workers train before they are asked again, advances them, measures there, keeps, and stops.

The workers run whole stints of steps by themselves; the controller's work per step is zero. A plain
class over a `Fleet`, so it is tested without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import JobError, NonFiniteError, WorkerLost
from streamtrain.job import Epochs, Online
from streamtrain.measure.run_curves import RunCurves, Stint
from streamtrain.prepare.plan import MEASURED_ONLINE, Plan, resized
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.checkpoints.parameters import save_parameters, save_result
from streamtrain.run.fleet.protocol import Fleet, Spare
from streamtrain.run.fleet.team import Team
from streamtrain.run.folder import OptionalFiles, RunFolder
from streamtrain.run.outcome.chosen import chosen_readings
from streamtrain.run.outcome.limits import Limits
from streamtrain.run.outcome.result import Evaluation, Result
from streamtrain.run.outcome.wording import of_pass
from streamtrain.run.watching.following import wait_for_growth
from streamtrain.run.watching.growing import decided_before, following
from streamtrain.run.watching.listening import Listeners
from streamtrain.run.watching.loader_health import LoaderHealth
from streamtrain.run.watching.measuring.measurements import Measurements
from streamtrain.run.watching.probing import Probes
from streamtrain.run.watching.status import LiveStatus
from streamtrain.run.watching.trace import Traces
from streamtrain.track.system import SystemMetrics
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import Tracker
from streamtrain.values import Update

if TYPE_CHECKING:
    import torch

STINT_SECONDS = 1.0
"""How long workers train between two calls: long against a call's millisecond, short for a live line."""
FIRST_STINT = 16


class Controller:
    """One run, from its first step to its result; see the module."""

    def __init__(
        self,
        plan: Plan,
        fleet: Fleet,
        tracker: Tracker,
        terminal: Terminal,
        folder: Path,
        keeper: Keeper,
        listeners: Listeners | None = None,
        spare: Spare | None = None,
    ) -> None:
        self._plan = plan
        self._fleet = fleet
        self._tracker = tracker
        self._terminal = terminal
        self._folder = RunFolder(folder)
        self._keeper = keeper
        self._followed = following(plan.job)
        self._listeners = listeners or Listeners()
        self._limits = Limits(plan.job)
        self._ended: str | None = None  # by a listener or a limit
        self._optional = OptionalFiles(terminal.line)
        self._curves = RunCurves(plan.job)
        self._team = Team(plan.job, fleet, self._curves, tracker, terminal)
        self._measurements = Measurements(fleet, spare, self._curves, tracker, terminal)
        self._traces = Traces(plan.job, tracker, terminal, self._folder, self._optional)
        self._probes = Probes(plan, tracker, terminal, self._folder)
        self._system = SystemMetrics(plan.job.tracking.system_seconds, folder)
        self._take_up()

    def _take_up(self) -> None:
        """Where the last checkpoint was, or the beginning."""
        self._progress, self._best = self._keeper.begin()
        self._ended = self._progress.ended  # what another ending was about lies ahead again
        self._limits.go_on(self._progress.spent)
        self._progress.fingerprint = self._fleet.likeness.fingerprint
        self._curves.measures = self._progress.measures
        self._loader = LoaderHealth(self._plan, self._tracker, self._folder, self._progress.bad, self._terminal.line)
        if self._followed is not None and self._plan.order.later != tuple(self._progress.growth.later):
            self._resize()  # workers are ahead of the checkpoint
        self._measurements.go_on(self._plan, self._progress, self._keeper.measured)

    def run(self) -> Result:
        """Trains to the end that the mode sets; begins anew from the last checkpoint where all workers were lost.

        Raises:
            TrainingError: what stopped the workers; after a `NonFiniteError` the last good parameters are saved.
            Interrupted: it was asked to stop, and a checkpoint is written.
        """
        mode = self._plan.job.mode
        lost = None
        while True:
            try:
                if lost is not None:
                    self._begin_again(lost)
                if self._progress.is_told and not self._measurements.beside:
                    self._settle()  # a listener had failed at it
                return self._online(mode) if isinstance(mode, Online) else self._epochs(mode)
            except NonFiniteError as error:
                file = self._folder.last_good
                parameters = self._fleet.snapshot()
                with self._optional.writing(file):
                    save_parameters(file, parameters)
                    error = error.with_parameters_in(str(file))
                raise error from None
            except WorkerLost as error:
                self._keeper.note_loss(self._progress.step, error)
                lost = error

    def _begin_again(self, lost: WorkerLost) -> None:
        self._terminal.line(f"{lost}; beginning again at step {self._keeper.step:,}")
        self._measurements.abandon()
        self._fleet.restart(self._keeper.start)
        self._take_up()
        self._team.tell(self._progress.step)

    def _online(self, mode: Online) -> Result:
        self._online_to_the_end(mode)
        while mode.follow and not self._ended:
            patience = min(mode.idle_timeout, self._limits.left)
            grown = wait_for_growth(self._plan, patience, self._terminal, self._keep)
            if grown is None:
                break
            self._plan = grown
            self._fleet.extend(grown, self._progress.step)
            self._progress.since = self._progress.step
            self._online_to_the_end(mode)
        order = self._plan.order
        part = f"mode.max_examples = {order.used:,} reached"
        reason = part if order.used < order.examples else self._plan.used_up
        if mode.follow:
            reason = f"no new segment in {mode.idle_timeout:g} s"
        ended = self._ended or self._limits.reached(self._progress.step)
        return self._finish(ended or reason, self._progress.evaluations[-1], self._fleet.snapshot())

    def _online_to_the_end(self, mode: Online) -> None:
        """Trains on what is there and not used, and evaluates on the way."""
        order = self._plan.order
        since = self._progress.since
        used = order.examples_before(order.position(since))
        every = self._plan.job.evaluate.every or mode.evaluate_every or -(-(order.used - used) // MEASURED_ONLINE)
        while used < order.used and not self._ended:
            wanted = min(used + every, order.used)
            is_new = self._progress.lies_ahead(wanted, self._plan)
            if is_new:  # a run that goes on has been at the others
                self._advance_to(wanted)
                self._settle()
            used = self._used_at(wanted)
            last = used == order.used or bool(self._ended)
            if is_new and not self._is_measured and (last or self._affords_evaluation()):
                self._evaluate(last=last)
        self._settle()

    def _epochs(self, mode: Epochs) -> Result:
        progress = self._progress
        of_passes = mode.patience_examples is None
        reason = f"mode.max_passes = {mode.max_passes} reached"
        last = mode.max_passes * self._plan.order.used
        ended = self._ended or self._out_of_patience(of_passes=of_passes)
        for examples in () if ended else self._measured_at(last):
            self._advance_to(examples)
            self._settle()
            ended = self._out_of_patience(of_passes=of_passes) or progress.ended
            if ended:
                break
            if examples < last and not self._ended and not self._affords_evaluation():
                continue
            if not self._is_measured:  # where it has come to its end at once it may be
                self._evaluate()
            ended = self._out_of_patience(of_passes=of_passes) or self._ended
            if ended:
                break
        self._settle()
        ended = self._out_of_patience(of_passes=of_passes) or ended or self._ended
        assert progress.best is not None
        return self._finish(ended or reason, progress.best, self._best)

    def _out_of_patience(self, *, of_passes: bool) -> str | None:
        """That early stopping ends the run, in words; ``None`` where it does not."""
        progress = self._progress
        if progress.best is None or not progress.stopping.should_stop:
            return None
        unit = "passes" if of_passes else "examples"
        kept = f"pass {of_pass(progress.best.passes)}"
        stop_on = self._plan.job.mode.stop_on if isinstance(self._plan.job.mode, Epochs) else "error"
        error = "validation loss" if self._plan.job.error_is_loss else "validation error"
        number = error if stop_on == "error" else stop_on
        return f"no better {number} in {progress.stopping.patience:,} {unit}; best was {kept}"

    def _choose(self, evaluation: Evaluation, mode: Epochs) -> None:
        """Keeps the parameters of the last measurement where none before had a better number."""
        progress = self._progress
        at = evaluation.passes if mode.patience_examples is None else evaluation.examples_used
        number = evaluation.number(mode.stop_on)
        progress.stopping = progress.stopping.after(at, -number if mode.highest else number)
        if progress.stopping.improved or progress.best is None:
            progress.best = evaluation
            self._best = self._measurements.parameters or self._fleet.snapshot()
            with self._optional.writing(file := self._folder.best):
                save_parameters(file, self._best)

    @property
    def _is_measured(self) -> bool:
        evaluations = self._progress.evaluations
        return bool(evaluations) and evaluations[-1].step == self._progress.step

    def _measured_at(self, last: int) -> Iterator[int]:
        """Examples used, at which many passes are still to be measured: ends of passes, or as evaluate.every says."""
        order = self._plan.order
        every = self._plan.measured_every
        used = order.examples_before(order.position(self._progress.step))
        for examples in (*range(max(1, used // every) * every, last, every), last):
            if self._progress.lies_ahead(examples, self._plan):
                yield examples
        if not self._progress.evaluations:  # it went on behind the last pass, and was never measured
            yield last

    def _keep(self) -> None:
        """A checkpoint where it is time for one; with audits, of a state that has just been audited."""
        self._progress.spent = self._limits.spent
        if self._is_audited or self._keeper.asked is not None:
            self._keeper.keep(self._fleet, self._progress, self._best, self._measurements.parameters)

    @property
    def _is_audited(self) -> bool:
        return self._progress.step % (self._plan.job.audit_every or 1) == 0

    def _used_at(self, examples: int) -> int:
        """How many examples minibatches have used once they have used so many: they end where they end."""
        order = self._plan.order
        return order.examples_before(order.position(order.step_reaching(examples)))

    def _advance_to(self, examples: int) -> None:
        """Until so many are used, or a limit is reached; stint by stint, for the live line and curves on the way."""
        while self._progress.step < (target := self._plan.order.step_reaching(examples)):
            self._ended = self._limits.reached(self._progress.step)
            if self._ended:
                return
            self._keep()
            every = self._plan.job.audit_every
            rate = self._progress.step / self._progress.seconds if self._progress.seconds else 0.0
            until = min(target, self._progress.step + max(FIRST_STINT, int(rate * STINT_SECONDS)))
            until = min(until, (self._progress.step // every + 1) * every) if every else until
            until = self._limits.before(until, self._progress.step, rate)
            until = self._probes.before(until, self._progress.step)
            until = decided_before(self._followed, until, self._progress.step)
            started = time.monotonic()
            done = self._fleet.advance(until)
            seconds = time.monotonic() - started
            self._progress.seconds += seconds
            self._progress.step = until
            self._team.tell(self._progress.step)
            stint = self._asked_about(done, seconds)
            self._progress.note_use(done, self._plan)
            now = time.time()
            curves = self._curves.stint(stint, self._plan.order, now)
            self._tracker.log(curves + self._system.readings(until - 1, now, self._fleet.usage))
            with self._optional.writing(self._folder.skipped_lists):
                self._loader.keep_list()
            self._show(stint)
            self._traces.keep(self._fleet)
            self._probes.take(self._fleet.snapshot, self._progress)
            self._grow(done)
            self._measurements.tell_ready(self._plan, self._progress)
        self._ended = self._limits.reached(self._progress.step)

    def _grow(self, done: Sequence[Update]) -> None:
        """Doubles the batch where it follows the gradient's noise, and that allows it."""
        if self._followed is None:
            return
        step = self._progress.step
        growth = self._progress.growth
        growth.add(done)
        self._tracker.log(growth.readings(self._followed, self._plan.order, step, time.time()))
        if growth.decide(self._followed, self._plan.order, step):
            self._resize()
            self._terminal.line(f"minibatches of {self._plan.order.size(step):,} examples from step {step:,} on")

    def _resize(self) -> None:
        """Goes on with the batch sizes that were decided."""
        self._plan = resized(self._plan, self._progress.growth.later)
        self._fleet.extend(self._plan, self._progress.step)

    def _asked_about(self, done: Sequence[Update], seconds: float) -> Stint:
        """What the workers have to say of the steps that they have just trained."""
        loading, read = self._loader.look(self._fleet)
        times = self._fleet.times()
        workers = self._fleet.workers
        return Stint(done, seconds, workers, times, loading, read, len(self._progress.bad))

    def _show(self, stint: Stint) -> None:
        """How far the run is, on the terminal and in its folder."""
        workers = self._fleet.workers
        waiting = self._curves.waiting_share
        status = LiveStatus.of(self._plan, self._progress, stint, workers, waiting, self._limits.left)
        self._terminal.live(*status.facts, part=status.part)
        status.keep(self._folder)

    def _evaluate(self, *, last: bool = False) -> None:
        """Has both risks measured at the current parameters; decides by them at once, unless that is done beside.

        Args:
            last: whether a run in one pass ends here.
        """
        self._measurements.begin(self._plan, self._progress, last=last)
        if not self._measurements.beside:
            self._settle()

    def _settle(self) -> None:
        """Decides by the measurement that was begun last, where it was not decided by yet."""
        progress = self._progress
        evaluation = self._measurements.settle(self._plan, progress, self._keep)
        if evaluation is None:
            return
        try:
            progress.ended = self._listeners.hear(evaluation)
        except JobError:
            # undecided: who goes on from here has the listeners hear the same once more
            self._keep_now(self._measurements.parameters or self._fleet.snapshot())
            raise
        self._ended = self._ended or progress.ended
        if isinstance(self._plan.job.mode, Epochs):
            self._choose(evaluation, self._plan.job.mode)
        progress.outstanding = None
        self._measurements.parameters = {}

    def _keep_now(self, measured: dict[str, torch.Tensor]) -> None:
        """A checkpoint of where the run has ended or failed, from which it may go on; ``measured`` is outstanding."""
        if self._is_audited:
            self._progress.spent = self._limits.spent
            self._keeper.take(self._fleet, self._progress, self._best, measured)

    def _affords_evaluation(self) -> bool:
        return not self._progress.evaluations or self._progress.measures.evaluating.affords(self._progress.seconds)

    def _finish(self, reason: str, chosen: Evaluation, parameters: dict[str, torch.Tensor]) -> Result:
        """Closes the curves, measures the kept parameters on the test split, and sums the run up."""
        save_result(self._folder.parameters, parameters)  # before anything that may fail
        self._keep_now(self._measurements.parameters)
        self._keeper.keep_best(chosen, parameters)
        progress = self._progress
        self._fleet.restore(parameters)
        self._probes.end(parameters)
        test, test_parts = self._measurements.evaluator.measure_test(self._plan)
        whole = chosen.generalization.loss.count > self._plan.held_out()  # not so where a listener ended a single pass
        by_class, tables = self._measurements.evaluator.by_class(self._plan, whole=whole)
        order = self._plan.order
        size = order.size(max(0, chosen.step - 1))
        ended = self._curves.end(size, chosen.noise, progress.step)
        self._tracker.log(ended + chosen_readings(chosen, test, test_parts, self._plan.job))
        result = progress.result(self._plan, reason, chosen, test, parameters, self._folder.path)
        return replace(result, test_parts=test_parts, by_class=by_class, tables=tables)
