"""What a run keeps, as points at its end: a table of runs sorts by them, whatever the last values of its curves are."""

from __future__ import annotations

import time

from streamtrain.measure.run_curves import gap_readings, risk_readings
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import Reading, Risk


def chosen_readings(chosen: Evaluation, test: Risk | None) -> list[Reading]:
    """Of the kept parameters, at their last update's step: so a run that ends twice has the same points.

    ``chosen/error`` is the held-out error; ``chosen/training/…``, ``chosen/gap/…`` and ``chosen/test/…`` lie beside it.

    Args:
        test: their risk on the test split, where there is one.
    """
    now = time.time()
    at = chosen.step - 1
    place = {"passes": chosen.passes, "step": float(chosen.step), "examples_used": float(chosen.examples_used)}
    return [
        *risk_readings("chosen", chosen.generalization, at, now),
        *risk_readings("chosen/training", chosen.empirical, at, now),
        *gap_readings("chosen/gap", chosen.empirical, chosen.generalization, at, now),
        *([] if test is None else risk_readings("chosen/test", test, at, now)),
        *(Reading(f"chosen/at/{name}", value, at, now) for name, value in place.items()),
    ]
