"""Both risks of a run at its current parameters: which examples are looked at, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamtrain.job import functions_in
from streamtrain.measure.diagnostics.noise_scale import Noise
from streamtrain.measure.gap import Parts
from streamtrain.measure.risk import pooled
from streamtrain.model.objective import CLASSES, ByClass, Computed, Table, WholeSet
from streamtrain.order import evaluation_slice, evaluation_slices, lane_seed
from streamtrain.prepare.plan import Plan
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.fleet.protocol import Fleet
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import Lane, Risk


def slices_of(
    plan: Plan, split: str, ranges: Sequence[Lane], wanted: int, seed: int, *, grouped: bool = False
) -> list[tuple[int, int]]:
    """Which of these examples are looked at, as `evaluation_slices` gives them; of a mixture, part after part.

    Args:
        grouped: only slices of a whole loss's examples.
    """
    return [
        each
        for own, count in plan.by_share(split, ranges, wanted)
        for each in evaluation_slices(own, count, evaluation_slice(count, plan.job.loss_group), seed, whole=grouped)
    ]


def _population(plan: Plan, ranges: Sequence[Lane], wanted: int) -> int:
    """How many examples those that are looked at were drawn from; of a mixture by the part of which most are left."""
    shares = plan.by_share("train", ranges, wanted)
    sizes = [sum(each.stop - each.start for each in own) for own, _ in shares]
    counted = sum(count for _, count in shares)
    return max(
        (-(-counted * size // count) for size, (_, count) in zip(sizes, shares, strict=True) if count), default=0
    )


class Evaluator:
    """Measures risks at the fleet's current parameters.

    Args:
        say: takes a line about a metric that failed, the first time.
    """

    def __init__(self, fleet: Fleet, say: Callable[[str], None] = lambda _: None) -> None:
        self._fleet = fleet
        self._say = say
        self._failed: set[str] = set()

    def measure(self, plan: Plan, progress: Progress, noise: Noise | None) -> Evaluation:
        """Both risks: on the validation split or a part of it, and on as many of the used training examples.

        The part is the same in all measurements of a run, so that they can be paired.

        Args:
            noise: of the gradients, which goes into the evaluation.
        """
        order = plan.order
        wanted = plan.held_out
        used = progress.used_examples(plan)
        drawn = lane_seed(plan.job.seed, progress.step, 0)
        slices = slices_of(plan, "train", used, wanted, drawn, grouped=plan.job.loss_group is not None)
        population = _population(plan, used, wanted)
        empirical = self._pooled(plan, self._fleet.evaluate("train", slices)).out_of(population)
        parts = self._risks(plan, "validation", wanted)
        measures = progress.measures
        return Evaluation(
            step=progress.step,
            examples_used=progress.used,
            empirical=empirical,
            generalization=self._pooled(plan, parts),
            passes=order.examples_before(order.position(progress.step)) / order.used,
            progressive=measures.progressive.recent if progress.step <= order.steps else None,
            held_out=Parts.of(parts, functions_in(plan.job.metrics)),
            noise=noise,
        )

    def measure_all(self, plan: Plan, split: str) -> Risk | None:
        """The risk on all examples of a split; ``None`` where there are none."""
        found = plan.manifest.splits.get(split)
        return self._pooled(plan, self._risks(plan, split, found.examples)) if found and found.examples else None

    def by_class(self, plan: Plan) -> tuple[ByClass | None, dict[str, Table]]:
        """What no curve shows of the held-out examples that `measure` takes: a classifier's errors, and arrays."""
        whole = WholeSet.of(plan.job, by_class=True)
        found = whole.compute(self._risks(plan, "validation", plan.held_out, by_class=True)) if whole else Computed()
        self._tell(found)
        pairs = found.tables.pop(CLASSES, None)
        target = plan.manifest.field_named(str(plan.job.data.target))
        names = (target.classes if target is not None else None) or ()
        return None if pairs is None else ByClass(pairs.astype(np.int64), names), found.tables

    def _tell(self, computed: Computed) -> None:
        for name, why in computed.failures.items():
            if name not in self._failed:
                self._failed.add(name)
                self._say(f"{why}; its value is NaN")

    def _risks(self, plan: Plan, split: str, wanted: int, *, by_class: bool = False) -> list[Risk]:
        """Slice by slice."""
        examples = plan.manifest.splits[split].examples
        grouped = plan.job.loss_group is not None and wanted < examples
        slices = slices_of(plan, split, [Lane(0, 0, examples)], wanted, plan.job.seed, grouped=grouped)
        return self._fleet.evaluate(split, slices, by_class=by_class)

    def _pooled(self, plan: Plan, slices: Sequence[Risk]) -> Risk:
        # losses of one group tell about one another, as neighbours of unknown order do: their spread shows how much
        order = plan.manifest.order if plan.job.loss_group is None else "unknown"
        risk = pooled(slices, order, functions_in(plan.job.metrics))
        whole = WholeSet.of(plan.job).compute(slices)
        self._tell(whole)
        return whole.beside(risk)
