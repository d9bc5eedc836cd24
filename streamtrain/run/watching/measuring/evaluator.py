"""Both risks of a run at one place on its way: out of what whoever measures gives of slices of examples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from streamtrain.job import functions_in
from streamtrain.measure.gap import PartRisks, Parts
from streamtrain.measure.risk import pooled
from streamtrain.measure.run_curves import risk_readings
from streamtrain.model.objective import CLASSES, ByClass, Computed, Table, WholeSet
from streamtrain.order import lane_seed
from streamtrain.prepare.plan import Plan
from streamtrain.run.checkpoints.point import Point
from streamtrain.run.fleet.protocol import Measures
from streamtrain.run.outcome.result import Evaluation
from streamtrain.run.watching.measuring.looked_at import by_part, population, slices_by_part, slices_of
from streamtrain.values import Lane, Reading, Risk

LEAST_EXAMPLES, LEAST_SLICES = 500, 8
"""That are looked at before it is asked whether they are enough."""


def other_readings(evaluation: Evaluation, now: float) -> list[Reading]:
    """Points of the held-out sets beside the validation split."""
    return [
        each
        for name, risk in evaluation.others.items()
        for each in risk_readings(f"generalization_risk_{name}", risk, evaluation.step - 1, now)
    ]


def _at_random(plan: Plan, slices: Sequence[tuple[int, int]]) -> list[int]:
    """Places of these slices in an order that is drawn from the seed alone."""
    return sorted(range(len(slices)), key=lambda place: (lane_seed(plan.job.seed, place, len(slices)), place))


def _first(sizes: Sequence[int], places: Sequence[int]) -> int:
    """Of slices in this order so many that their spread says something."""
    examples = 0
    for count, place in enumerate(places, 1):
        examples += sizes[place]
        if examples >= LEAST_EXAMPLES and count >= LEAST_SLICES:
            return count
    return len(places)


def _enough(count: int, error: float, until: float) -> int:
    """Slices after which the standard error will be small enough, if it falls as that of a mean; at most twice."""
    times = (error / until) ** 2
    return 2 * count if not times < 2 else math.ceil(count * times)


def _order(plan: Plan, split: str) -> Literal["uniform", "unknown"]:
    """Of a set, for standard errors."""
    # losses of one group tell about one another, as neighbours of unknown order do: their spread shows how much
    return plan.held_out_set(split).manifest.order if plan.job.loss_group is None else "unknown"


def _named(plan: Plan, by_class: ByClass) -> ByClass:
    """With the data set's names of classes, where labels are the stored ones: names of others would be wrong.

    The trial has compared some; a rare class that `map` changes shows by how many examples each class has.
    """
    target = plan.manifest.field_named(str(plan.job.data.target))
    stored = plan.manifest.splits["validation"].class_counts
    found = {number: error.count for number, error in by_class.errors.items()}
    more = any(count > stored.get(number, 0) for number, count in found.items())
    counted = target is not None and target.name == plan.manifest.label
    if target is None or not target.classes or not plan.labels_as_stored or (counted and more):
        return by_class
    return replace(by_class, names=target.classes)


class Evaluator:
    """Measures risks.

    Args:
        fleet: who does it, at the parameters that they have.
        say: takes a line about a metric that failed, the first time.
    """

    def __init__(self, fleet: Measures, say: Callable[[str], None] = lambda _: None) -> None:
        self.fleet = fleet
        self._say = say
        self._failed: set[str] = set()

    def measure(self, plan: Plan, point: Point) -> Evaluation:
        """Both risks: on the validation split or a part of it, and on as many of the used training examples.

        The part is the same in all measurements of a run, so that they can be paired; with `Evaluate.until` it is as
        long as it takes.
        """
        parts, wanted = self._held_out(plan, "validation", whole=point.last)
        same = parts  # as in all other measurements
        if point.last and plan.held_out() < plan.held_out(whole=True):
            same = self._held_out(plan, "validation")[0]
        used = point.lanes
        drawn = lane_seed(plan.job.seed, point.step, 0)
        slices = slices_of(plan, "train", used, wanted, drawn, grouped=plan.job.loss_group is not None)
        training = self.fleet.evaluate("train", slices)
        empirical = self._pooled(plan, training, "train").out_of(population(plan, used, wanted))
        return Evaluation(
            step=point.step,
            examples_used=point.examples_used,
            empirical=empirical,
            generalization=self._pooled(plan, parts, "validation"),
            passes=point.passes,
            progressive=point.progressive,
            held_out=Parts.of(same, functions_in(plan.job.metrics)),
            noise=point.noise,
            others={
                name: self._pooled(plan, self._held_out(plan, name, whole=point.last)[0], name) for name in plan.others
            },
            of_parts=self._part_risks(plan, point, drawn, training, parts) if plan.sources else (),
        )

    def _part_risks(
        self, plan: Plan, point: Point, drawn: int, training: Sequence[Risk], held_out: Sequence[Risk]
    ) -> tuple[PartRisks, ...]:
        """Both risks on each data set of a mixture, out of the slices that `measure` looks at.

        Args:
            drawn: as in `measure`. training, held_out: slice by slice, of both.
        """
        there = [Lane(0, 0, plan.manifest.splits["validation"].examples)]
        used, wanted = point.lanes, plan.held_out(whole=point.last)
        of_training = by_part(training, slices_by_part(plan, "train", used, wanted, drawn))
        of_held_out = by_part(held_out, slices_by_part(plan, "validation", there, wanted, plan.job.seed))
        sizes = (sum(each.stop - each.start for each in own) for own, _ in plan.by_share("train", used, wanted))
        return tuple(
            PartRisks(name, self._pooled(plan, mine, "train").out_of(size), self._pooled(plan, its, "validation"))
            for name, mine, its, size in zip(plan.part_names, of_training, of_held_out, sizes, strict=True)
            if mine and its  # of a small share there may be none yet
        )

    def measure_test(self, plan: Plan) -> tuple[Risk | None, dict[str, Risk]]:
        """The risk on the test split, of a mixture as much of each data set as its share says; and on each by itself.

        ``None`` and nothing where there are no test examples.
        """
        found = plan.manifest.splits.get("test")
        if found is None or not found.examples:
            return None, {}
        there = [Lane(0, 0, found.examples)]
        slices = slices_by_part(plan, "test", there, found.examples, plan.job.seed)
        risks = self.fleet.evaluate("test", [*itertools.chain(*slices)])
        own = zip(plan.part_names, by_part(risks, slices), strict=True) if plan.sources else ()
        return self._pooled(plan, risks, "test"), {name: self._pooled(plan, its, "test") for name, its in own if its}

    def by_class(self, plan: Plan, *, whole: bool = False) -> tuple[ByClass | None, dict[str, Table]]:
        """What no curve shows of the held-out examples that `measure` takes: a classifier's errors, and arrays.

        Args:
            whole: of those that the last measurement of a run takes.
        """
        of_set = WholeSet.of(plan.job, by_class=True)
        found = Computed()
        if of_set:
            found = of_set.compute(self._held_out(plan, "validation", by_class=True, whole=whole)[0])
        self._tell(found)
        pairs = found.tables.pop(CLASSES, None)
        return None if pairs is None else _named(plan, ByClass(pairs.astype(np.int64))), found.tables

    def _tell(self, computed: Computed) -> None:
        for name, why in computed.failures.items():
            if name not in self._failed:
                self._failed.add(name)
                self._say(f"{why}; its value is NaN")

    def _held_out(
        self, plan: Plan, split: str, *, by_class: bool = False, whole: bool = False
    ) -> tuple[list[Risk], int]:
        """Of a held-out set, slice by slice in the stored order; and of how many examples these are."""
        slices = self._slices(plan, split, plan.held_out(split, whole=whole))
        until = plan.job.evaluate.until
        left = list(range(len(slices))) if until is None else _at_random(plan, slices)
        sizes = [stop - start for start, stop in slices]
        count = len(left) if until is None else _first(sizes, left)
        taken: dict[int, Risk] = {}
        while True:
            new = left[len(taken) : count]
            found = self.fleet.evaluate(split, [slices[place] for place in new], by_class=by_class)
            taken |= zip(new, found, strict=True)
            risks = [taken[place] for place in sorted(taken)]
            if until is None or count == len(left):
                return risks, sum(sizes[place] for place in taken)
            error = pooled(risks, _order(plan, split)).error.standard_error
            if error <= until:
                return risks, sum(sizes[place] for place in taken)
            count = min(len(left), max(count + 1, _enough(count, error, until)))

    def _slices(self, plan: Plan, split: str, wanted: int) -> list[tuple[int, int]]:
        held_out = plan.held_out_set(split)
        examples = held_out.manifest.splits[held_out.split].examples
        grouped = plan.job.loss_group is not None and wanted < examples
        return slices_of(plan, split, [Lane(0, 0, examples)], wanted, plan.job.seed, grouped=grouped)

    def _pooled(self, plan: Plan, slices: Sequence[Risk], split: str) -> Risk:
        risk = pooled(slices, _order(plan, split), functions_in(plan.job.metrics))
        whole = WholeSet.of(plan.job).compute(slices)
        self._tell(whole)
        return whole.beside(risk)
