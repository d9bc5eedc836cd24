"""Errors of risks and gaps: of held-out examples, and of a part or all of the training examples, out of so many."""

from __future__ import annotations

import numpy as np

from streamtrain.measure.gap import gap, paired
from streamtrain.measure.risk import pooled
from streamtrain.order import Order, evaluation_slice, evaluation_slices
from streamtrain.values import Lane, Moments, Risk
from tests.coverage.simulation import Row, interval

DRAWN = 0.7
"""Held-out losses are exponential with mean 1; training losses lie so far below them at the pass's end."""


def training(examples: int, lanes: int, step_share: float, wanted: int, repetitions: int) -> list[Row]:
    """A training loss that depends on the place in the pass: low where parameters have just been, out of those used."""
    order = Order(examples, lanes, 8 * lanes)
    step = round(order.steps * step_share)
    used = order.used_before(step)
    place = np.concatenate([np.linspace(0, 1, r.stop - r.start) for r in used])
    number = np.concatenate([np.arange(r.start, r.stop) for r in used])
    truths, risks, gaps = [], [], []
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        losses = np.zeros(examples)
        losses[number] = (1 - DRAWN * place**4) * generator.exponential(size=len(number))
        slices = evaluation_slices(used, wanted, 500, seed)
        looked_at = Moments.of(np.concatenate([losses[start:stop] for start, stop in slices]))
        empirical = Risk(looked_at, looked_at).out_of(len(number)).loss
        held_out = Moments.of(generator.exponential(size=wanted))
        between = gap(empirical, held_out)
        truths.append(losses[number].mean())
        risks.append((empirical.mean, empirical.standard_error))
        gaps.append((between.value, between.standard_error))
    which = f"{wanted:,} of {len(number):,} used"
    right, why = np.array(truths), "every part of the pass alike is a little better than independent draws"
    return [
        interval(f"empirical risk, {which}", right, *np.array(risks).T, or_more=why),
        interval(f"gap, {which}", 1 - right, *np.array(gaps).T, or_more=why),
    ]


def held_out(examples: int, repetitions: int) -> Row:
    """s/√n, of a skewed loss."""
    generator = np.random.default_rng(examples)
    found = [Moments.of(generator.exponential(size=examples)) for _ in range(repetitions)]
    values = np.array([(each.mean, each.standard_error) for each in found])
    return interval(f"generalization risk, {examples:,} held out", 1.0, *values.T)


def films(examples: int, frames: int, repetitions: int) -> list[Row]:
    """Of shards in an unknown order: neighbours are frames of one film, which half of the variance is of."""
    held_out_risk, sampled, truths = [], [], []
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        count = examples // frames
        losses = (generator.normal(size=(count, 1)) + generator.normal(size=(count, frames))).ravel()
        whole = evaluation_slices([Lane(0, 0, examples)], examples, evaluation_slice(examples))
        part = evaluation_slices([Lane(0, 0, examples)], examples // 10, evaluation_slice(examples // 10), seed)
        risks = [
            pooled([Risk(Moments.of(losses[a:b]), Moments.of(losses[a:b])) for a, b in slices], "unknown")
            for slices in (whole, part)
        ]
        held_out_risk.append((risks[0].loss.mean, risks[0].loss.standard_error))
        drawn = risks[1].out_of(examples).loss
        sampled.append((drawn.mean, drawn.standard_error))
        truths.append(losses.mean())
    where = f"unknown order, films of {frames}"
    return [
        interval(f"generalization risk, {where}, {examples:,} held out", 0.0, *np.array(held_out_risk).T),
        interval(
            f"empirical risk, {where}, {examples // 10:,} of {examples:,}",
            truths,
            *np.array(sampled).T,
            or_more="films are looked into, not drawn whole",
        ),
    ]


def pairs(examples: int, repetitions: int) -> Row:
    """The difference of two measurements on the same examples, part by part."""
    generator, found = np.random.default_rng(examples), []
    for _ in range(repetitions):
        hard = generator.exponential(size=examples)
        cut = np.array_split(np.arange(examples), 64)
        first, second = (hard + 0.3 * generator.normal(size=examples) + add for add in (0.0, 0.1))
        means = [[float(losses[part].mean()) for part in cut] for losses in (first, second)]
        between = paired([len(part) for part in cut], *means)
        assert between is not None
        found.append((between.value, between.standard_error))
    return interval(f"paired difference, {examples:,} held out", 0.1, *np.array(found).T)


def fast() -> list[Row]:
    """A few."""
    return [*training(8000, 2, 0.3, 500, 200), held_out(400, 300), pairs(400, 200), *films(8000, 20, 150)]


def slow() -> list[Row]:
    """Others, and more often."""
    parts = ((56_000, 2, 1.0, 7000), (8000, 1, 1.0, 500), (8000, 8, 0.1, 500), (4000, 2, 1.0, 3000))
    rows = [row for examples, lanes, share, wanted in parts for row in training(examples, lanes, share, wanted, 600)]
    rows += [row for frames in (1, 5, 20) for row in films(16_000, frames, 400)]
    return [*rows, *(held_out(n, 2000) for n in (100, 1000)), *(pairs(n, 1000) for n in (100, 7000))]
