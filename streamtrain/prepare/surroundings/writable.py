"""Folders that something is to be written to: whether it can be, and who names them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.store import local_path


def why_not_writable(folder: Path) -> str:
    """Why nothing can be made in a folder, or the folder or file itself cannot; empty where it can.

    Nothing is left behind.
    """
    if folder.is_file():
        return "" if os.access(folder, os.W_OK) else "a file that this user may not write"
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".streamtrain-", dir=there) as made:
            (Path(made) / "file").touch()
            return ""
    except OSError as error:
        return f"{there}: {error.strerror or error}" if there != folder else str(error.strerror or error)


def check_run_folders(job: Job) -> None:
    """Refuses a run whose folders cannot be written, before anything starts.

    Raises:
        ConfigError: the folder for runs, for checkpoints, or of the default MLflow store.
    """
    tracking = job.tracking
    asked = [("tracking.folder", Path(tracking.folder).absolute(), "tracking.folder")]
    if job.checkpoints.enabled and job.checkpoints.folder is not None:
        place = local_path(job.checkpoints.folder)
        asked += [] if place is None else [("checkpoints.folder", place, "checkpoints.folder")]
    if tracking.enabled and tracking.uri is None and not os.environ.get("MLFLOW_TRACKING_URI"):
        asked.append(("MLflow's default store", Path.cwd() / "mlflow.db", "MLFLOW_TRACKING_URI"))
    for where, folder, cure in asked:
        if found := why_not_writable(folder):
            do = f"set {cure} to another place, or work in another folder"
            expected = f"to be able to write to {folder}"
            raise ConfigError(complaint(where, expected=expected, found=found, do=do))


def free_bytes(folder: Path) -> int:
    """Room for files of this user where a folder is, or would be."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    with contextlib.suppress(OSError):
        disk = os.statvfs(there)
        return disk.f_frsize * disk.f_bavail
    return 0
