"""Which examples a measurement looks at: slices of neighbours, drawn from the seed, of a mixture by its parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from streamtrain.order import evaluation_slice, evaluation_slices
from streamtrain.prepare.plan import Plan
from streamtrain.values import Lane, Risk


def slices_of(
    plan: Plan, split: str, ranges: Sequence[Lane], wanted: int, seed: int, *, grouped: bool = False
) -> list[tuple[int, int]]:
    """Which of these examples are looked at, as `evaluation_slices` gives them; of a mixture, part after part.

    Args:
        grouped: only slices of a whole loss's examples.
    """
    return [*itertools.chain(*slices_by_part(plan, split, ranges, wanted, seed, grouped=grouped))]


def slices_by_part(
    plan: Plan, split: str, ranges: Sequence[Lane], wanted: int, seed: int, *, grouped: bool = False
) -> list[Sequence[tuple[int, int]]]:
    """The same by the data sets of a mixture; one list where there is one."""
    return [
        evaluation_slices(own, count, evaluation_slice(count, plan.job.loss_group), seed, whole=grouped)
        for own, count in plan.by_share(split, ranges, wanted)
    ]


def by_part(risks: Sequence[Risk], slices: Sequence[Sequence[object]]) -> list[list[Risk]]:
    """Risks of slices, part after part, as those of each part."""
    left = iter(risks)
    return [[*itertools.islice(left, len(each))] for each in slices]


def population(plan: Plan, ranges: Sequence[Lane], wanted: int) -> int:
    """How many examples those that are looked at were drawn from; of a mixture by the part of which most are left."""
    shares = plan.by_share("train", ranges, wanted)
    sizes = [sum(each.stop - each.start for each in own) for own, _ in shares]
    counted = sum(count for _, count in shares)
    return max(
        (-(-counted * size // count) for size, (_, count) in zip(sizes, shares, strict=True) if count), default=0
    )
