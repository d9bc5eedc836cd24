"""Probes of the loss surface: of a run that has ended or left a checkpoint, and on the way of one that goes on."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import ConfigError, complaint, one_line
from streamtrain.job import Job
from streamtrain.landscape.probe import Probe, Prober
from streamtrain.measure.run_curves import cost_readings
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.parameters import kept_parameters
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.folder import RunFolder
from streamtrain.store import write_whole
from streamtrain.track.journal import Journal, entries_of
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import Tracker
from streamtrain.values import Reading

if TYPE_CHECKING:
    import torch

ITERATIONS = 20
"""Products with the Hessian of a probe on the way, at most."""
PLACE = "probes"
"""Of probes among the artifacts of a run."""


def probe(job: Job, run: Path, *, examples: int = 2000, iterations: int = 40) -> Probe:
    """Probes the parameters that a run kept, those of its last checkpoint where it has not ended, or those of one file.

    Args:
        job: with which they were trained.
        run: the run's folder, a checkpoint's ``.safetensors`` in it, or any other ``.safetensors`` of a state dict.
        examples: of the training split.
        iterations: products with the Hessian, at most.

    Raises:
        ConfigError: no such parameters, or they are not the job's. DataError: the data set is damaged.
    """
    tensors, step = kept_parameters(job, Path(run))
    return Prober(plan(job), examples=examples, iterations=iterations).probe(tensors, step)


def command_of(folder: RunFolder, asking: str = "probe") -> tuple[str, list[str]]:
    """Job file and flags of the `streamtrain train` that began a run, by its journal.

    Raises:
        ConfigError: something else began it, or a secret in the command is not in the journal.
    """
    first = next(entries_of(folder.journal), None) if folder.journal.is_file() else None
    command = str(first["card"]["tags"].get("command", "")) if first is not None else f"no {folder.journal.name}"
    words = shlex.split(command)
    if words[1:2] != ["train"] or len(words) < 3 or "***" in command:
        do = "name the job file, --job JOB.py"
        expected = "a run that `streamtrain train` began"
        raise ConfigError(
            complaint(f"{asking}, {folder.path}", expected=expected, found=command or "no command", do=do)
        )
    return words[2], words[3:]


def readings_of(found: Probe, step: int, time: float) -> list[Reading]:
    """The numbers of a probe after ``step`` updates, under ``probe/``; those that there are."""
    at = found.curvature
    ends = found.spectrum
    through = found.through_time
    values: dict[str, float | None] = {
        "loss": at.loss,
        "squared_gradient": at.squared_gradient,
        "gradient_curvature": at.gradient_curvature,
        "predicted_change": at.predicted,
        "measured_change": at.measured,
        "best_step": at.best_step,
        "largest_step": at.largest_step,
        "smallest_eigenvalue": ends.smallest,
        "largest_eigenvalue": ends.largest,
        "negative_eigenvalues_part": ends.negative,
        "growth_through_time": None if through is None else through.growth,
        "spectral_radius": None if through is None else through.spectral_radius,
    }
    values |= {} if found.directions is None else found.directions.values
    last = max(step - 1, 0)  # the update that led here, as with all other curves
    return [Reading(f"probe/{name}", value, last, time) for name, value in values.items() if value is not None]


def write_files(found: Probe, step: int, folder: RunFolder) -> Iterator[Path]:
    """Writes a probe after ``step`` updates below the run's folder: its figure, its words, its numbers."""
    from streamtrain.track.figures import save

    folder.probes.mkdir(exist_ok=True)
    figure, words, numbers = (folder.probe(step, ending) for ending in (".png", ".txt", ".json"))
    save(found.figure(), figure)
    write_whole(words, (found.words + "\n").encode())
    write_whole(numbers, json.dumps(found.summary(), indent=1).encode())
    yield from (figure, words, numbers)


def journal_probe(found: Probe, folder: RunFolder) -> None:
    """Adds a probe to the journal of a run that is not going on, for `sync` to deliver; points that it has are left.

    Raises:
        ConfigError: it was not tracked, or after how many updates the probe was made is not known.
    """
    if not folder.journal.is_file() or found.step is None:
        do = "name the folder or a checkpoint of a run that was tracked, or leave --log out"
        missing = "no number of updates" if folder.journal.is_file() else f"no {folder.journal.name}"
        raise ConfigError(complaint(f"--log, {folder.path}", expected="a run's journal", found=missing, do=do))
    there = {(name, at) for entry in entries_of(folder.journal) for name, _, at, _ in entry.get("readings", ())}
    new = [each for each in readings_of(found, found.step, time.time()) if (each.name, each.step) not in there]
    journal = Journal(folder.path)
    journal.append("readings", readings=[(each.name, each.value, each.step, each.time) for each in new])
    journal.append("tags", tags={"probe.point": found.point})
    for file in write_files(found, found.step, folder):
        journal.append("artifact", file=str(file.relative_to(folder.path)), place=PLACE)
    journal.close()


class Probes:
    """Those on the way of a run, every `Job.probe_every` updates, made in this process while the workers wait.

    They change no bit. A line says so where one fails, and it is the last; the run goes on.
    """

    def __init__(self, plan: Plan, tracker: Tracker, terminal: Terminal, folder: RunFolder) -> None:
        self._plan = plan
        self._tracker = tracker
        self._terminal = terminal
        self._folder = folder
        self._every = plan.job.probe_every
        self._prober: Prober | None = None

    def before(self, target: int, step: int) -> int:
        """Where to pause on the way from ``step`` to ``target``."""
        return target if self._every is None else min(target, (step // self._every + 1) * self._every)

    def take(self, snapshot: Callable[[], Mapping[str, torch.Tensor]], progress: Progress) -> None:
        """Makes a probe, where one is due and time is left for it."""
        step = progress.step
        if self._every is None or step % self._every or not progress.measures.probing.affords(progress.seconds):
            return
        began = time.monotonic()
        tensors = snapshot()
        try:
            if self._prober is None:
                job = self._plan.job
                self._prober = Prober(self._plan, examples=job.probe_examples, iterations=ITERATIONS)
            found = self._prober.probe(tensors, step)
            for file in write_files(found, step, self._folder):
                self._tracker.artifact(file, PLACE)
        except Exception as error:  # the user's model may not bend twice, or the disk be full
            self._every = None
            self._tracker.tag("probe.failed", one_line(error))
            self._terminal.line(f"no probe after {step:,} updates, and none later: {one_line(error)[:300]}")
            return
        progress.measures.probing.spend(time.monotonic() - began)
        now = time.time()
        costs = cost_readings("probe", progress.measures.probing, progress.seconds, step - 1, now)
        self._tracker.log([*readings_of(found, step, now), *costs])
        self._tracker.tag("probe.point", found.point)
        self._terminal.line(f"probe {found.short}")

    def end(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """The run has come to these: −g of every probe against the way from there to them."""
        if self._prober is not None:
            cosines = self._prober.cosines_to(parameters)
            now = time.time()
            at = [Reading("probe/cosine_to_end", cosine, max(step - 1, 0), now) for step, cosine in cosines.items()]
            self._tracker.log(at)
