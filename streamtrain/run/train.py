"""`st.train`: a job from its declaration to its result."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrain.errors import ConfigError, Interrupted, StreamtrainError, complaint, one_line
from streamtrain.inspect.made_of import data_report
from streamtrain.job import Job, Online
from streamtrain.prepare.description import all_settings, card_of, job_file, shares_in_words
from streamtrain.run.checkpoints.beginning import Beginning
from streamtrain.run.folder import RunFolder
from streamtrain.store import masked, write_whole

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan
    from streamtrain.prepare.trial import Trial
    from streamtrain.run.checkpoints.checkpoint_files import Checkpoint
    from streamtrain.run.checkpoints.keeper import Keeper
    from streamtrain.run.fleet.protocol import Fleet, Spare
    from streamtrain.run.outcome.result import Result
    from streamtrain.shards import Manifest
    from streamtrain.track.terminal import Terminal
    from streamtrain.track.tracker import Tracker
    from streamtrain.values import Reading

    _Team = tuple[Fleet, Spare | None]

YOUNG_SECONDS = 60.0
"""A process that trains for the first time after so long has not begun in order to train."""
RUNS = itertools.count()
"""Of this process."""


def train(
    job: Job,
    *,
    name: str = "job",
    quiet: bool = False,
    resume: bool | str = False,
    branch: bool = False,
    more_passes: int = 0,
    start_from: str | Path | None = None,
    inline: bool = False,
    tracker: Tracker | None = None,
) -> Result:
    """Trains ``job`` on Ray: on this machine, or on the cluster that RAY_ADDRESS names.

    Args:
        name: what the run is called, with its mode, unless ``tracking.run_name`` says otherwise.
        quiet: nothing about progress on standard error.
        resume: goes on with the newest run of this name, or with the one whose folder is given, from its last good
            checkpoint; begins where there is none.
        branch: goes on in a new run with other settings; ``resume`` may be a checkpoint's ``.safetensors``.
        more_passes: than the run was given that goes on; it may have ended.
        start_from: a run, or a ``.safetensors`` of a state dict, with whose parameters a new run begins.
        inline: everything in this process by one worker, without Ray: the same bits, and breakpoints work.
        tracker: takes the run's numbers in place of MLflow.

    Raises:
        ConfigError, DataError: before anything starts.
        TrainingError: what stopped the run.
        Interrupted: SIGTERM asked it to stop; a checkpoint is written.
    """
    from streamtrain.track.terminal import terminal_here

    terminal = terminal_here(quiet=quiet)
    run_name = job.tracking.run_name or f"{name}-{'online' if isinstance(job.mode, Online) else 'epochs'}"
    beginning = Beginning(resume, branch, more_passes, None if start_from is None else str(start_from))
    prepared = _prepared(job, run_name, beginning, terminal, inline=inline)
    plan = prepared.plan
    tracker = tracker or _tracker(job, terminal)
    _announce(prepared, run_name, terminal)
    if not inline:
        _start_ray(plan, terminal)
    folder = prepared.folder or RunFolder.new(job.tracking.folder, run_name)
    if resume:
        terminal.line(f"{folder.name}: {prepared.where}")
    with folder.alone():
        return _tracked(prepared, run_name, folder, tracker, terminal)


def _tell_about(plan: Plan, folder: RunFolder, tracker: Tracker, terminal: Terminal) -> None:
    """Gives the tracker what the run is made of; a run goes on without what cannot be had."""
    try:
        settings = json.dumps(all_settings(plan), indent=1) + "\n"
        texts = {"settings.json": settings}
        if (declared := job_file(plan.job)) is not None:
            texts[declared.name] = masked(declared.read_text(errors="replace"))
        mixed = [(str(each.folder), each.manifest) for each in plan.sources]
        packed = mixed or [(plan.job.data.place, plan.manifest)]
        texts["data.txt"] = "\n".join(data_report(*each) for each in packed)
        for name, text in texts.items():
            file = folder.about(name)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, text.encode())
            tracker.artifact(file, "about")
    except (OSError, StreamtrainError) as error:
        terminal.line(f"{folder.name}: what it is made of could not be kept ({one_line(error)}); the run goes on")


@dataclass(frozen=True)
class _Prepared:
    """A job that may start. ``folder`` and ``last``: of the run that goes on, where there is one.

    ``tags`` say where a new one comes from. ``listeners`` are the job's, which the plan's has no more: they stay in
    this process, whatever they hold.
    """

    plan: Plan
    trial: Trial
    folder: RunFolder | None
    last: Checkpoint | None
    inline: bool
    tags: Mapping[str, str]
    listeners: tuple[Callable[[Any], object], ...] = ()

    @property
    def where(self) -> str:
        """Where a run goes on, in words."""
        at = f"step {self.last.step:,}" if self.last else "no checkpoint, so from the beginning"
        return f"branch of {self.tags['lineage.branch_of']} at {at}" if "lineage.branch_of" in self.tags else at


def _start_ray(plan: Plan, terminal: Terminal) -> None:
    from streamtrain.run.fleet.cluster.placing import check_resources
    from streamtrain.run.fleet.cluster.starting import start_ray

    start_ray(terminal.line)
    check_resources(plan)


def _prepared(job: Job, run_name: str, beginning: Beginning, terminal: Terminal, *, inline: bool) -> _Prepared:
    """Refuses what can be refused before Ray starts.

    Raises:
        ConfigError, DataError: with what was found.
    """
    from streamtrain.prepare.plan import plan as plan_of
    from streamtrain.prepare.surroundings import (
        check_cpus,
        check_process,
        check_run_folders,
        room_for_ray,
        usable_cpus,
    )
    from streamtrain.prepare.trial import preflight
    from streamtrain.run.checkpoints.beginning import earlier_of, with_initial
    from streamtrain.run.checkpoints.resuming import as_the_checkpoint, begun_with

    check_process()
    check_run_folders(job)
    if not inline and _will_start_ray():
        room_for_ray(job.least_workers)
    listeners = tuple(job.listeners)
    job = dataclasses.replace(job, listeners=())
    earlier = earlier_of(job, run_name, beginning, terminal.line)
    last = earlier.last
    job = job if last is None else begun_with(job, last)
    if inline:
        from streamtrain.run.fleet.inline import alone

        job = alone(job)
    job, tags = with_initial(job, earlier, beginning.parameters, terminal.line)
    plan = plan_of(job)
    if last is not None:
        plan = as_the_checkpoint(plan, last, None if earlier.folder is None else earlier.folder.path)
    if inline or _will_start_ray():
        check_cpus(job, usable_cpus())
    trial = preflight(plan)
    plan = dataclasses.replace(plan, labels_as_stored=trial.labels_as_stored, example_bytes=trial.example_bytes)
    return _Prepared(plan, trial, earlier.folder, last, inline, {**earlier.tags, **tags}, listeners)


def _will_start_ray() -> bool:
    from streamtrain.run.fleet.cluster.starting import will_start_ray

    return will_start_ray()


def _announce(prepared: _Prepared, run_name: str, terminal: Terminal) -> None:
    """What is about to run; a warning where the data are not as shuffled as they should be, or what will be missing."""
    from streamtrain.inspect.audit import order_warning
    from streamtrain.prepare.plan import LEAST_MEASURED
    from streamtrain.run.outcome.handing_over import by_pickle
    from streamtrain.stream.fetch.unpacked import data_folder

    plan = prepared.plan
    job = plan.job
    order = plan.order
    terminal.line(f"{run_name}: {order.used:,} examples a pass in {order.steps:,} steps, {_counted(job)} worker(s)")
    if plan.parts is not None:
        terminal.line(f"{run_name}: {shares_in_words(plan)}")
    part, there = plan.held_out(), plan.held_out(whole=True)
    if part < there and job.evaluate.examples is None and job.evaluate.until is None:
        why = "about a tenth of the work" if part > LEAST_MEASURED else "the fewest that are looked at"
        terminal.line(
            f"{run_name}: risks are measured on {part:,} of {there:,} validation examples, {why}; "
            f"evaluate.examples says on how many"
        )
    lie: list[tuple[Path | None, Manifest]] = [(each.folder, each.manifest) for each in plan.sources]
    for folder, manifest in lie or [(data_folder(job.data.place), plan.manifest)]:
        if folder and (warning := order_warning(folder, manifest)):
            terminal.line(warning)
    if prepared.trial.unlogged is not None:
        do = "let its parts be pickled, or set tracking.log_model to False; its parameters are kept either way"
        what = "the model for MLflow"
        terminal.line(complaint(what, expected="one that can be saved", found=prepared.trial.unlogged, do=do))
    elif prepared.trial.prospect.not_exported is not None:
        terminal.line(by_pickle(prepared.trial.prospect.not_exported))
    for line in prepared.trial.prospect.outside:
        terminal.line(f"the model for MLflow, {line}")


def _began() -> float:
    """When this process began (Unix seconds), imports and all; now, where it has done other things before."""
    import psutil

    began = psutil.Process().create_time()
    now = time.time()
    return float(began) if next(RUNS) == 0 and now - began < YOUNG_SECONDS else now


def _counted(job: Job) -> str:
    least, most = job.least_workers, job.most_workers
    return str(most) if least == most else f"{least} to {most}"


def _tracked(prepared: _Prepared, run_name: str, folder: RunFolder, tracker: Tracker, terminal: Terminal) -> Result:
    """Trains, and tells the tracker and the terminal how it ended."""
    from streamtrain.model.module.initial import InitialParameters
    from streamtrain.run.checkpoints.parameters import save_result

    folder.result.unlink(missing_ok=True)  # it has ended no more
    if isinstance(prepared.plan.job.model, InitialParameters) and not folder.initial.exists():
        save_result(folder.initial, prepared.plan.job.model.tensors)  # for a run that goes on without a checkpoint
    card = card_of(prepared.plan, run_name, prepared.trial.trains_otherwise, prepared.tags)
    tracker.begin(card, folder.path, prepared.last.run_id if prepared.last else None)
    _tell_about(prepared.plan, folder, tracker, terminal)
    try:
        result = _train(prepared, run_name, folder, tracker, terminal)
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, Interrupted))
        left = tracker.finish("killed" if stopped else "failed", str(error))
        if isinstance(error, ConfigError) and prepared.folder is None and left is None and folder.holds_nothing:
            shutil.rmtree(folder.path)
            terminal.line(f"{run_name}: nothing is kept of it, so {folder.path} is removed")
        else:
            there = f"{folder.path} and in MLflow" if tracker.run_id else folder.path
            terminal.line(left or f"{run_name}: what was measured is in {there}")
        raise
    left = tracker.finish("finished", result.stop_reason)
    if left:
        terminal.line(left)
    return dataclasses.replace(result, run_id=tracker.run_id, left=left)


def _train(prepared: _Prepared, run_name: str, folder: RunFolder, tracker: Tracker, terminal: Terminal) -> Result:
    """From the last checkpoint, or the beginning, to the result, which is kept."""
    from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
    from streamtrain.run.checkpoints.keeper import Keeper
    from streamtrain.run.checkpoints.resuming import fixed_settings
    from streamtrain.run.controller import Controller
    from streamtrain.run.outcome.handing_over import hand_over
    from streamtrain.run.watching.listening import Listeners
    from streamtrain.run.watching.status import FirstSteps
    from streamtrain.track.tracker import Trackers

    def ended(why: str) -> None:
        tracker.finish("killed", why)
        terminal.line(f"{run_name}: {why}")

    began = _began()
    plan = prepared.plan
    job = plan.job
    files = CheckpointFiles(folder.checkpoints(job.checkpoints.folder), job.checkpoints.keep, terminal.line)
    kept = files if job.checkpoints.enabled else None
    workers = _inline if prepared.inline else _over_ray
    with (
        Keeper(job, fixed_settings(plan), kept, prepared.last, lambda: tracker.run_id) as keeper,
        workers(plan, keeper, terminal, ended) as (fleet, spare),
    ):
        watchers = [tracker, FirstSteps(began, terminal)] + ([] if prepared.inline else [_ray_metrics(run_name)])
        listeners = Listeners(prepared.listeners, job.on_listener_error, terminal.line)
        trackers = Trackers(*watchers, taken=_layers_aside(job, folder, terminal))
        result = Controller(plan, fleet, trackers, terminal, folder.path, keeper, listeners, spare).run()
    for problem in hand_over(plan, prepared.trial, run_name, result, tracker):
        terminal.line(problem)
    return result


def _layers_aside(job: Job, folder: RunFolder, terminal: Terminal) -> Callable[[Sequence[Reading]], Sequence[Reading]]:
    """Keeps from trackers points of layers, unless the job wants their curves, and what says the loss again."""
    from streamtrain.run.folder import OptionalFiles
    from streamtrain.run.outcome.chosen import repeats_loss
    from streamtrain.track.layer_table import LayerTable, is_of_layer

    table = LayerTable(folder.layers)
    optional = OptionalFiles(terminal.line)

    def left(readings: Sequence[Reading]) -> Sequence[Reading]:
        if table.take(readings):
            with optional.writing(folder.layers):
                table.write()
        kept = readings if job.tracking.layer_curves else [each for each in readings if not is_of_layer(each)]
        return [each for each in kept if not repeats_loss(each.name)] if job.error_is_loss else kept

    return left


@contextlib.contextmanager
def _inline(plan: Plan, keeper: Keeper, terminal: Terminal, ended: Callable[[str], None]) -> Iterator[_Team]:
    """The one worker in this process."""
    from streamtrain.run.checkpoints.signals import stopped_by_signal
    from streamtrain.run.fleet.inline import InlineFleet

    with (
        stopped_by_signal(keeper, lambda: False, ended),
        InlineFleet(plan, keeper.start, terminal.line, keeper.begin()[0].fingerprint) as fleet,
    ):
        yield fleet, None


@contextlib.contextmanager
def _over_ray(plan: Plan, keeper: Keeper, terminal: Terminal, ended: Callable[[str], None]) -> Iterator[_Team]:
    """Workers as actors, and who measures beside them; where Ray is stopped with the run, it ends by what is kept.

    Who measures takes room first, since workers whose number may grow take all that there is; but not on the only node
    that holds workers who must be together.
    """
    from streamtrain.run.checkpoints.signals import stopped_by_signal
    from streamtrain.run.fleet.actors.ray_fleet import RayFleet
    from streamtrain.run.fleet.actors.spare import SpareProcess
    from streamtrain.run.fleet.cluster.ray_private import own_ray_ended

    with (
        stopped_by_signal(keeper, own_ray_ended, ended),
        SpareProcess(plan, terminal.line) if plan.job.evaluate.beside else contextlib.nullcontext() as spare,
        RayFleet(plan, keeper.start, terminal.line, keeper.begin()[0].fingerprint) as fleet,
    ):
        if spare is not None:
            spare.must_be_like(fleet.likeness)
        yield fleet, spare


def _ray_metrics(run_name: str) -> Tracker:
    from streamtrain.run.fleet.cluster.ray_metrics import RayMetrics

    return RayMetrics(run_name)


def _tracker(job: Job, terminal: Terminal) -> Tracker:
    """Where the job's numbers go; a wrong URI, or a place that cannot be written, is refused here."""
    from streamtrain.prepare.surroundings import check_database
    from streamtrain.track.mlflow import MlflowTracker, default_uri
    from streamtrain.track.tracker import NoTracker

    if job.tracking.enabled:
        check_database(job)
    return MlflowTracker(job.tracking.uri or default_uri(), say=terminal.line) if job.tracking.enabled else NoTracker()
