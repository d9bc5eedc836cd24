"""Simulations with known answers: what they found, and the bounds that it is held against.

A simulation is a function that returns `Row`s: of a ± of one standard error, which shall hold the truth in 68.3 % of
repetitions, or of a stated rate: false alarms, or what is seen of what is there. Both are themselves estimates out of
so many repetitions: the bounds are the binomial's, so that a right one fails once in 10,000 rows, and there is no other
room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

ONE_SIGMA = 0.6827
CHANCE = 1e-4
"""That a row which is right is called wrong."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a quantity, what was found in so many repetitions, and whether that is right.

    ``holds`` is ``None`` where it is known not to, for the reason in ``but``.
    """

    quantity: str
    truth: str
    repetitions: int
    ratio: str
    found: str
    claimed: str
    holds: bool | None
    but: str = ""


def interval(
    quantity: str, truth: ArrayLike, values: ArrayLike, errors: ArrayLike, *, or_more: str = "", but: str = ""
) -> Row:
    """How often ``values ± errors`` hold the truth, and the errors' root mean square over that of the values' distance.

    Args:
        truth: of every repetition, or one for all.
        or_more: why it may hold the truth more often than claimed, but not less.
        but: why it is known not to hold; it is then shown, and not held against anything.
    """
    found, sizes = np.asarray(values, float), np.asarray(errors, float)
    away = found - np.broadcast_to(np.asarray(truth, float), found.shape)
    covered = int(np.sum(np.abs(away) <= sizes))
    ratio = float(np.sqrt(np.mean(sizes**2) / max(float(np.mean(away**2)), 1e-300)))
    low, high = binom.ppf([CHANCE / 2, 1 - CHANCE / 2], len(found), ONE_SIGMA)
    holds = None if but else bool(low <= covered and (or_more or covered <= high))
    value = np.asarray(truth, float)
    shown = f"{float(value):.4g}" if value.ndim == 0 else "of each repetition"
    claimed = "68.3 %" + " or more" * bool(or_more)
    return Row(
        quantity, shown, len(found), f"{ratio:.2f}", f"{covered / len(found):.1%}", claimed, holds, but or or_more
    )


def rate(
    quantity: str, truth: str, happened: Iterable[bool], *, at_most: float | None = None, at_least: float | None = None
) -> Row:
    """How often something happened, against a bound."""
    each = [bool(one) for one in happened]
    count, share = len(each), sum(each) / len(each)
    holds = True
    if at_most is not None:
        holds = sum(each) <= binom.ppf(1 - CHANCE, count, at_most)
    if at_least is not None:
        holds = holds and sum(each) >= binom.ppf(CHANCE, count, at_least)
    claimed = f"at most {at_most:.1%}" if at_most is not None else f"at least {at_least:.1%}"
    return Row(quantity, truth, count, "", f"{share:.1%}", claimed, bool(holds))


Simulation = Callable[[], list[Row]]


def table(rows: Iterable[Row]) -> str:
    """Rows in Markdown."""
    head = (
        "quantity",
        "truth",
        "repetitions",
        "stated over actual error",
        "found",
        "claimed",
        "where it does not hold",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        why = row.but if row.holds is None else f"wider: {row.but}" if row.but else ""
        cells = (row.quantity, row.truth, f"{row.repetitions:,}", row.ratio, row.found, row.claimed, why)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
