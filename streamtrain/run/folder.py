"""A run's folder: the name of every file in it, and whose turn it is to write there.

Nobody else spells these names. Three files are the journal's own (`streamtrain.track.journal`), and what a checkpoint
is made of stands in `streamtrain.run.checkpoints.checkpoint_files`, since checkpoints may lie in a bucket.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamtrain.errors import ConfigError, complaint, one_line
from streamtrain.job import RUNS, Job
from streamtrain.store import remove_partials
from streamtrain.store.remote import Store
from streamtrain.track import journal

LOCK = "lock"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
PARTLY_WRITTEN = ("*.safetensors", "*.json", "*.csv", "skipped_*")
"""Patterns of the files that a killed process may have left half-written; the journal clears its own away."""
State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class RunFolder:
    """See the module. ``path`` is absolute, or relative to the folder that the process works in."""

    path: Path

    @classmethod
    def new(cls, parent: str, run_name: str) -> RunFolder:
        """Makes one below ``parent``, whose name ends in the time: of two, the later one's name is the greater."""
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        path = Path(parent).absolute() / f"{run_name}-{now}"
        path.mkdir(parents=True)
        return cls(path)

    @classmethod
    def of(cls, place: Path) -> RunFolder:
        """The one that is meant by itself, by a file in it, or by one of its checkpoints."""
        if place.is_dir():
            return cls(place)
        return cls(place.parent.parent if place.parent.name == CHECKPOINTS else place.parent)

    @classmethod
    def existing(cls, place: Path) -> RunFolder:
        """The same, where there is something of that name.

        Raises:
            ConfigError: there is nothing.
        """
        found = cls.of(place)
        if not (place.exists() or found.lock.exists()):
            runs = [each.parent for each in place.parent.glob(f"*/{LOCK}")]
            newest = max(runs, key=lambda each: each.stat().st_mtime, default=None)
            do = f"name one that is there, as {newest}" if newest else "give its path"
            raise ConfigError(complaint(str(place), expected="a run's folder", found="no such folder", do=do))
        return found

    @property
    def name(self) -> str:
        """The run's name and the time at which it began."""
        return self.path.name

    @property
    def lock(self) -> Path:
        """Held by the process that trains; there in every run's folder."""
        return self.path / LOCK

    @property
    def status(self) -> Path:
        """How far the run is, as JSON."""
        return self.path / "status.json"

    @property
    def journal(self) -> Path:
        """Every number, written before anybody tries to deliver it."""
        return self.path / journal.FILE

    @property
    def initial(self) -> Path:
        """The parameters that the run began with, where they are not those that the model's function draws."""
        return self.path / "initial.safetensors"

    @property
    def best(self) -> Path:
        """Of many passes: the parameters with the lowest validation error so far."""
        return self.path / "best.safetensors"

    @property
    def last_good(self) -> Path:
        """The parameters before the loss or the gradient was not finite, and the run ended."""
        return self.path / "last_good.safetensors"

    @property
    def parameters(self) -> Path:
        """What a finished run was for."""
        return self.path / "parameters.safetensors"

    @property
    def result(self) -> Path:
        """What a finished run found, as JSON; only finished runs have it."""
        return self.path / RESULT

    @property
    def trace(self) -> Path:
        """A few steps of all workers, as a Chrome trace."""
        return self.path / "trace.json"

    @property
    def probes(self) -> Path:
        """Folder of the probes that were made on the way."""
        return self.path / "probes"

    @property
    def probe_figure(self) -> Path:
        """Of a probe that was asked for by itself."""
        return self.path / "probe.png"

    @property
    def risk_page(self) -> Path:
        """Both risks and the gap, to be looked at in a browser."""
        return self.path / "risk.html"

    def about(self, name: str) -> Path:
        """A file of what the run was made of."""
        return self.path / "about" / name

    @property
    def layers(self) -> Path:
        """Norms of each parameter tensor along the run, as a table."""
        return self.path / "layers.csv"

    @property
    def layer_figure(self) -> Path:
        """The same as a map."""
        return self.path / "layers.png"

    @property
    def by_class(self) -> Path:
        """A classifier's error of each class, as a table."""
        return self.path / "by_class.csv"

    @property
    def confusion(self) -> Path:
        """How often each class was taken for each, as a table."""
        return self.path / "confusion.csv"

    @property
    def class_figure(self) -> Path:
        """Both as a picture."""
        return self.path / "by_class.png"

    def table(self, name: str) -> Path:
        """An array that a metric of the whole held-out set gave."""
        return self.path / f"table_{name}.csv"

    def risk_figure(self, which: str) -> Path:
        """Both risks and the gap of the ``loss`` or the ``error``."""
        return self.path / f"risk_{which}.png"

    def comparison_figure(self, quantity: str) -> Path:
        """Of `streamtrain compare`, in a folder of its own."""
        return self.path / f"comparison_{quantity}.png"

    @property
    def skipped_lists(self) -> Path:
        """What messages call the lists of bad examples, however long the next one is."""
        return self.path / "skipped"

    def skipped(self, examples: int) -> Path:
        """The list of so many bad examples that were passed over."""
        return self.path / f"skipped_{examples}.jsonl"

    def probe(self, step: int, ending: str) -> Path:
        """A file of the probe after ``step`` updates."""
        return self.probes / f"probe_{step:09d}{ending}"

    def checkpoints(self, elsewhere: str | None) -> str:
        """Folder or URL of its checkpoints: below ``elsewhere`` under its own name, or in itself."""
        return str(self.path / CHECKPOINTS) if elsewhere is None else f"{elsewhere.rstrip('/')}/{self.name}"

    @property
    def finished(self) -> bool:
        """Whether the run has ended with a result."""
        return self.result.exists()

    def state(self) -> State:
        """How the run stands.

        Raises:
            ConfigError: this is no run's folder.
        """
        if not self.lock.exists():
            found = "another folder" if self.path.is_dir() else "no such folder"
            do = f"`streamtrain status` lists those below {RUNS}/ that are running"
            raise ConfigError(complaint(str(self.path), expected="a run's folder", found=found, do=do))
        if self._locked():
            return "running"
        return "finished" if self.finished else "stopped"

    @contextlib.contextmanager
    def alone(self, flag: str = "--resume") -> Iterator[None]:
        """Keeps other processes out in the block, and clears away what a killed one was writing here.

        ``flag`` is what wants it, for the message.

        Raises:
            ConfigError: one is in it.
        """
        with self.lock.open("w") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                do = "wait for it, or end it"
                raise ConfigError(
                    complaint(f"{flag}, {self.path}", expected="a run that is not running", found="one that is", do=do)
                ) from None
            remove_partials(self.path, *PARTLY_WRITTEN)
            yield

    @property
    def holds_nothing(self) -> bool:
        """Whether no measurement and no parameters are in it."""
        entries = journal.entries_of(self.journal) if self.journal.is_file() else ()
        parameters = (file for file in self.path.rglob("*.safetensors") if file != self.initial)
        return not any("readings" in entry for entry in entries) and not any(parameters)

    def _locked(self) -> bool:
        with self.lock.open() as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


class OptionalFiles:
    """Files that a run goes on without where they cannot be written; a line says so once for each.

    Args:
        say: takes the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._missing: set[Path] = set()

    @contextlib.contextmanager
    def writing(self, file: Path) -> Iterator[None]:
        """The block writes the file."""
        try:
            yield
        except OSError as error:
            if file not in self._missing:
                self._say(f"{file} could not be written: {one_line(error)}; the run goes on")
            self._missing.add(file)
        else:
            self._missing.discard(file)


def running_below(parent: Path) -> list[RunFolder]:
    """The folders below ``parent`` whose runs are running, the first one first."""
    found = [RunFolder(lock.parent) for lock in sorted(parent.glob(f"*/{LOCK}"), key=os.path.getmtime)]
    return [each for each in found if each.state() == "running"]


def folder_named(job: Job, run_name: str, which: str | None) -> RunFolder | None:
    """The folder of the run that is meant: the one named, or the newest of this name; ``None`` where there is none."""
    parent = Path(job.tracking.folder).absolute()
    if which is not None:
        return RunFolder(Path(which).absolute() if os.sep in which else parent / which)
    names = {each.name for each in parent.glob(f"{run_name}-*") if each.is_dir()}
    if job.checkpoints.folder is not None:
        names |= {name.partition("/")[0] for name in Store(job.checkpoints.folder).names(f"{run_name}-")}
    return RunFolder(parent / max(names)) if names else None


def folder_to_resume(job: Job, run_name: str, which: str | None, *, ended_too: bool = False) -> RunFolder | None:
    """The folder of the run that shall go on, as `folder_named` finds it; ``ended_too``: it may have ended.

    Raises:
        ConfigError: it has ended, or the one that was named is not there.
    """
    folder = folder_named(job, run_name, which)
    if folder is None:
        return None
    path = folder.path
    if folder.finished and not ended_too:
        do = "start a new run, without --resume, or go on by --more-passes N or --branch"
        raise ConfigError(complaint(f"--resume, {path}", expected="a run that has not ended", found=RESULT, do=do))
    if not path.is_dir():
        if which is not None and job.checkpoints.folder is None:
            do = "name a run's folder, or leave the name out for the newest"
            raise ConfigError(complaint(f"--resume, {path}", expected="a run's folder", found="none", do=do))
        path.mkdir(parents=True)  # of a machine that is gone: its checkpoints are elsewhere
    return folder
