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
        ConfigError: the folder for runs, or for checkpoints.
    """
    _check("tracking.folder", Path(job.tracking.folder).absolute())
    if job.checkpoints.enabled and job.checkpoints.folder is not None:
        place = local_path(job.checkpoints.folder)
        if place is not None:
            _check("checkpoints.folder", place)


def check_mlflow_place(job: Job) -> None:
    """Refuses a run whose MLflow is a database or a folder of this machine that cannot be written.

    Raises:
        ConfigError: that place, by who names it.
    """
    from streamtrain.track.mlflow import default_uri, place_of

    place = place_of(job.tracking.uri or default_uri())
    if place is not None:
        named = "tracking.uri" if job.tracking.uri else "MLFLOW_TRACKING_URI"
        default = not job.tracking.uri and not os.environ.get(named)
        _check("MLflow's default store" if default else named, place, named)


def _check(where: str, place: Path, cure: str | None = None) -> None:
    if found := why_not_writable(place):
        do = f"set {cure or where} to another place, or work in another folder"
        raise ConfigError(complaint(where, expected=f"to be able to write to {place}", found=found, do=do))


def free_bytes(folder: Path) -> int:
    """Room for files of this user where a folder is, or would be."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    with contextlib.suppress(OSError):
        disk = os.statvfs(there)
        return disk.f_frsize * disk.f_bavail
    return 0
