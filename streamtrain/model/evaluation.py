"""Risks of examples at a gradient's state, in evaluation mode: a slice in pieces, or several slices at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamtrain.aggregate.moments import counted_from
from streamtrain.job import Job
from streamtrain.job.objective.metric import whole_in
from streamtrain.measure.risk import pooled
from streamtrain.model.gradient import Gradient
from streamtrain.model.objective import Tally, pieces_of, risk_of
from streamtrain.order import evaluation_batches
from streamtrain.stream.reader import FIRST_LOOKED_AT, Reader
from streamtrain.values import Arrays, Moments, Risk, SliceRisk, examples_in

MEASURED, MEASURED_BYTES = 640, 2**30
"""Most examples that are measured at once, and what they may hold, where a lane of training holds less."""


def evaluate(gradient: Gradient, arrays: Arrays, *, by_class: bool = False, most: int | None = None) -> Risk:
    """Loss, error and metrics of a slice's examples; changes nothing.

    Args:
        by_class: with a classifier's counts of each class.
        most: examples that go through the model at once; more do so in turn.

    Raises:
        WrongWeight: of the example.
    """
    if not arrays:
        return Risk(Moments(), Moments())
    gradient.begin_evaluation()
    objective = gradient.objective
    whole = objective.by_class if by_class else objective.whole
    states = whole.begin() if whole else {}
    risks: list[Risk] = []
    used = 0
    # Not inference_mode: what a forward keeps for later (tables of positions) must be fit for a backward.
    with torch.no_grad():
        for piece in pieces_of(arrays, gradient.pack, most):
            batch = gradient.batch(piece)
            output = gradient.output(batch)
            with counted_from(used):
                risks.append(risk_of(objective.measures(output, batch)))
            if whole:
                whole.update(states, *objective.compared_of(output, batch))
            used += risks[-1].loss.count
    risk = risks[0] if len(risks) == 1 else pooled(risks)
    return SliceRisk(risk.loss, risk.error, risk.metrics, states) if whole else risk


@dataclass(frozen=True)
class Joined:
    """Arrays of several slices, one behind the other, and how many examples each has."""

    arrays: Arrays
    sizes: Sequence[int]


def evaluate_batches(
    gradient: Gradient, batches: Iterable[Sequence[Arrays] | Joined], *, by_class: bool = False, most: int | None = None
) -> list[Risk]:
    """Risks of the slices of batches, one batch after another, whose slices go through the model at once.

    One by one where their examples are not alike, and with metrics of whole sets. The bits of a batch's risks are the
    same whatever other batches are there.

    Args:
        by_class, most: as `evaluate` has them; a batch of several slices has no more examples.

    Raises:
        WrongWeight: counted over all of them.
    """
    gradient.begin_evaluation()
    objective = gradient.objective
    singly = bool(by_class or objective.whole or gradient.pack)
    tally = Tally()
    for slices in batches:
        for part in _parts(slices, most, singly=singly):
            if isinstance(part, Joined):
                with torch.no_grad():
                    batch = gradient.batch(part.arrays)
                    tally.add(objective.measures(gradient.output(batch), batch), part.sizes)
            else:
                with counted_from(tally.examples):
                    tally.put(evaluate(gradient, part, by_class=by_class, most=most))
    return tally.risks()


def _parts(slices: Sequence[Arrays] | Joined, most: int | None, *, singly: bool) -> Sequence[Arrays | Joined]:
    """Slices as one, where they can go through the model at once."""
    if isinstance(slices, Joined):
        return [slices]
    if singly:
        return slices
    there = [each for each in slices if each]
    sizes = [examples_in(each) if each else 0 for each in slices]
    forms = {tuple((name, array.shape[1:], array.dtype) for name, array in each.items()) for each in there}
    if len(forms) != 1 or (len(there) == 1 and most is not None and most < sum(sizes)):
        return slices
    if len(there) == 1:
        return [Joined(there[0], sizes)]
    return [Joined({name: np.concatenate([each[name] for each in there]) for name in there[0]}, sizes)]


def bytes_an_example(job: Job, gradient: Gradient, reader: Reader) -> float:
    """What all operators make of one example on its way to its measures, and it; 0 where that is not known.

    More than there is at one time: what is freed before the end counts too. Nothing is looked at where
    `measured_at_once` needs no such number.

    Args:
        gradient: on the CPU. reader: a new one, of which the first good example is taken.
    """
    if job.loss_group is not None or job.micro_batch is not None:
        return 0.0
    try:
        reader.expect([(0, min(FIRST_LOOKED_AT, len(reader)))])
        arrays = reader.first_good()
        gradient.begin_evaluation()
        with torch.no_grad(), _Made() as made:
            batch = gradient.batch(arrays)
            gradient.objective.measures(gradient.output(batch), batch)
    except Exception:  # of one example alone; whatever fails with several is told by who trains or measures
        return 0.0
    return float(made.bytes + sum(array.nbytes for array in arrays.values()))


class _Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of what operators make in its context, but for views and what is written in place."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to skip it torch imports it, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        made = func(*args, **(kwargs or {}))
        given = {_place(each) for each in tree_leaves((args, kwargs))}
        self.bytes += sum(each.nbytes for each in tree_leaves(made) if _place(each) not in {None, *given})
        return made


def _place(value: object) -> int | None:
    """Where a tensor's memory begins; of anything else there is none."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        return value.untyped_storage().data_ptr()
    return None


def measured_at_once(job: Job, example_bytes: float) -> int | None:
    """Most examples that a measurement has in the model at once: ``micro_batch``, or as many as should fit.

    As many as a lane trains on do. A power of two, so that no small difference of two machines shows in it. ``None``
    where a loss is over whole minibatches, which are measured whole.

    Args:
        example_bytes: as `bytes_an_example` gives them.
    """
    if job.loss_group is not None:
        return None
    if job.micro_batch is not None:
        return job.micro_batch
    fit = int(MEASURED_BYTES / example_bytes) if example_bytes else 0
    return min(MEASURED, max(-(-job.first_batch_size // job.lane_count), 1 << fit.bit_length() >> 1))


def measured_together(
    job: Job, example_bytes: float, slices: Sequence[tuple[int, int]], *, whole: bool = False
) -> list[Sequence[tuple[int, int]]]:
    """Slices of a measurement, those together that go through the model at once, whoever measures them.

    Args:
        whole: with metrics of whole sets beside the job's own: each slice has copies of those.
    """
    # with `until` slices are asked for in rounds, which nobody knows who measures the same parameters later
    apart = whole or whole_in(job.metrics) or job.data.collate or job.data.pack or job.evaluate.until
    return evaluation_batches(slices, 0 if apart else measured_at_once(job, example_bytes) or 0)
