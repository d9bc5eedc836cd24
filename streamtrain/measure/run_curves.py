"""All curves of a run: what the controller hears, as points, with their names and the steps that they stand at.

The files beside this one compute; only this one gives names. A new quantity is a file there, a line here, and a field
of `Measures` where it remembers anything. What each name means: `streamtrain/track/README.md`. Probes of the loss
surface and the machine's own figures come from elsewhere, under ``probe/`` and ``system/``.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Self

from streamtrain.job import Job, Online, Stale
from streamtrain.measure.cost import MeasuringTime, StepParts
from streamtrain.measure.diagnostics import Diagnostics, UpdateFigures
from streamtrain.measure.diagnostics.batch_efficiency import efficiencies
from streamtrain.measure.diagnostics.noise_scale import Noise
from streamtrain.measure.diagnostics.standard_error import standard_errors
from streamtrain.measure.diagnostics.step_curves import LastNorms, MinibatchCurves, StepMeans
from streamtrain.measure.gap import gap
from streamtrain.measure.progressive import PassRisks, Progressive
from streamtrain.measure.risk import pooled
from streamtrain.order import Order, SegmentedOrder
from streamtrain.stored import Stored
from streamtrain.values import Loading, Moments, Reading, Recovery, Risk, StepTimes, Update


@dataclass
class Measures(Stored):
    """All that curves remember of the steps before: what of them a checkpoint holds.

    Attributes:
        minibatch, diagnostics, progressive, passes, norms: of the updates. passes: of many passes only.
        evaluating, probing: seconds of measurements.
        skipped: minibatches that were passed over.
        overflowed: those of them whose gradient was only too large for fp16.
        late_lanes, late_examples: that updates did not wait for, each time counted.
    """

    minibatch: MinibatchCurves
    diagnostics: Diagnostics
    progressive: Progressive
    evaluating: MeasuringTime
    probing: MeasuringTime
    passes: PassRisks = field(default_factory=PassRisks)
    norms: LastNorms = field(default_factory=LastNorms)
    skipped: int = 0
    overflowed: int = 0
    late_lanes: int = 0
    late_examples: int = 0

    @classmethod
    def of(cls, job: Job) -> Self:
        """Of a run that has not begun."""
        every = job.tracking.log_every
        most = job.evaluate.max_fraction_of_time
        return cls(
            minibatch=MinibatchCurves(every),
            diagnostics=Diagnostics.at_every(every),
            progressive=Progressive.over(job.mode.window if isinstance(job.mode, Online) else Online.window),
            evaluating=MeasuringTime(most),
            probing=MeasuringTime(most),
        )

    def follow(self, job: Job) -> None:
        """Takes over the settings that may change while a run stands still."""
        self.minibatch.every = self.diagnostics.trajectory.every = job.tracking.log_every
        self.evaluating.most = self.probing.most = job.evaluate.max_fraction_of_time


@dataclass(frozen=True)
class Stint:
    """Steps that the workers trained by themselves, and what they cost.

    Attributes:
        updates: of these steps, in order; at least one.
        seconds: that they took. workers: that trained.
        times: of all workers' steps so far.
        loading: what reading has cost all workers so far. read: of it, since the stint before.
        bad_examples: that were passed over so far.
    """

    updates: Sequence[Update]
    seconds: float
    workers: int
    times: StepTimes
    loading: Loading
    read: Loading
    bad_examples: int

    @property
    def examples(self) -> int:
        """Of the minibatches, without the bad ones and those that were not waited for."""
        return sum(update.loss.count for update in self.updates)

    @property
    def examples_per_second(self) -> float:
        """While training."""
        return self.examples / self.seconds

    @property
    def loss(self) -> float:
        """Mean over the examples of the minibatches that were used, each before its update."""
        return pooled(Risk(u.loss, u.error) for u in self.updates if not u.skipped).loss.mean


class RunCurves:
    """Points of a run out of what the controller hears.

    Every method returns its points at Unix time ``now``. All curves have one axis: the global step, from 0, of the last
    update that is in the point.

    Attributes:
        measures: those so far; the controller puts a checkpoint's in their place where it begins again.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._is_online = isinstance(job.mode, Online)
        self._parts = StepParts()
        self._recoveries = 0
        self.measures = Measures.of(job)

    @property
    def noise(self) -> Noise | None:
        """Of the gradients of the last steps; ``None`` without an estimate, or where its errors are not known."""
        scale = self.measures.diagnostics.noise
        mean = scale.mean if scale.count else None
        return None if mean is None or any(map(math.isnan, astuple(mean))) else mean

    @property
    def waiting_share(self) -> float:
        """Part of the last stint's time that workers stood still for their examples."""
        return self._parts.waiting_share

    @property
    def recoveries(self) -> int:
        """How often the run went on after a loss."""
        return self._recoveries

    def stint(self, stint: Stint, order: Order | SegmentedOrder, now: float) -> list[Reading]:
        """Of the steps that were just trained: how fast, on what their time went, and what they were."""
        last = stint.updates[-1].step
        values: dict[str, float] = {
            "throughput/examples_per_second": stint.examples_per_second,
            "throughput/workers": stint.workers,
            **{f"step_time/{part}": each for part, each in self._parts.since(stint.times).items()},
            **_loader(stint),
            **self._aggregation(stint.updates, order),
            **self._mishaps(stint.updates),
        }
        readings = _points(values, last, now)
        for update in stint.updates:
            readings += self._update(update, order, now)
        return readings

    def recovery(self, recovery: Recovery, now: float) -> list[Reading]:
        """Of a run that went on after a loss."""
        self._recoveries += 1
        values = {"recovery/seconds": recovery.seconds, "recovery/count": self._recoveries}
        return _points(values, recovery.step, now)

    def evaluation(
        self,
        empirical: Risk,
        generalization: Risk,
        step: int,
        order: Order | SegmentedOrder,
        training_seconds: float,
        now: float,
    ) -> list[Reading]:
        """Of both risks and their gap after ``step`` updates, and of the time that it took to measure them."""
        at = step - 1
        passes = order.examples_before(order.position(step)) / order.used
        return [
            *_points({"evaluation/passes": passes}, at, now),
            *cost_readings("evaluation", self.measures.evaluating, training_seconds, step - 1, now),
            *risk_readings("empirical_risk", empirical, at, now),
            *risk_readings("generalization_risk", generalization, at, now),
            *gap_readings("Gap", empirical, generalization, at, now),
        ]

    def trajectory(self, distance: float, step: int, now: float) -> list[Reading]:
        """Of the way of the parameters, which are ``distance`` from their start after ``step`` updates."""
        length = max(self.measures.diagnostics.trajectory.length, distance)  # no way is shorter
        return _points({"trajectory/length": length, "trajectory/distance": distance}, step - 1, now)

    def end(self, size: int, noise: Noise | None, step: int) -> list[Reading]:
        """Of a run that stops now, after ``step`` updates, and keeps parameters with this ``noise``.

        Args:
            size: of the minibatches before these parameters.
        """
        now = time.time()
        values = {"stop/minibatch_gradient_norm": self.measures.norms.mean}
        if noise is not None:
            values |= risk_gradient_values("stop/gradient", noise, size)
        return minibatch_readings(self.measures.minibatch.rest(), now) + _points(values, step - 1, now)

    def _update(self, update: Update, order: Order | SegmentedOrder, now: float) -> list[Reading]:
        """The points that an update completes."""
        measures = self.measures
        readings: list[Reading] = []
        if not update.skipped:
            readings += minibatch_readings(measures.minibatch.add(update), now)
            readings += update_readings(measures.diagnostics.add(update), update, now)
            # later passes repeat: their loss is no estimate of the held-out one
            if order.position(update.step).pass_index == 0 and measures.progressive.add(update):
                readings += progressive_readings(measures.progressive, update.step, now)
            if not self._is_online:
                measures.passes.add(update)
            measures.norms.add(update)
        if not self._is_online and order.ends_pass(update.step):
            ended = measures.passes.end()
            readings += risk_readings("progressive_pass", ended, update.step, now)
        return readings

    def _aggregation(self, updates: Sequence[Update], order: Order | SegmentedOrder) -> dict[str, float]:
        """How stale gradients were, and what updates did not wait for so far; where the job has such."""
        measures = self.measures
        values = dict[str, float]()
        if isinstance(self._job.aggregation, Stale):
            values["gradient/staleness"] = sum(update.staleness for update in updates) / len(updates)
        if self._job.backup:
            late = [(step, lane) for update in updates for step, lane in update.late]
            measures.late_lanes += len(late)
            measures.late_examples += sum(
                order.minibatch(order.position(step)).parts[lane].examples for step, lane in late
            )
            values["late/lanes"] = measures.late_lanes
            examples = "unused_examples" if self._is_online else "put_back_examples"
            values[f"late/{examples}"] = measures.late_examples
        return values

    def _mishaps(self, updates: Sequence[Update]) -> dict[str, float]:
        """Minibatches so far that changed nothing; where there were any."""
        measures = self.measures
        values = dict[str, float]()
        if self._job.precision == "fp16":
            measures.overflowed += sum(update.overflowed for update in updates)
            values["gradient/overflowed_minibatches"] = measures.overflowed
            values["gradient/loss_scale"] = updates[-1].loss_scale
        if skipped := sum(update.skipped for update in updates):
            measures.skipped += skipped
            values["gradient/skipped_minibatches"] = measures.skipped
        return values


def _loader(stint: Stint) -> dict[str, float]:
    """Whether reading is the bottleneck, and whether anything was passed over."""
    so_far = stint.loading
    read = stint.read
    return {
        "loader/batches_ahead": stint.times.ahead / stint.workers,
        "loader/waiting_share": min(1.0, read.waited / (stint.seconds * stint.workers)),
        "loader/bytes_per_second": read.bytes_read / stint.seconds,
        "loader/skipped": float(stint.bad_examples),
        "loader/cache_hits": float(so_far.cache_hits),
        "loader/cache_misses": float(so_far.cache_misses),
        "loader/fetched_bytes_per_second": read.bytes_fetched / stint.seconds,
        "loader/retries": float(so_far.retries),
    }


def risk_readings(prefix: str, risk: Risk, step: int, now: float) -> list[Reading]:
    """Mean and standard error of every quantity, as ``prefix/loss``, ``prefix/loss_standard_error``, …"""
    means = {name: (of.mean, of.standard_error) for name, of in risk.quantities.items()}
    return _with_errors(prefix, means, step, now)


def gap_readings(prefix: str, empirical: Risk, generalization: Risk, step: int, now: float) -> list[Reading]:
    """``prefix/loss``, ``prefix/loss_standard_error``, and so for every quantity."""
    held_out: dict[str, Moments] = generalization.quantities
    both = ((name, each) for name, each in empirical.quantities.items() if name in held_out)
    gaps = {name: gap(moments, held_out[name]) for name, moments in both}
    return _with_errors(prefix, {name: (of.value, of.standard_error) for name, of in gaps.items()}, step, now)


def progressive_readings(progressive: Progressive, step: int, now: float) -> list[Reading]:
    """Of the window, fading, and of all so far."""
    fading = {"loss": progressive.fading.loss, "error": progressive.fading.error}
    means = {name: (of.mean, of.standard_error) for name, of in fading.items()}
    middle = step - len(progressive.window.recent) // 2  # a window's mean is of its middle
    return [
        *risk_readings("progressive", progressive.recent, middle, now),
        *_with_errors("progressive_fading", means, middle, now),
        *risk_readings("progressive_total", progressive.total, step, now),
    ]


def cost_readings(name: str, spent: MeasuringTime, training_seconds: float, step: int, now: float) -> list[Reading]:
    """``NAME/seconds`` of the last measurement, and ``NAME/fraction_of_time`` of all."""
    values = {f"{name}/seconds": spent.last, f"{name}/fraction_of_time": spent.fraction_of_time(training_seconds)}
    return _points(values, step, now)


def minibatch_readings(means: StepMeans | None, now: float) -> list[Reading]:
    """Of some steps together, at the last of them."""
    if means is None:
        return []
    values = {
        "minibatch/examples": means.examples,
        "minibatch/loss": means.loss,
        "minibatch/error": means.error,
        "gradient/norm": means.gradient_norm,
        "gradient/clipped_fraction": means.clipped_fraction,
        "gradient/cut": means.cut,
        "learning_rate": means.learning_rate,
    }
    return _points(values, means.step, now)


def update_readings(figures: UpdateFigures | None, update: Update, now: float) -> list[Reading]:
    """Of one update, out of its norms."""
    if figures is None:
        return []
    values: dict[str, float | None] = {}
    for name, layer in figures.layers.items():
        tensor = re.sub(r"[^\w.\- ]", "_", name)  # what MLflow takes
        values[f"layer_gradient_norm/{tensor}"] = layer.gradient_norm
        values[f"layer_update_ratio/{tensor}"] = layer.update_ratio
    values["update/ratio"] = figures.update_ratio
    if figures.noise is not None:
        examples = update.loss.count
        deviation, error = standard_errors(figures.noise, examples)
        scale = figures.noise.scale
        if scale is not None:
            values["gradient/noise_scale"] = scale if math.isfinite(scale) else None
            values["gradient/noise_scale_above"] = figures.noise.scale_above
            values["gradient/inverse_noise_scale"] = figures.noise.inverse_scale
            values["gradient/inverse_noise_scale_standard_error"] = figures.noise.inverse_error
        values |= risk_gradient_values("gradient/risk_gradient", figures.noise, examples)
        values["gradient/standard_deviation"] = deviation
        values["gradient/standard_error"] = error
        for factor, each in efficiencies(figures.noise, examples).items():
            values["minibatch/efficiency" + (f"_x{factor}" if factor > 1 else "")] = each
    shown = {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
    return _points(shown, update.step, now)


def risk_gradient_values(prefix: str, noise: Noise, examples: int) -> dict[str, float]:
    """|G| without the minibatch's noise, its error, and that noise: tr(Σ)/n, in squared norms."""
    norm, error = noise.gradient_norm
    if math.isnan(error):
        return {}
    return {
        f"{prefix}_norm": norm,
        f"{prefix}_norm_standard_error": error,
        f"{prefix}_squared_noise": max(noise.trace, 0.0) / examples,
    }


def _with_errors(prefix: str, means: Mapping[str, tuple[float, float]], step: int, now: float) -> list[Reading]:
    """Each quantity's mean and standard error; where that is not known, as of one example, no point says so."""
    values = {}
    for name, (mean, error) in means.items():
        values[f"{prefix}/{name}"] = mean
        if not math.isnan(error):
            values[f"{prefix}/{name}_standard_error"] = error
    return _points(values, step, now)


def _points(values: Mapping[str, float], step: int, now: float) -> list[Reading]:
    return [Reading(name, value, step, now) for name, value in values.items()]
