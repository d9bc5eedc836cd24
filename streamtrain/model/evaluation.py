"""Risks of examples at a gradient's state, in evaluation mode: a slice in pieces, or several slices at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from streamtrain.aggregate.moments import counted_from
from streamtrain.job import Job
from streamtrain.job.objective.metric import whole_in
from streamtrain.measure.risk import pooled
from streamtrain.model.gradient import Gradient, bytes_of
from streamtrain.model.lanes_together import count_kept
from streamtrain.model.objective import pieces_of, risk_of, risks_of
from streamtrain.order import evaluation_batches
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


def evaluate_together(gradient: Gradient, slices: Sequence[Arrays]) -> list[Risk]:
    """Risks of slices that go through the model at once, where their examples are alike; one by one where not.

    Metrics of whole sets are not among them.

    Raises:
        WrongWeight: counted over all of them.
    """
    there = [each for each in slices if each]
    sizes = [examples_in(each) for each in there]
    risks: list[Risk] = []
    if len({tuple((name, array.shape[1:], array.dtype) for name, array in each.items()) for each in there}) == 1:
        gradient.begin_evaluation()
        with torch.no_grad():
            batch = gradient.batch({name: np.concatenate([each[name] for each in there]) for name in there[0]})
            risks = risks_of(gradient.objective.measures(gradient.output(batch), batch), sizes)
    else:
        for start, each in zip(itertools.accumulate([0, *sizes]), there, strict=False):
            with counted_from(start):
                risks.append(evaluate(gradient, each))
    found = iter(risks)
    return [next(found) if each else Risk(Moments(), Moments()) for each in slices]


def bytes_an_example(gradient: Gradient, arrays: Arrays) -> float:
    """What a forward in evaluation mode keeps of each of these for a backward, and they; 0 if nobody can count it.

    Without a backward it is less; how much less, only the model knows.
    """
    gradient.begin_evaluation()
    batch = gradient.batch(arrays)
    found = count_kept(gradient.model, lambda: gradient.output(batch))
    return 0.0 if found is None else (found[1] + bytes_of(batch)) / examples_in(batch)


def measured_at_once(job: Job, example_bytes: float) -> int | None:
    """Most examples that a measurement has in the model at once: ``micro_batch``, or as many as are sure to fit.

    As many as a lane trains on do. A power of two, so that no small difference of two machines shows in it. ``None``
    where a loss is over whole minibatches, which are measured whole.

    Args:
        example_bytes: what the model keeps of one, 0 where that is not known.
    """
    if job.loss_group is not None:
        return None
    if job.micro_batch is not None or not example_bytes:
        return job.micro_batch or MEASURED
    fit = max(1, int(MEASURED_BYTES / example_bytes))
    return min(MEASURED, max(-(-job.first_batch_size // job.lane_count), 1 << fit.bit_length() - 1))


def measured_together(
    job: Job, example_bytes: float, slices: Sequence[tuple[int, int]], *, whole: bool = False
) -> list[Sequence[tuple[int, int]]]:
    """Slices of a measurement, those together that go through the model at once, whoever measures them.

    Args:
        whole: with metrics of whole sets beside the job's own: each slice has copies of those.
    """
    apart = whole or whole_in(job.metrics) or job.data.collate or job.data.pack
    return evaluation_batches(slices, 0 if apart else measured_at_once(job, example_bytes) or 0)
