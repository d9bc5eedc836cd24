"""Who measures risks: a worker at its own state, or a process beside the workers at parameters that it is given.

`Measurer` is a plain class, made an actor in `actors.spare`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from streamtrain.aggregate.moments import WrongWeight
from streamtrain.errors import TrainingError
from streamtrain.model.evaluation import Joined, evaluate_batches, measured_at_once, measured_together
from streamtrain.model.gradient import Gradient
from streamtrain.model.machine.device import prepare_process
from streamtrain.model.machine.fingerprint import take_fingerprint
from streamtrain.model.whole_minibatch import make_gradient
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.processes.audit import private_lane
from streamtrain.run.fleet.processes.supply import Supply
from streamtrain.stream.reader import Reader
from streamtrain.values import Arrays, Fingerprint, Risk, Selection, Skip, examples_in

SPARSE = 4
"""Shards behind a URL are fetched in parts where an evaluation uses less than one example in so many."""
TALLIED = 32
"""Batches whose numbers are looked at together."""


def measure_slices(
    plan: Plan,
    gradient: Gradient,
    supply: Supply,
    split: str,
    batches: Sequence[Sequence[tuple[int, int]]],
    *,
    by_class: bool,
    workers: int,
) -> list[list[Risk]]:
    """Risk on each ``(start, stop)`` of a split, by `Plan.select`'s numbers, at the state that is loaded.

    Args:
        batches: of `measured_together`.
        by_class: with a classifier's counts of each class.
        workers: who share the split's batches, of which these are one share.
    """
    reader = supply.reader(split)
    slices = [each for batch in batches for each in batch]
    chosen = [[plan.select(split, *each) for each in batch] for batch in batches]
    apart = any(each.numbers is not None for batch in chosen for each in batch)  # singly: whole shards are read
    if not apart and SPARSE * workers * sum(stop - start for start, stop in slices) < len(reader):
        reader.expect(slices)
    most = measured_at_once(plan.job, plan.example_bytes)
    alike = not (by_class or gradient.objective.whole or reader.loose or plan.job.data.map or plan.job.data.collate)
    risks: list[list[Risk]] = []
    for first in range(0, len(chosen), TALLIED):
        several = chosen[first : first + TALLIED]
        read = (read_batch(reader, batch, alike=alike) for batch in several)
        try:
            found = iter(evaluate_batches(gradient, read, by_class=by_class, most=most))
        except WrongWeight as error:
            numbers = np.concatenate([each.each() for batch in several for each in batch])
            raise supply.name_weights(error, -1, split, numbers) from None
        risks += [[next(found) for _ in batch] for batch in several]
    return risks


def read_batch(reader: Reader, batch: Sequence[Selection], *, alike: bool) -> Sequence[Arrays] | Joined:
    """Each slice's examples; those of neighbours by one call, where all examples are ``alike`` and none is bad."""
    runs = [each.runs[0] for each in batch if len(each.runs) == 1]
    neighbours = all(one[1] == other[0] for one, other in itertools.pairwise(runs))
    if alike and neighbours and len(runs) == len(batch) > 1:
        sizes = [stop - start for start, stop in runs]
        arrays = reader.read(runs[0][0], runs[-1][1])
        if examples_in(arrays) == sum(sizes):
            return Joined(arrays, sizes)
    return [reader.select(each) for each in batch]


def measure_alone(
    plan: Plan,
    evaluate: Callable[..., list[list[Risk]]],
    split: str,
    slices: Sequence[tuple[int, int]],
    *,
    by_class: bool,
) -> list[Risk]:
    """Risk on each slice by one process.

    Args:
        evaluate: its, of a `Worker` or a `Measurer`.
    """
    batches = measured_together(plan.job, plan.example_bytes, slices, whole=by_class)
    return [*itertools.chain(*evaluate(split, batches, by_class=by_class))]


class Measurer:
    """Measures at parameters that it is given; trains nothing.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        prepare_process(plan.job)
        self._plan = plan
        self._gradient = make_gradient(plan.job)
        self._supply = Supply(plan)
        self._state = private_lane(self._gradient, plan).states[0]

    def fingerprint(self) -> Fingerprint:
        """What chooses the kernels of this process."""
        return take_fingerprint(self._plan.job)

    def extend(self, plan: Plan) -> None:
        """Goes on with a data set that has grown, or other batch sizes."""
        self._plan = plan
        self._supply.extend(plan)

    def load(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Measures at this state dict of the model from here on.

        Raises:
            TrainingError: a frozen parameter is another one here than where the parameters come from.
        """
        for name, mine in self._gradient.model.named_parameters():
            if not mine.requires_grad and not torch.equal(mine.cpu(), parameters[name]):
                raise TrainingError(f"{name}, a frozen parameter, is not the same in the process that measures beside")
        self._gradient.write(self._state, parameters)
        self._gradient.forget()
        self._gradient.load(self._state)

    def evaluate(
        self, split: str, batches: Sequence[Sequence[tuple[int, int]]], *, by_class: bool = False
    ) -> list[list[Risk]]:
        """Risk on each slice, as `measure_slices` gives it."""
        return measure_slices(self._plan, self._gradient, self._supply, split, batches, by_class=by_class, workers=1)

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over here, by split and number in the stored order."""
        return self._supply.skipped()
