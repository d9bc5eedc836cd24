"""A plain verdict on a run: overfitting, fitting, underfitting, or no gap seen (Deep Learning, 5.2 and figure 5.3).

The rule, on the surrogate loss, with ± one standard error and "clearly" meaning more than two, the first that holds:

- ``not finite``: the last held-out or training loss is no number.
- ``overfitting``: the last held-out loss is above an earlier one, while the training loss is below what it was there.
  Any of the T - 1 earlier measurements may be that one, so each is held against the (1 - 0.05/(T - 1)) quantile of
  Student's t (Bonferroni): of flat curves at most one in twenty is called so, however often they are measured. Stop
  earlier, regularize, or get more data.
- ``fitting``: the gap (held-out minus training loss) at the last measurement is clearly above zero. More data is the
  lever.
- ``underfitting``: no gap is seen, and the training loss still falls: over the last third of the measurements clearly,
  and by more than a twentieth of all that it fell. More capacity, more steps or another learning rate is the lever.
- ``no gap seen``: none of these. The gap is below `largest_gap`; more held-out examples would say more.

The rise is that of two measurements on the same examples, so its standard error is the paired one. Where there are too
few parts for it, they are taken for independent: ``overfitting`` is then said too seldom rather than too often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from streamtrain.measure.gap import Gap, Parts, gap, paired
from streamtrain.values import Moments

Verdict = Literal["not finite", "overfitting", "fitting", "underfitting", "no gap seen"]
CLEARLY = 2.0
FALSE_ALARMS = 0.05
"""Flat curves that may be called overfitting."""
STILL_FALLING = 0.05
"""Part of the whole fall of the training loss that its last third must have for it to fall still."""


def verdict(
    empirical: Sequence[Moments], generalization: Sequence[Moments], parts: Sequence[Parts | None] = ()
) -> Verdict:
    """See the module; losses of all measurements of a run, in order, and the held-out ones part by part."""
    if not (math.isfinite(empirical[-1].mean) and math.isfinite(generalization[-1].mean)):
        return "not finite"
    earlier = range(len(generalization) - 1)
    if any(empirical[-1].mean < empirical[at].mean and _rose(generalization, parts, at) for at in earlier):
        return "overfitting"
    between = gap(empirical[-1], generalization[-1])
    if between.value > CLEARLY * between.standard_error:
        return "fitting"
    return "underfitting" if _falls_still(empirical) else "no gap seen"


def largest_gap(empirical: Moments, generalization: Moments) -> float:
    """Below which the gap lies, where none is seen: its value and two standard errors."""
    between = gap(empirical, generalization)
    return between.value + CLEARLY * between.standard_error


def _rose(generalization: Sequence[Moments], parts: Sequence[Parts | None], at: int) -> bool:
    """Whether the last held-out loss is above that of measurement ``at``, chosen among all earlier ones."""
    before = generalization[at]
    last = generalization[-1]
    rise, degrees = _difference(before, last, *((parts[at], parts[-1]) if parts else (None, None)))
    if not (math.isfinite(rise.value) and rise.value > CLEARLY * rise.standard_error):
        return False  # NaN among them; and the common case, without scipy
    from scipy.stats import t as student

    allowed = FALSE_ALARMS / (len(generalization) - 1)
    return bool(rise.value > float(student.isf(allowed, degrees)) * rise.standard_error)


def _difference(before: Moments, last: Moments, first: Parts | None, second: Parts | None) -> tuple[Gap, float]:
    """Last minus before with its standard error, and the degrees of freedom of the latter."""
    if first is not None and second is not None and first.weights_of("loss") == second.weights_of("loss"):
        found = paired(first.weights_of("loss"), first.means["loss"], second.means["loss"])
        if found is not None:
            return found, len(first.examples) - 1
    degrees = min(before.count, last.count) - 1
    return Gap(last.mean - before.mean, math.hypot(before.standard_error, last.standard_error)), max(degrees, 1)


def _falls_still(empirical: Sequence[Moments]) -> bool:
    last = empirical[-1]
    third = empirical[len(empirical) - 1 - -(-(len(empirical) - 1) // 3)]
    fall = third.mean - last.mean
    whole = empirical[0].mean - last.mean
    clear = fall > CLEARLY * math.hypot(third.standard_error, last.standard_error)
    return clear and fall > STILL_FALLING * abs(whole)
