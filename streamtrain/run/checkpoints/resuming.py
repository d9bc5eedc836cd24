"""Where a run is that shall go on, and whether the job is still the one that it began with."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job, Online
from streamtrain.job.optimizers import ENDING
from streamtrain.prepare.description import settings
from streamtrain.store import remove_partials
from streamtrain.store.remote import Store

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan

FREE = (
    *("workers", "placement", "streamers", "threads", "exchange", "device", "profile"),
    *("evaluate.", "probe_", "tracking.", "checkpoints."),
    *("data.url", "data.verify", "data.cache", "data.decode_threads", "mode.max_passes", "mode.patience", "mode.idle"),
)
"""How the names of settings begin that may change when a run goes on; only threads and device can change a bit."""
FINISHED, LOCK = "result.json", "lock"


def new_folder(parent: str, run_name: str) -> Path:
    """A new folder below ``parent`` for a run's own files."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    folder = Path(parent).absolute() / f"{run_name}-{now}"
    folder.mkdir(parents=True)
    return folder


def folder_to_resume(job: Job, run_name: str, which: str | None) -> Path | None:
    """The folder of the run that shall go on: the one named, or the newest of this name; ``None`` where there is none.

    Raises:
        ConfigError: it has ended, or the one that was named is not there.
    """
    parent = Path(job.tracking.folder).absolute()
    if which is not None:
        folder = Path(which).absolute() if os.sep in which else parent / which
    else:
        names = {each.name for each in parent.glob(f"{run_name}-*") if each.is_dir()}
        if job.checkpoints.folder is not None:
            names |= {name.partition("/")[0] for name in Store(job.checkpoints.folder).names(f"{run_name}-")}
        if not names:
            return None
        folder = parent / max(names)
    if (folder / FINISHED).exists():
        do = "start a new run, without --resume"
        raise ConfigError(complaint(f"--resume, {folder}", expected="a run that has not ended", found=FINISHED, do=do))
    if not folder.is_dir():
        if which is not None and job.checkpoints.folder is None:
            do = "name a run's folder, or leave the name out for the newest"
            raise ConfigError(complaint(f"--resume, {folder}", expected="a run's folder", found="none", do=do))
        folder.mkdir(parents=True)  # of a machine that is gone: its checkpoints are elsewhere
    return folder


def checkpoints_of(job: Job, folder: Path) -> str:
    """Folder or URL of a run's checkpoints."""
    other = job.checkpoints.folder
    return str(folder / "checkpoints") if other is None else f"{other.rstrip('/')}/{folder.name}"


@contextlib.contextmanager
def alone_in(folder: Path, flag: str = "--resume") -> Iterator[None]:
    """Keeps other processes out of a run's folder, and clears away what a killed one was writing there.

    ``flag`` is what wants it, for the message.

    Raises:
        ConfigError: one is in it.
    """
    with (folder / LOCK).open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            do = "wait for it, or end it"
            raise ConfigError(
                complaint(f"{flag}, {folder}", expected="a run that is not running", found="one that is", do=do)
            ) from None
        remove_partials(folder, "*.safetensors", "*.json", "skipped_*")
        yield


def fixed_settings(plan: Plan) -> dict[str, str]:
    """What fixes the bits of a run, under its flags' names: a checkpoint is of these."""
    job, fixed = plan.job, {}
    for name, value in settings(plan.job):
        if not name.startswith(FREE):
            fixed[name] = value
    fixed["lanes"] = str(plan.order.lanes)
    growing = isinstance(job.mode, Online) and job.mode.follow
    fixed["dataset"] = str(plan.manifest.segments[0]) if growing else plan.manifest.digest
    if job.sgd.schedule.kind in ENDING:
        fixed["mode.max_passes"] = str(plan.passes)
    return fixed


def check_settings(saved: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Refuses to go on with another job.

    Raises:
        ConfigError: naming the first setting that differs.
    """
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            where, do = f"--resume, {name}", f"set it back, or start a new run ({folder} stays as it is)"
            expected, found = (f"{each.get(name, 'nothing')}" for each in (saved, now))
            raise ConfigError(complaint(where, expected=f"{expected}, as the run began", found=found, do=do))
