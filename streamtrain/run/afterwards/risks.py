"""Risks of a run's model on a data set: loss, error and metrics, with standard errors, split by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamtrain.job import Job, functions_in
from streamtrain.measure.risk import STANDARD_ERRORS, pooled
from streamtrain.run.afterwards.kept_model import KeptModel
from streamtrain.run.outcome.wording import mean_with_error, why_not_known
from streamtrain.values import Risk, known


@dataclass(frozen=True)
class Risks:
    """What was measured.

    Attributes:
        place: of the data set. step: updates in the parameters, where that is known.
        splits: the risk on each. passed_over: bad examples that are in none.
        standard_errors: what they rest on, in words. error_unit: as `Job.error_unit`.
        tables: arrays that metrics of whole sets gave, by split and name. failures: a line for each that failed.
    """

    place: str
    step: int | None
    splits: Mapping[str, Risk]
    passed_over: int
    standard_errors: str
    error_unit: str = ""
    tables: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
    failures: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        """For JSON; what is not known or not finite is null."""
        return {
            "data": self.place,
            "step": self.step,
            "standard_errors": self.standard_errors,
            "error_unit": self.error_unit,
            "passed_over": self.passed_over,
            "splits": {name: _figures(risk) for name, risk in self.splits.items()},
            "tables": self.tables,
            "failures": list(self.failures),
        }

    @property
    def table(self) -> str:
        """A column for each split, figures as mean ± standard error."""
        first = next(iter(self.splits.values()))
        rows = [["", *self.splits], ["examples", *(f"{risk.loss.count:,}" for risk in self.splits.values())]]
        for name in first.quantities:
            unit = self.error_unit if name == "error" else ""
            rows.append([name, *(mean_with_error(risk.quantities[name], unit) for risk in self.splits.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        after = "" if self.step is None else f" after {self.step:,} updates"
        notes = [f"{self.place}, parameters{after}; standard errors {self.standard_errors}"]
        notes += [f"{self.passed_over:,} bad examples were passed over"] if self.passed_over else []
        notes += [why] if (why := why_not_known(self.splits.values())) else []
        return "\n".join([*lines, "", *notes, *self.failures])


def evaluate(job: Job, run: Path, data: str, *, splits: Sequence[str] = (), batch_size: int | None = None) -> Risks:
    """Measures the parameters that a run kept, as the run itself would: every example once, nothing drawn.

    Args:
        job, run, data, batch_size: as `KeptModel` takes them.
        splits: all that have examples by default.

    Raises:
        ConfigError, JobError: the run, the job and the data set do not fit. DataError: the data set is damaged.
    """
    found: dict[str, Risk] = {}
    tables: dict[str, dict[str, list[Any]]] = {}
    failures: dict[str, None] = {}
    passed_over = 0
    with KeptModel(job, run, data, batch_size=batch_size) as model:
        # losses of one group tell about one another, as neighbours of unknown order do
        order = model.manifest.order if model.job.loss_group is None else "unknown"
        for split in model.splits(splits):
            reader = model.reader(split)
            slices = [risk for batch in model.batches(reader) for risk in model.risks(reader, batch)]
            whole = model.objective.whole.compute(slices)
            found[split] = whole.beside(pooled(slices, order, functions_in(model.job.metrics)))
            tables |= {split: {name: table.tolist() for name, table in whole.tables.items()}} if whole.tables else {}
            failures |= dict.fromkeys(whole.failures.values())
            passed_over += len(reader.skipped)
    rest_on, unit = STANDARD_ERRORS[order], model.job.unit_of_error
    return Risks(model.place, model.step, found, passed_over, rest_on, unit, tables, [*failures])


def _figures(risk: Risk) -> dict[str, float | None]:
    figures: dict[str, float | None] = {"examples": risk.loss.count}
    for name, moments in risk.quantities.items():
        figures |= {name: known(moments.mean), f"{name}_standard_error": known(moments.standard_error)}
    return figures
