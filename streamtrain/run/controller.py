"""Decides how far the workers train before they are asked again, measures there, and stops.

The workers run whole stints of steps by themselves; the controller's work per step is zero. A plain
class over a `Fleet`, so it is tested without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from streamtrain.errors import NonFiniteError, WorkerLost
from streamtrain.job import Epochs, Online, Stale
from streamtrain.measure.cost import StepParts
from streamtrain.measure.gap import Parts, gap_readings
from streamtrain.measure.risk import pooled, risk_readings
from streamtrain.order import evaluation_slice, evaluation_slices
from streamtrain.prepare.plan import Plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.folder import OptionalFiles, RunFolder
from streamtrain.run.outcome.result import Evaluation, Result
from streamtrain.run.outcome.saving import save_parameters, save_result
from streamtrain.run.watching.following import wait_for_growth
from streamtrain.run.watching.loader_health import LoaderHealth
from streamtrain.run.watching.probing import Probes
from streamtrain.run.watching.status import LiveStatus
from streamtrain.run.watching.trace import merged
from streamtrain.store import write_whole
from streamtrain.track.system import SystemMetrics
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import Tracker
from streamtrain.values import Lane, Loading, Reading, Recovery, Risk, Skip, StepTimes, Update

if TYPE_CHECKING:
    import torch

STINT_SECONDS = 1.0
"""How long workers train between two calls: long against a call's millisecond, short for a live line."""
FIRST_STINT = 16


class Fleet(Protocol):
    """All workers of a run, as the controller sees them."""

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state."""

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        """Risk on each slice, in the order of ``slices``, whoever computed it."""

    def extend(self, plan: Plan, step: int) -> None:
        """Goes on with a data set that has grown, from global ``step``."""

    def loading(self) -> Loading:
        """What reading has cost all workers so far."""

    def times(self) -> StepTimes:
        """What the steps of all workers have been spent on so far."""

    def traces(self) -> list[str | None]:
        """Every worker's Chrome trace of a few steps, as JSON, where it is there."""

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state."""

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones."""

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum."""

    def save(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for a checkpoint."""

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        """New workers in place of all, from a checkpoint's tensors and step, or from the beginning."""

    @property
    def workers(self) -> int:
        """How many there are now."""

    def recovered(self) -> list[Recovery]:
        """Every time that the run went on after a loss since this was last asked."""


class Controller:
    """One run, from its first step to its result; see the module."""

    def __init__(
        self, plan: Plan, fleet: Fleet, tracker: Tracker, terminal: Terminal, folder: Path, keeper: Keeper
    ) -> None:
        self._plan, self._fleet, self._tracker, self._terminal = plan, fleet, tracker, terminal
        self._folder = RunFolder(folder)
        self._is_online = isinstance(plan.job.mode, Online)
        self._keeper, self._recoveries, self._workers = keeper, 0, 0
        self._parts, self._traced, self._optional = StepParts(), False, OptionalFiles(terminal.line)
        self._probes = Probes(plan, tracker, terminal, self._folder)
        self._system = SystemMetrics(plan.job.tracking.system_seconds, folder)
        self._take_up()

    def _take_up(self) -> None:
        """Where the last checkpoint was, or the beginning."""
        self._progress, self._best = self._keeper.begin()
        self._loader = LoaderHealth(self._plan, self._tracker, self._folder, self._progress.bad, self._terminal.line)

    def run(self) -> Result:
        """Trains to the end that the mode sets; begins anew from the last checkpoint where all workers were lost.

        Raises:
            TrainingError: what stopped the workers; after a `NonFiniteError` the last good parameters are saved.
            Interrupted: it was asked to stop, and a checkpoint is written.
        """
        mode, lost = self._plan.job.mode, None
        while True:
            try:
                if lost is not None:
                    self._begin_again(lost)
                return self._online(mode) if isinstance(mode, Online) else self._epochs(mode)
            except NonFiniteError as error:
                file, parameters = self._folder.last_good, self._fleet.snapshot()
                with self._optional.writing(file):
                    save_parameters(file, parameters)
                    error = error.with_parameters_in(str(file))
                raise error from None
            except WorkerLost as error:
                self._keeper.note_loss(self._progress.step, error)
                lost = error

    def _begin_again(self, lost: WorkerLost) -> None:
        self._terminal.line(f"{lost}; beginning again at step {self._keeper.step:,}")
        self._fleet.restart(self._keeper.start)
        self._take_up()
        self._note_recoveries()

    def _online(self, mode: Online) -> Result:
        self._online_to_the_end(mode)
        while mode.follow and (grown := wait_for_growth(self._plan, mode.idle_timeout, self._terminal, self._keep)):
            self._plan = grown
            self._fleet.extend(grown, self._progress.step)
            self._progress.since = self._progress.step
            self._online_to_the_end(mode)
        order = self._plan.order
        whole = order.used == order.examples
        reason = "the training split is used up" if whole else f"mode.max_examples = {order.used:,} reached"
        if mode.follow:
            reason = f"no new segment in {mode.idle_timeout:g} s"
        return self._finish(reason, self._progress.evaluations[-1], self._fleet.snapshot())

    def _online_to_the_end(self, mode: Online) -> None:
        """Trains on what is there and not used, and evaluates on the way."""
        order, since = self._plan.order, self._progress.since
        examples = mode.evaluate_every or -(-(order.used - order.examples_before(order.position(since))) // 10)
        every = -(-examples // order.batch_size)
        for step in (*range(since + every, order.steps, every), order.steps):
            if step > self._progress.step:  # a run that goes on has been at the others
                self._advance_to(step)
                if step == order.steps or self._affords_evaluation():
                    self._evaluate()

    def _epochs(self, mode: Epochs) -> Result:
        progress, steps = self._progress, self._plan.order.steps
        of_passes = mode.patience_examples is None
        reason = f"mode.max_passes = {mode.max_passes} reached"
        for passes in range(progress.step // steps + 1, mode.max_passes + 1):
            self._advance_to(passes * steps)
            if passes < mode.max_passes and not self._affords_evaluation():
                continue
            evaluation = self._evaluate()
            at = passes if of_passes else evaluation.examples_used
            progress.stopping = progress.stopping.after(at, evaluation.generalization.error.mean)
            if progress.stopping.improved or progress.best is None:
                progress.best, self._best = evaluation, self._fleet.snapshot()
                with self._optional.writing(file := self._folder.best):
                    save_parameters(file, self._best)
            if progress.stopping.should_stop:
                unit = "passes" if of_passes else "examples"
                kept = f"pass {progress.best.step // steps}"
                reason = f"no better validation error in {progress.stopping.patience:,} {unit}; best was {kept}"
                break
        assert progress.best is not None
        return self._finish(reason, progress.best, self._best)

    def _keep(self) -> None:
        self._keeper.keep(self._fleet, self._progress, self._best)

    def _advance_to(self, target: int) -> None:
        """Stint by stint, so that the live line lives and curves arrive while the pass runs."""
        while self._progress.step < target:
            self._keep()
            rate = self._progress.step / self._progress.seconds if self._progress.seconds else 0.0
            until = min(target, self._progress.step + max(FIRST_STINT, int(rate * STINT_SECONDS)))
            until = self._probes.before(until, self._progress.step)
            started = time.monotonic()
            done = self._fleet.advance(until)
            seconds = time.monotonic() - started
            self._progress.seconds += seconds
            self._progress.step = until
            self._note_recoveries()
            examples = sum(update.loss.count for update in done)
            self._progress.used += examples
            self._note(done, examples / seconds)
            with self._optional.writing(self._folder.skipped_lists):
                self._loader.note(self._fleet, done[-1].step, seconds)
            self._tell(examples / seconds, pooled(Risk(u.loss, u.error) for u in done if not u.skipped).loss.mean)
            if self._plan.job.profile and not self._traced:
                self._keep_trace()
            self._probes.take(self._fleet.snapshot, self._progress)

    def _tell(self, examples_per_second: float, loss: float) -> None:
        """How far the run is, on the terminal and in its folder."""
        progress, steps = self._progress, self._plan.order.steps
        gap = progress.evaluations[-1].gap_of_loss if progress.evaluations else None
        status = LiveStatus(
            pass_number=(progress.step - 1) // steps + 1,
            passes=self._plan.passes,
            step=(progress.step - 1) % steps + 1,
            steps=steps,
            examples_per_second=examples_per_second,
            workers=self._fleet.workers,
            waiting_share=self._parts.waiting_share,
            loss=loss,
            gap=None if gap is None else gap.value,
            gap_standard_error=None if gap is None else gap.standard_error,
            seconds_left=(self._plan.total_steps - progress.step) * progress.seconds / progress.step,
            time=time.time(),
        )
        self._terminal.live(*status.facts)
        status.keep(self._folder)

    def _keep_trace(self) -> None:
        """A file and an artifact, once all workers have theirs."""
        traces = [trace for trace in self._fleet.traces() if trace is not None]
        if len(traces) == self._fleet.workers:
            self._traced, file = True, self._folder.trace
            with self._optional.writing(file):
                write_whole(file, merged(traces).encode())
                self._tracker.artifact(file, "profile")
                told = f"a trace of {len(traces)} worker(s) is in {file}"
                self._terminal.line(f"{told}; open it at https://ui.perfetto.dev")

    def _note_recoveries(self) -> None:
        """A line, a point and a tag for every one; a line where workers joined."""
        recovered, now, before = self._fleet.recovered(), time.time(), self._workers
        self._workers = self._fleet.workers
        if not recovered and before and self._workers > before:
            self._terminal.line(
                f"{self._workers - before} joined: {self._workers} workers at step {self._progress.step:,}"
            )
        for each in recovered:
            self._recoveries += 1
            self._terminal.line(
                f"{each.lost + '; ' if each.lost else ''}going on at step {each.step:,} with {each.workers} worker(s), "
                f"{each.seconds:.1f} s after the last update"
            )
            count = Reading("recovery/count", self._recoveries, each.step, now)
            self._tracker.log([Reading("recovery/seconds", each.seconds, each.step, now), count])
        if recovered:
            self._tracker.tag("recoveries", str(self._recoveries))

    def _note(self, done: Sequence[Update], examples_per_second: float) -> None:
        now = time.time()
        readings = [Reading("throughput/examples_per_second", examples_per_second, done[-1].step, now)]
        readings.append(Reading("throughput/workers", self._fleet.workers, done[-1].step, now))
        readings += self._parts.readings(self._fleet.times(), self._fleet.workers, done[-1].step, now)
        readings += self._system.readings(done[-1].step, now)
        if isinstance(self._plan.job.aggregation, Stale):
            staleness = sum(update.staleness for update in done) / len(done)
            readings.append(Reading("gradient/staleness", staleness, done[-1].step, now))
        if self._plan.job.backup:
            readings += self._late(done, now)
        if self._plan.job.precision == "fp16":
            self._progress.overflowed += sum(update.overflowed for update in done)
            values = {"overflowed_minibatches": self._progress.overflowed, "loss_scale": done[-1].loss_scale}
            readings += [Reading(f"gradient/{name}", value, done[-1].step, now) for name, value in values.items()]
        if skipped := sum(update.skipped for update in done):
            self._progress.skipped += skipped
            readings.append(Reading("gradient/skipped_minibatches", self._progress.skipped, done[-1].step, now))
        for update in done:
            if not update.skipped:
                readings += self._note_one(update, now)
            if not self._is_online and (update.step + 1) % self._plan.order.steps == 0:
                readings += self._progress.passes.end(now)
        self._tracker.log(readings)

    def _note_one(self, update: Update, now: float) -> list[Reading]:
        """The points that an update completes whose minibatch was used."""
        progress = self._progress
        readings = progress.curves.add(update, now) + progress.diagnostics.add(update, now)
        if update.step < self._plan.order.steps:  # later passes repeat: their loss is no estimate of the held-out one
            readings += progress.progressive.add(update, now)
        if not self._is_online:
            progress.passes.add(update)
        progress.norms.append(update.gradient_norm)
        return readings

    def _late(self, done: Sequence[Update], now: float) -> list[Reading]:
        """What updates did not wait for, so far."""
        order, progress = self._plan.order, self._progress
        parts = [order.minibatch(order.position(step)).parts[lane] for update in done for step, lane in update.late]
        progress.late_lanes += len(parts)
        progress.late_examples += sum(part.examples for part in parts)
        examples = "unused_examples" if self._is_online else "put_back_examples"
        values = {"late_lanes": progress.late_lanes, examples: progress.late_examples}
        return [Reading(f"aggregate/{name}", value, done[-1].step, now) for name, value in values.items()]

    def _evaluate(self) -> Evaluation:
        """Both risks at the current parameters: all of the validation split, as many training examples."""
        order, started = self._plan.order, time.monotonic()
        held_out = self._plan.manifest.splits["validation"].examples
        used = order.ranges
        slices = evaluation_slices(used, held_out, evaluation_slice(held_out))
        empirical = pooled(self._fleet.evaluate("train", slices))
        generalization = self._risks_on_all("validation")
        evaluation = Evaluation(
            step=self._progress.step,
            examples_used=self._progress.used,
            empirical=empirical,
            generalization=pooled(generalization),
            passes=self._progress.step / order.steps,
            progressive=self._progress.progressive.recent if self._progress.step <= order.steps else None,
            held_out=Parts.of(generalization),
        )
        self._progress.evaluations.append(evaluation)
        self._progress.measuring.spend(time.monotonic() - started)
        now = time.time()
        if self._plan.job.tracking.diagnostics:
            self._tracker.log(
                self._progress.diagnostics.trajectory.readings(self._fleet.distance(), self._progress.step - 1, now)
            )
        step = self._progress.step - 1 if self._is_online else self._progress.step // order.steps
        self._tracker.log(
            [
                *self._progress.measuring.readings(self._progress.seconds, self._progress.step - 1, now),
                *risk_readings("empirical_risk", evaluation.empirical, step, now),
                *risk_readings("generalization_risk", evaluation.generalization, step, now),
                *gap_readings(evaluation.empirical, evaluation.generalization, step, now),
            ]
        )
        self._terminal.line(describe(evaluation, order.steps, self._progress.seconds))
        return evaluation

    def _affords_evaluation(self) -> bool:
        return not self._progress.evaluations or self._progress.measuring.affords(self._progress.seconds)

    def _risks_on_all(self, split: str) -> list[Risk]:
        """Slice by slice."""
        examples = self._plan.manifest.splits[split].examples
        slices = evaluation_slices([Lane(0, 0, examples)], examples, evaluation_slice(examples))
        return self._fleet.evaluate(split, slices)

    def _finish(self, reason: str, chosen: Evaluation, parameters: dict[str, torch.Tensor]) -> Result:
        """Closes the curves, measures the kept parameters on the test split, and sums the run up."""
        save_result(self._folder.parameters, parameters)  # before anything that may fail
        self._keeper.keep_best(chosen, parameters)
        order, now, last = self._plan.order, time.time(), self._progress.step - 1
        self._fleet.restore(parameters)
        has_test = "test" in self._plan.manifest.splits and self._plan.manifest.splits["test"].examples
        test = pooled(self._risks_on_all("test")) if has_test else None
        norm = sum(self._progress.norms) / max(1, len(self._progress.norms))
        readings = [*self._progress.curves.rest(now), Reading("stop/gradient_norm", norm, last, now)]
        readings.append(Reading("stop/best_step", chosen.step, last, now))
        if test is not None:
            readings += risk_readings("test_risk", test, last, now)
        self._tracker.log(readings)
        used = self._progress.evaluations[-1].examples_used
        return Result(
            mode="online" if self._is_online else "epochs",
            stop_reason=reason,
            passes=-(-self._progress.step // order.steps),
            examples_used=used,
            examples_unused=self._progress.late_examples if self._is_online else 0,
            examples_per_second=used / self._progress.seconds,
            evaluations=tuple(self._progress.evaluations),
            chosen=chosen,
            gradient_norm_at_stop=norm,
            test=test,
            progressive=self._progress.progressive.total,
            progressive_passes=tuple(self._progress.passes.whole),
            parameters=parameters,
            folder=self._folder.path,
        )


def describe(evaluation: Evaluation, pass_steps: int, seconds: float) -> str:
    """One line about an evaluation, for the terminal."""
    train, held_out, between = evaluation.empirical, evaluation.generalization, evaluation.gap_of_loss
    return (
        f"pass {evaluation.step / pass_steps:4.3g}  "
        f"loss: train {train.loss.mean:.4f}, held out {held_out.loss.mean:.4f} ± {held_out.loss.standard_error:.4f}, "
        f"gap {between.value:+.4f} ± {between.standard_error:.4f}  "
        f"error: train {train.error.mean:.2%}, held out {held_out.error.mean:.2%}  "
        f"{evaluation.examples_used / seconds:,.0f} examples/s"
    )
