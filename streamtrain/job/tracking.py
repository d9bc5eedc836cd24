"""Where numbers, figures and the model go."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_count, require_declared, require_finite

RUNS = "runs"
"""Where runs' folders are made, and looked for, unless a job says otherwise."""


@dataclass(frozen=True)
class Tracking:
    """Where numbers, figures and the model go."""

    enabled: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """MLflow's tracking URI; MLFLOW_TRACKING_URI, or SQLite in ./mlflow.db, by default."""
    experiment: str = "streamtrain"
    """MLflow experiment."""
    run_name: str | None = None
    """Name of the run; the job's file and mode by default."""
    folder: str = RUNS
    """Folder for the run's own files: journal, best parameters, figures."""
    log_every: int = 10
    """Steps that one point of the minibatch curves is the mean of."""
    diagnostics: bool = True
    """Measure gradient noise, layers, updates and trajectory at every `log_every`-th step."""
    layer_curves: bool = False
    """A curve for each parameter tensor too: two charts each, beside the figure and the table of layers."""
    log_model: bool = True
    """Log the final model to MLflow, with signature and input example."""
    register: str | None = None
    """Register the final model in MLflow under this name, as a new version."""
    parent: str | None = None
    """Show the run under this one in MLflow: a run's id, or a name that all runs of a sweep give."""
    system_seconds: float = 10.0
    """Seconds between two points of the system metrics: processor, memory, disk and network of this machine."""

    def __post_init__(self) -> None:
        require_declared(self, "tracking.")
        require_count("tracking.log_every", self.log_every)
        require_finite("tracking.system_seconds", self.system_seconds, positive=True)
        require(
            self.register is None or self.log_model,
            "tracking.register",
            "tracking.log_model with it",
            self.log_model,
            "leave tracking.log_model on",
        )
        name = self.register
        usable = name is None or (name.strip() and not set(name) & set("/:"))  # MLflow's rule: URIs name models
        require(bool(usable), "tracking.register", "a name without / and :", repr(name), "choose another name")
