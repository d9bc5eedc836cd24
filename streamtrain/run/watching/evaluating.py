"""Both risks of a run at its current parameters: which examples are looked at, and what they give."""

from __future__ import annotations

from collections.abc import Sequence

from streamtrain.job import functions_in
from streamtrain.measure.diagnostics.noise_scale import Noise
from streamtrain.measure.gap import Parts
from streamtrain.measure.risk import pooled
from streamtrain.order import evaluation_slice, evaluation_slices, lane_seed
from streamtrain.prepare.plan import Plan
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.fleet.protocol import Fleet
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import Lane, Risk


class Evaluator:
    """Measures risks at the fleet's current parameters."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def measure(self, plan: Plan, progress: Progress, noise: Noise | None) -> Evaluation:
        """Both risks: on the validation split or a part of it, and on as many of the used training examples.

        The part is the same in all measurements of a run, so that they can be paired.

        Args:
            noise: of the gradients, which goes into the evaluation.
        """
        order = plan.order
        wanted = self._held_out(plan)
        used = progress.used_examples(plan)
        drawn = lane_seed(plan.job.seed, progress.step, 0)
        grouped = plan.job.loss_group is not None
        slices = evaluation_slices(used, wanted, self._slice(plan, wanted), drawn, whole=grouped)
        population = sum(each.stop - each.start for each in used)
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

    def _held_out(self, plan: Plan) -> int:
        examples = plan.manifest.splits["validation"].examples
        return min(examples, plan.job.evaluate.examples or examples)

    def _risks(self, plan: Plan, split: str, wanted: int) -> list[Risk]:
        """Slice by slice."""
        examples = plan.manifest.splits[split].examples
        grouped = plan.job.loss_group is not None and wanted < examples
        size = self._slice(plan, wanted)
        slices = evaluation_slices([Lane(0, 0, examples)], wanted, size, plan.job.seed, whole=grouped)
        return self._fleet.evaluate(split, slices)

    def _slice(self, plan: Plan, examples: int) -> int:
        return evaluation_slice(examples, plan.job.loss_group)

    def _pooled(self, plan: Plan, slices: Sequence[Risk]) -> Risk:
        # losses of one group tell about one another, as neighbours of unknown order do: their spread shows how much
        order = plan.manifest.order if plan.job.loss_group is None else "unknown"
        return pooled(slices, order, functions_in(plan.job.metrics))
