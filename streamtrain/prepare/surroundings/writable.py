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
    there = folder
    try:
        if folder.is_file():
            return "" if os.access(folder, os.W_OK) else "a file that this user may not write"
        while not there.exists() and there != there.parent:
            there = there.parent
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
    asked = [("tracking.folder", Path(job.tracking.folder).absolute())]
    if job.checkpoints.enabled and job.checkpoints.folder is not None:
        place = local_path(job.checkpoints.folder)
        asked += [] if place is None else [("checkpoints.folder", place)]
    for where, folder in asked:
        _check(where, folder, f"set {where} to another place, or work in another folder")


def check_database(job: Job) -> None:
    """Refuses a run whose MLflow is an SQLite database that cannot be written.

    Raises:
        ConfigError: its file, or the folder in which SQLite has a second one while it writes; by who names it.
    """
    from streamtrain.track.mlflow import database_of, default_uri

    file = database_of(job.tracking.uri or default_uri())
    if file is None:
        return
    named = "tracking.uri" if job.tracking.uri else "MLFLOW_TRACKING_URI"
    default = not job.tracking.uri and not os.environ.get(named)
    where = "MLflow's default store" if default else named
    do = f"set {named} to another place" + (", or work in another folder" if default else "")
    for place in (file, file.parent):
        _check(where, place, do)
    if file.is_dir():
        raise ConfigError(complaint(where, expected="a database", found=f"a folder, {file}", do=do))


def _check(where: str, place: Path, do: str) -> None:
    if found := why_not_writable(place):
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
