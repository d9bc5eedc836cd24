"""Decides how far the workers train before they are asked again, measures there, and stops.

The workers run whole stints of steps by themselves; the controller's work per step is zero. A plain
class over a `Fleet`, so it is tested without Ray.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from streamtrain.errors import NonFiniteError
from streamtrain.job import Epochs, Online, Stale
from streamtrain.measure.cost import MeasuringTime
from streamtrain.measure.diagnostics import Diagnostics
from streamtrain.measure.gap import gap_readings
from streamtrain.measure.minibatch import MinibatchCurves
from streamtrain.measure.progressive import Progressive
from streamtrain.measure.risk import pooled, risk_readings
from streamtrain.measure.stopping import EarlyStopping
from streamtrain.order import evaluation_slices
from streamtrain.prepare.plan import EVALUATION_SLICE, Plan
from streamtrain.run.following import wait_for_growth
from streamtrain.run.loader_health import LoaderHealth
from streamtrain.run.outcome.result import Evaluation, Result
from streamtrain.store import write_whole
from streamtrain.track.system import SystemMetrics
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import Tracker
from streamtrain.values import Lane, Loading, Reading, Risk, Skip, Update

if TYPE_CHECKING:
    import torch

STINT_SECONDS = 1.0
"""How long workers train between two calls: long against a call's millisecond, short for a live line."""
FIRST_STINT = 16
SMOOTHED_STEPS = 100
"""Steps whose mean gradient norm is the norm at the stop."""


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

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state."""

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones."""

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum."""


class Controller:
    """One run, from its first step to its result; see the module."""

    def __init__(self, plan: Plan, fleet: Fleet, tracker: Tracker, terminal: Terminal, folder: Path) -> None:
        self._plan, self._fleet, self._tracker, self._terminal, self._folder = plan, fleet, tracker, terminal, folder
        self._step = self._used = 0
        self._seconds = 0.0
        self._skipped = 0
        self._norms: deque[float] = deque(maxlen=SMOOTHED_STEPS)
        self._curves = MinibatchCurves(plan.job.tracking.log_every)
        self._diagnostics = Diagnostics(plan.job.tracking.log_every)
        mode = plan.job.mode
        self._is_online = isinstance(mode, Online)
        self._progressive = Progressive(mode.window if isinstance(mode, Online) else Online.window)
        self._measuring = MeasuringTime(plan.job.evaluate.max_fraction_of_time)
        self._evaluations: list[Evaluation] = []
        self._loader = LoaderHealth(plan, tracker, folder)
        self._system = SystemMetrics(plan.job.tracking.system_seconds, folder)

    def run(self) -> Result:
        """Trains to the end that the mode sets.

        Raises:
            TrainingError: what stopped the workers; after a `NonFiniteError` the last good parameters are saved.
        """
        mode = self._plan.job.mode
        try:
            return self._online(mode) if isinstance(mode, Online) else self._epochs(mode)
        except NonFiniteError as error:
            file = self._folder / "last_good.safetensors"
            save_parameters(file, self._fleet.snapshot())
            raise error.with_parameters_in(str(file)) from None

    def _online(self, mode: Online) -> Result:
        self._online_to_the_end(mode)
        while mode.follow and (grown := wait_for_growth(self._plan, mode.idle_timeout, self._terminal)):
            self._plan = grown
            self._fleet.extend(grown, self._step)
            self._online_to_the_end(mode)
        order = self._plan.order
        whole = order.used == order.examples
        reason = "the training split is used up" if whole else f"mode.max_examples = {order.used:,} reached"
        if mode.follow:
            reason = f"no new segment in {mode.idle_timeout:g} s"
        return self._finish(reason, self._evaluations[-1], self._fleet.snapshot())

    def _online_to_the_end(self, mode: Online) -> None:
        """Trains on what is there and not used, and evaluates on the way."""
        order = self._plan.order
        examples = mode.evaluate_every or -(-(order.used - order.examples_before(order.position(self._step))) // 10)
        every = -(-examples // order.batch_size)
        for step in (*range(self._step + every, order.steps, every), order.steps):
            self._advance_to(step)
            if step == order.steps or self._affords_evaluation():
                self._evaluate()

    def _epochs(self, mode: Epochs) -> Result:
        of_passes = mode.patience_examples is None
        stopping = EarlyStopping(mode.patience_examples or mode.patience, mode.min_delta)
        best, best_parameters = None, {}
        reason = f"mode.max_passes = {mode.max_passes} reached"
        for passes in range(1, mode.max_passes + 1):
            self._advance_to(passes * self._plan.order.steps)
            if passes < mode.max_passes and not self._affords_evaluation():
                continue
            evaluation = self._evaluate()
            at = passes if of_passes else evaluation.examples_used
            stopping = stopping.after(at, evaluation.generalization.error.mean)
            if stopping.improved or best is None:
                best, best_parameters = evaluation, self._fleet.snapshot()
                save_parameters(self._folder / "best.safetensors", best_parameters)
            if stopping.should_stop:
                unit = "passes" if of_passes else "examples"
                kept = f"pass {best.step // self._plan.order.steps}"
                reason = f"no better validation error in {stopping.patience:,} {unit}; best was {kept}"
                break
        assert best is not None
        return self._finish(reason, best, best_parameters)

    def _advance_to(self, target: int) -> None:
        """Stint by stint, so that the live line lives and curves arrive while the pass runs."""
        order = self._plan.order
        while self._step < target:
            rate = self._step / self._seconds if self._seconds else 0.0
            until = min(target, self._step + max(FIRST_STINT, int(rate * STINT_SECONDS)))
            started = time.monotonic()
            done = self._fleet.advance(until)
            seconds = time.monotonic() - started
            self._seconds += seconds
            self._step = until
            examples = sum(update.loss.count for update in done)
            self._used += examples
            self._note(done, examples / seconds)
            self._loader.note(self._fleet, done[-1].step, seconds)
            self._terminal.live(
                f"pass {(until - 1) // order.steps + 1}/{self._plan.passes}",
                f"step {(until - 1) % order.steps + 1:,}/{order.steps:,}",
                f"{examples / seconds:,.0f} examples/s",
                f"loss {pooled(Risk(u.loss, u.error) for u in done if not u.skipped).loss.mean:.4f}",
                *([f"gap {self._evaluations[-1].gap_of_loss.value:+.4f}"] if self._evaluations else []),
                f"{_duration((self._plan.total_steps - until) * self._seconds / until)} left at most",
            )

    def _note(self, done: Sequence[Update], examples_per_second: float) -> None:
        now = time.time()
        readings = [Reading("throughput/examples_per_second", examples_per_second, done[-1].step, now)]
        readings += self._system.readings(done[-1].step, now)
        if isinstance(self._plan.job.aggregation, Stale):
            staleness = sum(update.staleness for update in done) / len(done)
            readings.append(Reading("gradient/staleness", staleness, done[-1].step, now))
        used = [update for update in done if not update.skipped]
        if len(used) < len(done):
            self._skipped += len(done) - len(used)
            readings.append(Reading("gradient/skipped_minibatches", self._skipped, done[-1].step, now))
        for update in used:
            readings += self._curves.add(update, now)
            if update.step < self._plan.order.steps:  # later passes repeat: their loss is not progressive
                readings += self._progressive.add(update, now)
            readings += self._diagnostics.add(update, now)
            self._norms.append(update.gradient_norm)
        self._tracker.log(readings)

    def _evaluate(self) -> Evaluation:
        """Both risks at the current parameters: all of the validation split, as many training examples."""
        order, started = self._plan.order, time.monotonic()
        held_out = self._plan.manifest.splits["validation"].examples
        used = order.ranges
        evaluation = Evaluation(
            step=self._step,
            examples_used=self._used,
            empirical=self._risk("train", evaluation_slices(used, held_out, EVALUATION_SLICE)),
            generalization=self._risk_on_all("validation"),
            passes=self._step / order.steps,
            progressive=self._progressive.recent if self._step <= order.steps else None,
        )
        self._evaluations.append(evaluation)
        self._measuring.spend(time.monotonic() - started)
        now = time.time()
        if self._plan.job.tracking.diagnostics:
            self._tracker.log(self._diagnostics.trajectory.readings(self._fleet.distance(), self._step - 1, now))
        step = self._step - 1 if self._is_online else self._step // order.steps
        self._tracker.log(
            [
                *self._measuring.readings(self._seconds, self._step - 1, now),
                *risk_readings("empirical_risk", evaluation.empirical, step, now),
                *risk_readings("generalization_risk", evaluation.generalization, step, now),
                *gap_readings(evaluation.empirical, evaluation.generalization, step, now),
            ]
        )
        self._terminal.line(describe(evaluation, order.steps, self._seconds))
        return evaluation

    def _affords_evaluation(self) -> bool:
        return not self._evaluations or self._measuring.affords(self._seconds)

    def _risk_on_all(self, split: str) -> Risk:
        examples = self._plan.manifest.splits[split].examples
        return self._risk(split, evaluation_slices([Lane(0, 0, examples)], examples, EVALUATION_SLICE))

    def _risk(self, split: str, slices: Sequence[tuple[int, int]]) -> Risk:
        return pooled(self._fleet.evaluate(split, slices))

    def _finish(self, reason: str, chosen: Evaluation, parameters: dict[str, torch.Tensor]) -> Result:
        """Closes the curves, measures the kept parameters on the test split, and sums the run up."""
        save_parameters(self._folder / "parameters.safetensors", parameters)  # before anything that may fail
        order, now, last = self._plan.order, time.time(), self._step - 1
        self._fleet.restore(parameters)
        has_test = "test" in self._plan.manifest.splits and self._plan.manifest.splits["test"].examples
        test = self._risk_on_all("test") if has_test else None
        norm = sum(self._norms) / max(1, len(self._norms))
        readings = [*self._curves.rest(now), Reading("stop/gradient_norm", norm, last, now)]
        readings.append(Reading("stop/best_step", chosen.step, last, now))
        if test is not None:
            readings += risk_readings("test_risk", test, last, now)
        self._tracker.log(readings)
        used = self._evaluations[-1].examples_used
        return Result(
            mode="online" if self._is_online else "epochs",
            stop_reason=reason,
            passes=-(-self._step // order.steps),
            examples_used=used,
            examples_per_second=used / self._seconds,
            evaluations=tuple(self._evaluations),
            chosen=chosen,
            gradient_norm_at_stop=norm,
            test=test,
            progressive=self._progressive.total,
            parameters=parameters,
            folder=self._folder,
        )


def save_parameters(file: Path, parameters: dict[str, torch.Tensor]) -> None:
    """Writes a state dict as safetensors, whole or not at all."""
    from safetensors.torch import save

    write_whole(file, save(parameters))


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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
