"""Figures as people read them: in their unit, with ± one standard error, or with the words that it is not known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from streamtrain.job import FRACTION
from streamtrain.measure.gap import Gap
from streamtrain.values import Moments, Risk

if TYPE_CHECKING:
    from streamtrain.measure.verdict import Verdict
    from streamtrain.run.outcome.result import Evaluation, Result

LARGE = 1e9
"""From here on numbers are written with a power of ten."""
THREE_DIGITS = 99.95
"""From here on a number's first three digits are whole ones."""
NOT_KNOWN = "(± not known)"
WHY_NOT_KNOWN = "± not known: one example shows no spread; a standard error takes two or more"


def with_error(value: float, error: float | None, unit: str = "", *, sign: bool = False) -> str:
    """``value ± error`` in a unit.

    Args:
        error: one standard error; ``None`` or NaN where it is not known, as that of a mean of one example.
        unit: a fraction's is ``%``; both are then given in per cent.
        sign: also of a value above zero.
    """
    shown = in_unit(value, unit, sign=sign)
    if error is None or math.isnan(error):
        return f"{shown} {NOT_KNOWN}" if math.isfinite(value) else shown
    bare = in_unit(value, unit if unit == FRACTION else "", sign=sign)
    return f"{bare} ± {in_unit(error, unit)}"


def in_unit(value: float, unit: str = "", *, sign: bool = False) -> str:
    """A loss, an error or a difference of two: a fraction in per cent, all else as it is."""
    form = ".2%" if unit == FRACTION else ".4f" if abs(value) < LARGE else ".5g"
    shown = f"{value:{'+' * sign}{form}}"
    return shown if unit in ("", FRACTION) else f"{shown} {unit}"


def mean_with_error(moments: Moments, unit: str = "") -> str:
    """A mean of some examples; without ± where it is over all there are."""
    if moments.is_exact:
        return f"{in_unit(moments.mean, unit)} (exact)"
    error = moments.standard_error
    if unit == FRACTION and moments.mean == 0 and error > 0:  # "± 0.00%" would say that none ever is
        return f"0 of {moments.count:,}: below {100 * error:.2g}%"
    return with_error(moments.mean, moments.standard_error, unit)


def gap_with_error(between: Gap, unit: str = "") -> str:
    """A difference of two means."""
    return with_error(between.value, between.standard_error, unit, sign=True)


def why_not_known(risks: Iterable[Risk | None]) -> str:
    """A sentence where any of these risks is of one example, whose standard error is not known; else nothing."""
    errors = (risk.loss.standard_error for risk in risks if risk is not None and math.isfinite(risk.loss.mean))
    return WHY_NOT_KNOWN if any(map(math.isnan, errors)) else ""


def of_pass(passes: float) -> str:
    """How many passes are through: three digits of a part, whole ones from 100 on, never a power of ten."""
    return f"{passes:.3g}" if passes < THREE_DIGITS else f"{passes:,.0f}"


def in_two_sentences(result: Result) -> str:
    """Whether a run generalizes at its end, what is kept, and what to try; the verdict is `measure.verdict`'s."""
    end = result.evaluations[-1]  # which the verdict is of
    gap = gap_with_error(end.gap_of_loss)
    held_out = f"held-out examples have a loss of {mean_with_error(end.generalization.loss)}"
    kept = "" if result.chosen.step == end.step else f"; kept are those of pass {_kept(result.chosen)}"
    says: dict[Verdict, tuple[str, str]] = {
        "not finite": (
            "It diverged: the last loss is no number.",
            "Try a smaller learning rate, a warm-up or `clip=st.Clip(norm=1.0)`.",
        ),
        "overfitting": (
            f"It overfits: the held-out loss has risen while the training loss fell on, to a gap of {gap}{kept}.",
            "Try more data, augmentation, weight decay or dropout, or fewer passes.",
        ),
        "fitting": (
            f"It generalizes with a gap: {held_out}, {gap} from that of training examples{kept}.",
            "Try more data, or augmentation and weight decay: they lower the gap.",
        ),
        "underfitting": (
            f"It generalizes, and learns on: {held_out}, no gap is seen ({gap}), and the training loss falls on{kept}.",
            "Try more passes, a larger model or another learning rate.",
        ),
        "no gap seen": (
            f"It generalizes as far as is seen: {held_out}, and no clear gap ({gap}){kept}.",
            "Try a larger model or more passes; more held-out examples would tell a smaller gap.",
        ),
    }
    return " ".join(says[result.verdict])


def _kept(chosen: Evaluation) -> str:
    """Which parameters are kept, and what they have."""
    loss = mean_with_error(chosen.generalization.loss)
    return f"{of_pass(chosen.passes)}, with {loss} and a gap of {gap_with_error(chosen.gap_of_loss)}"


def has_error(evaluation: Evaluation, error_unit: str) -> bool:
    """Whether there is an error beside the loss; of a regression there may be none, and the loss stands for it."""
    both = evaluation.empirical, evaluation.generalization
    return bool(error_unit) or any(risk.error != risk.loss for risk in both)


def describe(evaluation: Evaluation, rate: float, error_unit: str) -> str:
    """One line about an evaluation, for the terminal; ``rate``: examples a second so far."""
    train = evaluation.empirical
    held_out = evaluation.generalization
    errors = in_unit(train.error.mean, error_unit), in_unit(held_out.error.mean, error_unit)
    error = f"error: train {errors[0]}, held out {errors[1]}  " if has_error(evaluation, error_unit) else ""
    return (
        f"pass {of_pass(evaluation.passes):>4}  "
        f"loss: train {in_unit(train.loss.mean)}, "
        f"held out {mean_with_error(held_out.loss)}, "
        f"gap {gap_with_error(evaluation.gap_of_loss)}  "
        f"{error}{rate:,.0f} examples/s"
    )
