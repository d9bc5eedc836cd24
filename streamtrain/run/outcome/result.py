"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streamtrain.measure.gap import Gap, gap
from streamtrain.values import Risk

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Evaluation:
    """Both risks at the parameters after ``step`` updates.

    ``examples_used`` counts every use of an example so far. ``progressive`` is over the last window of
    an online run, before the updates that lead here; ``None`` with many passes.
    """

    step: int
    examples_used: int
    empirical: Risk
    generalization: Risk
    progressive: Risk | None = None

    @property
    def gap_of_loss(self) -> Gap:
        """Generalization minus empirical risk, of the surrogate loss."""
        return gap(self.empirical.loss, self.generalization.loss)

    @property
    def gap_of_error(self) -> Gap:
        """Generalization minus empirical risk, of the error."""
        return gap(self.empirical.error, self.generalization.error)


@dataclass(frozen=True)
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
        gradient_norm_at_stop: mean norm over the last steps.
        test: risk of the kept parameters on the test split, where there is one.
        progressive: progressive risk over a whole online run.
        parameters: the kept model's state dict, on the CPU.
        folder: the run's files. run_id: MLflow's, where it is known.
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
    progressive: Risk | None
    parameters: dict[str, torch.Tensor]
    folder: Path
    run_id: str | None = None

    def summary(self) -> dict[str, Any]:
        """The figures without the parameters, for JSON."""
        at = self.chosen

        def figures(risk: Risk | None) -> dict[str, float] | None:
            if risk is None:
                return None
            return {
                "loss": risk.loss.mean,
                "loss_standard_error": risk.loss.standard_error,
                "error": risk.error.mean,
                "error_standard_error": risk.error.standard_error,
                "examples": risk.loss.count,
            }

        return {
            "mode": self.mode,
            "stop_reason": self.stop_reason,
            "passes": self.passes,
            "steps": self.evaluations[-1].step,
            "chosen_step": at.step,
            "examples_used": self.examples_used,
            "examples_per_second": self.examples_per_second,
            "empirical_risk": figures(at.empirical),
            "generalization_risk": figures(at.generalization),
            "gap": {
                "loss": at.gap_of_loss.value,
                "loss_standard_error": at.gap_of_loss.standard_error,
                "error": at.gap_of_error.value,
                "error_standard_error": at.gap_of_error.standard_error,
            },
            "progressive_risk": figures(self.progressive),
            "progressive_risk_last_window": figures(at.progressive),
            "test_risk": figures(self.test),
            "gradient_norm_at_stop": self.gradient_norm_at_stop,
            "folder": str(self.folder),
            "mlflow_run_id": self.run_id,
        }
