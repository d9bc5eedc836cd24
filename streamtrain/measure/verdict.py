"""A plain verdict on a run: underfitting, fitting or overfitting (Deep Learning, 5.2 and figure 5.3).

The rule, on the surrogate loss, with ± one standard error and "clearly" meaning more than two:

- ``overfitting``: at the last measurement the held-out loss is clearly above its lowest of the run, while the
  training loss is below what it was there. Stop earlier, regularize, or get more data.
- ``fitting``: not so, but the gap (held-out minus training loss) at the last measurement is clearly above zero. More
  data is the lever.
- ``underfitting``: the gap cannot be told from zero. More data of the kind would change nothing at these
  parameters: more capacity, more steps or another learning rate is the lever.

The rise is that of two measurements on the same examples, so its standard error is the paired one. Where there are too
few parts for it, they are taken for independent: ``overfitting`` is then said too seldom rather than too often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from streamtrain.measure.gap import Parts, gap, paired
from streamtrain.values import Moments

Verdict = Literal["underfitting", "fitting", "overfitting"]
CLEARLY = 2.0


def verdict(
    empirical: Sequence[Moments], generalization: Sequence[Moments], parts: Sequence[Parts | None] = ()
) -> Verdict:
    """See the module; losses of all measurements of a run, in order, and the held-out ones part by part."""
    lowest = min(range(len(generalization)), key=lambda index: generalization[index].mean)
    best, last = generalization[lowest], generalization[-1]
    error = math.hypot(best.standard_error, last.standard_error)
    before, after = (parts[lowest], parts[-1]) if parts else (None, None)
    if before is not None and after is not None and before.examples == after.examples:
        rise = paired(after.examples, before.means["loss"], after.means["loss"])
        error = error if rise is None else rise.standard_error
    if last.mean - best.mean > CLEARLY * error and empirical[-1].mean < empirical[lowest].mean:
        return "overfitting"
    between = gap(empirical[-1], last)
    return "fitting" if between.value > CLEARLY * between.standard_error else "underfitting"
