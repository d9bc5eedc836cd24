"""Runs and experiments that somebody has deleted in MLflow while streamtrain has points for them, and how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamtrain.store import masked
from streamtrain.track.delivery import Blocked
from streamtrain.track.journal import DELIVERED


def check_run(client: Any, uri: str, run_id: str) -> None:
    """Asks whether a run may still be written to.

    Raises:
        Blocked: it, or its experiment, was deleted; with the command that restores it.
    """
    from mlflow.exceptions import MlflowException

    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise Blocked(f"run {run_id} is no longer there") from error
        raise
    experiment = client.get_experiment(info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        raise Blocked(deleted_experiment(uri, experiment))
    if info.lifecycle_stage == "deleted":
        restore = f"MLFLOW_TRACKING_URI={masked(uri)} mlflow runs restore --run-id {run_id}"
        raise Blocked(f"run {run_id} was deleted; restore it: `{restore}`")


def deleted_experiment(uri: str, experiment: Any) -> str:
    """That an experiment was deleted, and what to do."""
    number = experiment.experiment_id
    restore = f"MLFLOW_TRACKING_URI={masked(uri)} mlflow experiments restore --experiment-id {number}"
    other = "or give later runs another by tracking.experiment"
    return f"experiment {experiment.name!r} was deleted; restore it: `{restore}`, {other}"


def gone(folder: Path) -> str:
    """That a run which had begun at a server is not there, and what to do."""
    return f"the run that it was told of is no longer there; remove {folder / DELIVERED} to deliver all to a new one"
