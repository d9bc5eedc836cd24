"""Simulations with known answers: what they found, and the bounds that it is held against.

A simulation is a function that returns `Row`s. `Interval` is of a ± of one standard error: it shall hold the truth in
68.3 % of repetitions. `Rate` is of a stated rate: false alarms, or what is seen of what is there. Both are themselves
estimates out of so many repetitions, so their bounds leave room for chance: a right one fails once in 10,000 runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

ONE_SIGMA = 0.6827
CHANCE = 3.9
"""Standard deviations of a binomial proportion that its bounds are away: once in 10,000, two-sided."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a quantity, what was found in so many repetitions, and whether that is right."""

    quantity: str
    truth: str
    repetitions: int
    found: str
    claimed: str
    holds: bool


def interval(
    quantity: str, truth: ArrayLike, values: ArrayLike, errors: ArrayLike, *, lowest: float = 0.0, highest: float = 0.0
) -> Row:
    """How often ``values ± errors`` hold the truth, and the errors' mean over the values' real spread.

    Args:
        truth: of every repetition, or one for all.
        lowest, highest: how much further than chance the coverage may be below and above 68.3 %, as a proportion.
    """
    found, sizes = np.asarray(values, float), np.asarray(errors, float)
    away = found - np.broadcast_to(np.asarray(truth, float), found.shape)
    covered = float(np.mean(np.abs(away) <= sizes))
    ratio = float(np.sqrt(np.mean(sizes**2) / max(float(np.mean(away**2)), 1e-300)))
    room = CHANCE * math.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / len(found))
    holds = ONE_SIGMA - lowest - room <= covered <= ONE_SIGMA + highest + room
    said = f"{covered:.1%} covered, stated over actual error {ratio:.2f}"
    value = np.asarray(truth, float)
    shown = f"{float(value):.4g}" if value.ndim == 0 else "of each repetition"
    return Row(quantity, shown, len(found), said, "68.3 % covered", holds)


def rate(
    quantity: str, truth: str, happened: Iterable[bool], *, at_most: float | None = None, at_least: float | None = None
) -> Row:
    """How often something happened, against a bound."""
    each = [bool(one) for one in happened]
    share = sum(each) / len(each)
    holds = True
    if at_most is not None:
        holds = share <= at_most + CHANCE * math.sqrt(at_most * (1 - at_most) / len(each))
    if at_least is not None:
        holds = holds and share >= at_least - CHANCE * math.sqrt(at_least * (1 - at_least) / len(each))
    claimed = f"at most {at_most:.1%}" if at_most is not None else f"at least {at_least:.1%}"
    return Row(quantity, truth, len(each), f"{share:.1%}", claimed, holds)


Simulation = Callable[[], list[Row]]


def table(rows: Iterable[Row]) -> str:
    """Rows in Markdown."""
    lines = ["| quantity | truth | repetitions | found | claimed |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r.quantity} | {r.truth} | {r.repetitions:,} | {r.found} | {r.claimed} |" for r in rows]
    return "\n".join(lines)
