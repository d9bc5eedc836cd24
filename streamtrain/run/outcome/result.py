"""What a run gives back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streamtrain.measure.diagnostics.noise_scale import Noise
from streamtrain.measure.gap import Gap, PartRisks, Parts, gap
from streamtrain.measure.risk import STANDARD_ERRORS
from streamtrain.measure.verdict import Verdict, verdict
from streamtrain.stored import Stored
from streamtrain.values import Risk, known

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from streamtrain.model.objective import ByClass


@dataclass(frozen=True, repr=False)
class Evaluation(Stored):
    """Both risks of a run at one place on its way, at the same parameters.

    Attributes:
        step: updates in these parameters.
        examples_used: every use of an example so far counted.
        empirical: on a random part of the training examples that these updates used, as many as are held out; each risk
            has the mean, the standard error and the number of examples of the loss, the error and the job's metrics.
        generalization: on the validation split, or the part of it that `Evaluate` says.
        passes: through the training split so far, the last perhaps in part.
        progressive: over the last window of minibatches before these updates, each measured before its own; ``None``
            after the first pass, since examples come again from then on.
        held_out: the generalization risk part by part, to be paired with a measurement on the same examples.
        others: risks on the held-out sets that `Evaluate.splits` names beside the validation split, by name.
        noise: of the gradients of the last steps before, so that |G| is known without it; with two lanes or more.
        of_parts: both risks on each data set of a mixture by itself, in its order; not of one without examples.
    """

    step: int
    examples_used: int
    empirical: Risk
    generalization: Risk
    passes: float = 0.0
    progressive: Risk | None = None
    held_out: Parts | None = None
    noise: Noise | None = None
    others: dict[str, Risk] = field(default_factory=dict)
    of_parts: tuple[PartRisks, ...] = ()

    def __repr__(self) -> str:
        from streamtrain.run.outcome.notebook import evaluation_in_one_line

        return evaluation_in_one_line(self)

    def number(self, name: str) -> float:
        """A held-out mean: ``error``, ``loss`` or a metric, on the validation split, or as ``SET/error``; NaN of one
        that was not measured."""
        split, _, quantity = name.rpartition("/")
        risk = self.others.get(split, self.generalization)
        return risk.quantities[quantity].mean if quantity in risk.quantities else math.nan

    @property
    def gap_of_loss(self) -> Gap:
        """Generalization minus empirical risk, of the surrogate loss."""
        return gap(self.empirical.loss, self.generalization.loss)

    @property
    def gap_of_error(self) -> Gap:
        """Generalization minus empirical risk, of the error."""
        return gap(self.empirical.error, self.generalization.error)


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run.

    Attributes:
        mode: ``online`` or ``epochs``.
        stop_reason: why it ended, in words.
        passes: passes made, the last perhaps in part.
        examples_used: every use of an example counted.
        examples_per_second: while training, evaluations left out.
        evaluations: after each pass, or at intervals in online mode.
        chosen: the evaluation whose parameters are kept: the best, or the last in online mode.
        gradient_norm_at_stop: mean norm of minibatches' gradients over the last steps: their noise is part of it, so it
            says nothing of how near a critical point is; `chosen.noise` does.
        test: risk of the kept parameters on the test split, where there is one. test_parts: the same on the test split
            of each data set of a mixture, by its name.
        progressive: progressive risk over the first pass, as far as it was made: no example came twice.
        progressive_passes: the same over each whole one of many passes: only in the first are examples new.
        parameters: the kept model's state dict, on the CPU.
        folder: the run's files. run_id: MLflow's, where it is known.
        left: one line that says what MLflow has not taken; ``None`` where it has everything.
        examples_unused: those that came too late for their minibatch, in online mode with `backup`.
        error_unit: of the error as people read it; ``%`` of a fraction, which is shown in per cent.
        batch_sizes: of minibatches, each from a number of examples used on.
        steps: updates made; of a run that is measured beside, perhaps more than there were at its last measurement.
        measuring: part of the time that measuring the risks took on the way.
        chosen_by: the number that says which parameters are kept, as `Epochs.stop_on`.
        by_length: the field by whose lengths minibatches were of neighbours: these are alike, so the ± of progressive
            means, and the gradient's noise, leave out what minibatches differ by their lengths.
        by_class: a classifier's errors on the held-out examples, with the kept parameters; ``None`` of other jobs.
        tables: arrays that metrics of the whole set gave of them, by name.
    """

    mode: Literal["online", "epochs"]
    stop_reason: str
    passes: int
    examples_used: int
    examples_per_second: float
    evaluations: tuple[Evaluation, ...]
    chosen: Evaluation
    gradient_norm_at_stop: float
    test: Risk | None
    progressive: Risk
    parameters: dict[str, torch.Tensor]
    folder: Path
    run_id: str | None = None
    left: str | None = None
    progressive_passes: tuple[Risk, ...] = ()
    examples_unused: int = 0
    error_unit: str = ""
    batch_sizes: tuple[tuple[int, int], ...] = ()
    steps: int = 0
    measuring: float = 0.0
    chosen_by: str = "error"
    by_length: str | None = None
    by_class: ByClass | None = None
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    test_parts: Mapping[str, Risk] = field(default_factory=dict)

    def __repr__(self) -> str:
        from streamtrain.run.outcome.notebook import in_one_line

        return in_one_line(self)

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        from streamtrain.run.outcome.notebook import as_html

        return as_html(self)

    @property
    def verdict(self) -> Verdict:
        """In words of two or three; the rule stands in `streamtrain.measure.verdict`."""
        return verdict(
            [evaluation.empirical.loss for evaluation in self.evaluations],
            [evaluation.generalization.loss for evaluation in self.evaluations],
            [evaluation.held_out for evaluation in self.evaluations],
        )

    @property
    def takes_examples_for_independent(self) -> bool:
        """Whether standard errors do: not where the order of the data set is unknown, but for progressive means."""
        return self.chosen.generalization.loss.design_effect is None

    @property
    def standard_errors(self) -> str:
        """What they rest on, in words."""
        return STANDARD_ERRORS["uniform" if self.takes_examples_for_independent else "unknown"]

    @property
    def measurements_chosen_from(self) -> int:
        """How many validation errors the kept parameters' is the lowest of: above 1 it is optimistic; 1 online."""
        return 1 if self.mode == "online" else len(self.evaluations)

    @property
    def gap_on_test(self) -> Gap | None:
        """Test minus empirical risk of the kept parameters, of the loss: no test example had a part in the choice."""
        return None if self.test is None else gap(self.chosen.empirical.loss, self.test.loss)

    def summary(self) -> dict[str, Any]:
        """The figures without the parameters, for JSON; standard errors that are not known are null."""
        at = self.chosen

        return {
            "mode": self.mode,
            "stop_reason": self.stop_reason,
            "passes": self.passes,
            "steps": self.steps,
            "chosen_step": at.step,
            "chosen_by": self.chosen_by,
            "chosen_as_lowest_of": self.measurements_chosen_from,
            "verdict": self.verdict,
            "standard_errors": self.standard_errors,
            "examples_used": self.examples_used,
            "examples_unused": self.examples_unused,
            "examples_per_second": self.examples_per_second,
            "measuring_fraction_of_time": self.measuring,
            "batch_sizes": [{"examples_used": used, "batch_size": size} for used, size in self.batch_sizes],
            "empirical_risk": figures(at.empirical),
            "generalization_risk": figures(at.generalization),
            "other_risks": {name: figures(risk) for name, risk in at.others.items()},
            "gap": {
                "loss": at.gap_of_loss.value,
                "loss_standard_error": known(at.gap_of_loss.standard_error),
                "error": at.gap_of_error.value,
                "error_standard_error": known(at.gap_of_error.standard_error),
            },
            "risks_of_parts": _risks_of_parts(at.of_parts),
            "error_unit": self.error_unit,
            "progressive_risk": figures(self.progressive),
            "progressive_risk_last_window": figures(at.progressive),
            "progressive_risk_of_passes": [
                {"pass": number, "new_examples": number == 1, **(figures(risk) or {})}
                for number, risk in enumerate(self.progressive_passes, 1)
            ],
            "test_risk": figures(self.test),
            "test_risk_of_parts": {name: figures(risk) for name, risk in self.test_parts.items()},
            "gap_on_test": _gap(self.gap_on_test),
            "minibatch_gradient_norm_at_stop": self.gradient_norm_at_stop,
            "gradient_at_kept_parameters": _gradient(at.noise),
            "folder": str(self.folder),
            "mlflow_run_id": self.run_id,
            "not_in_mlflow": self.left,
            "evaluations": [
                {
                    "step": point.step,
                    "passes": point.passes,
                    "examples_used": point.examples_used,
                    "empirical_risk": figures(point.empirical),
                    "generalization_risk": figures(point.generalization),
                    "other_risks": {name: figures(risk) for name, risk in point.others.items()},
                    "progressive_risk": figures(point.progressive),
                    "risks_of_parts": _risks_of_parts(point.of_parts),
                    "generalization_risk_parts": None if point.held_out is None else dataclasses.asdict(point.held_out),
                }
                for point in self.evaluations
            ],
        }


def _gap(between: Gap | None) -> dict[str, float | None] | None:
    if between is None:
        return None
    return {"value": between.value, "standard_error": known(between.standard_error)}


def _risks_of_parts(parts: Sequence[PartRisks]) -> dict[str, dict[str, Any]]:
    """Both risks by the data sets of a mixture."""
    return {
        part.name: {"empirical_risk": figures(part.empirical), "generalization_risk": figures(part.generalization)}
        for part in parts
    }


def _gradient(noise: Noise | None) -> dict[str, float] | None:
    """|G| of the last steps before the kept parameters, and what it is made of, where that is known."""
    if noise is None or math.isnan(noise.squared_error):
        return None
    norm, error = noise.gradient_norm
    return {"norm": norm, "norm_standard_error": error, "trace_of_covariance": noise.trace}


def figures(risk: Risk | None) -> dict[str, float | None] | None:
    """Means and standard errors by name, and the number of examples."""
    if risk is None:
        return None
    found: dict[str, float | None] = {}
    for name, moments in risk.quantities.items():
        found |= {name: known(moments.mean), f"{name}_standard_error": known(moments.standard_error)}
    return found | {"examples": risk.loss.count}
