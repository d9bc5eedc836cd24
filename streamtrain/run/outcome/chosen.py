"""What a run keeps, as points at its end: a table of runs sorts by them, whatever the last values of its curves are.

And the risks of a mixture's data sets, which are curves.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from streamtrain.job import Job
from streamtrain.measure.gap import PartRisks
from streamtrain.measure.run_curves import gap_readings, risk_readings
from streamtrain.model.objective import metrics_of
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import Reading, Risk


def chosen_readings(chosen: Evaluation, test: Risk | None, test_parts: Mapping[str, Risk], job: Job) -> list[Reading]:
    """Of the kept parameters, at their last update's step: so a run that ends twice has the same points.

    ``chosen/error`` is the held-out error, ``chosen/gap/error`` its gap: of loss, error and the job's own metrics. What
    one looks at later, their training and test risks and when they were, is ``stop/…``: a point is a chart too.

    Args:
        test: their risk on the test split, where there is one. test_parts: of a mixture, on that of each data set.
    """
    now = time.time()
    at = chosen.step - 1
    place = {"passes": chosen.passes, "step": float(chosen.step)}
    built_in = metrics_of(job).keys() - job.metrics.keys()
    training, held_out = _without(built_in, chosen.empirical), _without(built_in, chosen.generalization)
    others = [
        each
        for name, risk in chosen.others.items()
        for each in risk_readings(f"chosen/{name}", _without(built_in, risk), at, now)
    ]
    tests = {} if test is None else {"stop/test": test}
    tests |= {f"parts/{name}/stop/test": risk for name, risk in test_parts.items()}
    return [
        *risk_readings("chosen", held_out, at, now),
        *others,
        *gap_readings("chosen/gap", training, held_out, at, now),
        *risk_readings("stop/training", training, at, now),
        *(each for name, risk in tests.items() for each in risk_readings(name, _without(built_in, risk), at, now)),
        *(Reading(f"stop/best_{name}", value, at, now) for name, value in place.items()),
    ]


def repeats_loss(name: str) -> bool:
    """Whether a curve of a job whose error is its loss says the same again.

    All of the error do but ``chosen/error``, by which a table of runs sorts.
    """
    prefix, _, quantity = name.rpartition("/")
    return quantity in ("error", "error_standard_error") and prefix != "chosen"


def part_readings(parts: Sequence[PartRisks], step: int, now: float) -> list[Reading]:
    """Both risks and their gap on each data set of a mixture, as ``parts/NAME/…``; after ``step`` updates."""
    readings: list[Reading] = []
    for part in parts:
        prefix = f"parts/{part.name}"
        readings += risk_readings(f"{prefix}/empirical_risk", part.empirical, step - 1, now)
        readings += risk_readings(f"{prefix}/generalization_risk", part.generalization, step - 1, now)
        readings += gap_readings(f"{prefix}/Gap", part.empirical, part.generalization, step - 1, now)
    return readings


def _without(names: Collection[str], risk: Risk) -> Risk:
    return Risk(risk.loss, risk.error, {name: each for name, each in risk.metrics.items() if name not in names})
