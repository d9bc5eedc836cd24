"""How far a run is, and what was measured on the way: all of a controller that outlives its process.

What a checkpoint holds beside tensors and settings is the fields of `Progress`, and of what they hold: each declares
its own (`streamtrain.stored`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from streamtrain.job import Epochs, Job, Online
from streamtrain.measure.diagnostics.noise_scale import Noise
from streamtrain.measure.early_stopping import EarlyStopping
from streamtrain.measure.run_curves import Measures
from streamtrain.order import Unused
from streamtrain.run.checkpoints.point import Point
from streamtrain.run.outcome.result import Evaluation, Result
from streamtrain.run.watching.growing import Growth
from streamtrain.stored import Stored
from streamtrain.values import Fingerprint, Lane, LanePart, Risk, Skip, Update

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from streamtrain.prepare.plan import Plan


@dataclass
class Progress(Stored):
    """Where a controller is, and what it would decide by.

    Attributes:
        measures: what the curves remember.
        stopping: whether many passes stop early.
        step: updates in the state. seconds: spent on them; spent: with all else that the run did until then.
        more_passes: than the job gives, which the run was given when it went on.
        patience_from: evaluations that are no part of patience any more, though the best may be one of them.
        ended: why a listener has ended the run, where one has; all else that ends a run shows again when it goes on.
        used: examples in them, each use counted; without those of minibatches that were passed over.
        since: step from which the present part of the data is trained on; 0 unless it grows.
        bad: examples that were passed over, by split and stored number.
        unused: training examples that were offered and are in no update.
        growth: of a batch that follows the gradient's noise.
        fingerprint: of the workers that the run began with.
        evaluations, best: so far; ``best`` has the parameters that many passes would return.
        outstanding: what is being measured beside training, or was, and nothing is decided by it yet.
    """

    measures: Measures
    stopping: EarlyStopping
    step: int = 0
    since: int = 0
    used: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    more_passes: int = 0
    patience_from: int = 0
    ended: str | None = None
    bad: dict[tuple[str, int], Skip] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None
    outstanding: Point | None = None
    fingerprint: Fingerprint | None = None
    unused: Unused = field(default_factory=Unused)
    growth: Growth = field(default_factory=Growth)

    @property
    def left_out(self) -> dict[int, Skip]:
        """Training examples that were passed over, by stored number: who goes on need not look at them again."""
        return {number: skip for (split, number), skip in self.bad.items() if split == "train"}

    @classmethod
    def of(cls, job: Job) -> Progress:
        """Of a run that has not begun."""
        mode = job.mode
        if isinstance(mode, Online):
            stopping = EarlyStopping(1)
        else:
            stopping = EarlyStopping(mode.patience_examples or mode.patience, mode.min_delta)
        return cls(Measures.of(job), stopping)

    def under(self, job: Job) -> Progress:
        """The same in a run that goes on with settings that may have changed: the job's hold from here on."""
        self.measures.follow(job)
        mode = job.mode
        stopping = self.stopping
        decided = self.evaluations[:-1] if self.is_told else self.evaluations  # the last may be the best yet
        if isinstance(mode, Epochs) and decided:
            best = self.best
            last = decided[-1]  # patience may be counted in another unit than before
            best_at = _place(best, mode) if best is not None and stopping.best_at else 0
            if self.patience_from:
                best_at = max(best_at, _place(self.evaluations[self.patience_from - 1], mode))
            stopping = replace(stopping, best_at=best_at, at=_place(last, mode))
        if isinstance(mode, Epochs):
            patience = mode.patience_examples or mode.patience
            stopping = replace(stopping, patience=patience, min_delta=mode.min_delta)
        self.stopping = stopping
        return self

    def note_use(self, updates: Sequence[Update], plan: Plan) -> None:
        """Takes note of how many examples these updates took, the last so far, and which were offered and not taken."""
        order = plan.order
        online = isinstance(plan.job.mode, Online)
        for update in updates:
            self.used += 0 if update.skipped else update.loss.count
            position = order.position(update.step)
            parts: list[LanePart] = list(order.minibatch(position).parts) if update.skipped else []
            if online:  # elsewhere what is late is used later in the pass
                parts += [order.minibatch(order.position(step)).parts[lane] for step, lane in update.late]
            for part in parts:
                if part.examples:
                    self.unused.add(plan.pass_orders.stored(position.pass_index, part.start, part.stop))
            # where parts have shares, a pass does not offer every example: one that was passed over counts as unused
            if not online and plan.parts is None and order.ends_pass(update.step):
                self.unused.end_pass()

    def used_examples(self, plan: Plan) -> tuple[Lane, ...]:
        """The training examples that are in some update, as runs by `Plan.select`'s numbers."""
        return plan.used_before(self.step, [*self.unused.runs, *((number, number + 1) for number in self.left_out)])

    @property
    def is_told(self) -> bool:
        """Whether what is outstanding was measured, and only not decided by."""
        made = self.evaluations
        return self.outstanding is not None and bool(made) and made[-1].step == self.outstanding.step

    def lies_ahead(self, examples: int, plan: Plan) -> bool:
        """Whether the place where so many are used is still to come, or is here and waits for what is outstanding."""
        at = plan.order.step_reaching(examples)
        waits = self.outstanding is not None and self.outstanding.step < at == self.step
        return at > self.step or waits

    def point(self, plan: Plan, noise: Noise | None, *, last: bool = False) -> Point:
        """Where the run is now, to be measured.

        Args:
            noise: of the gradients of the last steps. last: whether a run in one pass ends here.
        """
        order = plan.order
        return Point(
            last=last,
            step=self.step,
            examples_used=self.used,
            passes=order.examples_before(order.position(self.step)) / order.used,
            used=tuple((each.index, each.start, each.stop) for each in self.used_examples(plan)),
            progressive=self.measures.progressive.recent if self.step <= order.steps else None,
            noise=noise,
        )

    def result(
        self,
        plan: Plan,
        reason: str,
        chosen: Evaluation,
        test: Risk | None,
        parameters: dict[str, torch.Tensor],
        folder: Path,
    ) -> Result:
        """Of the run, which has ended with ``reason`` and keeps these parameters, measured in ``chosen``."""
        online = isinstance(plan.job.mode, Online)
        order = plan.order
        return Result(
            mode="online" if online else "epochs",
            stop_reason=reason,
            passes=order.position(self.step - 1).pass_index + 1,
            examples_used=self.used,  # may be more than at the last measurement, where that was made beside
            examples_unused=self.measures.late_examples if online else 0,
            examples_per_second=self.used / self.seconds,
            evaluations=tuple(self.evaluations),
            chosen=chosen,
            gradient_norm_at_stop=self.measures.norms.mean,
            test=test,
            progressive=self.measures.progressive.total,
            progressive_passes=tuple(self.measures.passes.whole),
            parameters=parameters,
            folder=folder,
            error_unit=plan.job.unit_of_error,
            batch_sizes=((0, order.batch_size), *order.later),
            steps=self.step,
            measuring=self.measures.evaluating.fraction_of_time(self.seconds),
            by_length=plan.job.data.by_length,
            chosen_by="error" if isinstance(plan.job.mode, Online) else plan.job.mode.stop_on,
        )


def _place(evaluation: Evaluation, mode: Epochs) -> float:
    """Where a measurement was made, as patience counts."""
    return evaluation.passes if mode.patience_examples is None else evaluation.examples_used
