"""Where a run begins: anew, where an earlier one stands, or as a branch of one, whose folder stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamtrain.checks import require, require_count
from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Epochs, Job
from streamtrain.run.checkpoints.checkpoint_files import Checkpoint, CheckpointFiles
from streamtrain.run.checkpoints.parameters import kept_parameters
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.folder import RunFolder, folder_named, folder_to_resume


@dataclass(frozen=True)
class Beginning:
    """What was asked for.

    Attributes:
        resume: goes on with the newest run of the name, or with the one whose folder is given.
        branch: as a new run; then a checkpoint's ``.safetensors`` may be given in place of the folder.
        more_passes: than the run was given.
        parameters: to begin with, unless an earlier run goes on: those that a run has kept, or a ``.safetensors``.
    """

    resume: bool | str = False
    branch: bool = False
    more_passes: int = 0
    parameters: str | None = None

    def __post_init__(self) -> None:
        require_count("--more-passes", self.more_passes, lowest=0)
        do = "add --resume, or --resume RUN"
        for name, given in (("--branch", self.branch), ("--more-passes", self.more_passes > 0)):
            require(not given or bool(self.resume), name, "a run to go on from", "none", do)
        do = "leave one of them out: a branch begins with its checkpoint's parameters"
        require(not self.branch or self.parameters is None, "--from", "none with --branch", self.parameters, do)


@dataclass(frozen=True)
class Earlier:
    """What a run goes on from.

    Attributes:
        folder: where it goes on; ``None`` for a new one.
        last: the checkpoint; ``None`` for the beginning.
        tags: where it comes from, for MLflow, unless it is the same run.
        initial: the file of the parameters that it began with, where the model's function did not draw them.
    """

    folder: RunFolder | None = None
    last: Checkpoint | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    initial: Path | None = None


def earlier_of(job: Job, run_name: str, beginning: Beginning, say: Callable[[str], None]) -> Earlier:
    """Finds the run that shall go on, and its last good checkpoint.

    Args:
        say: takes a line about a checkpoint that is passed over.

    Raises:
        ConfigError: it has ended and is to get no more passes, or it, or a checkpoint that is needed, is not there.
    """
    more = beginning.more_passes
    do = "give max_examples or more data in place of passes"
    require(not more or isinstance(job.mode, Epochs), "--more-passes", "a run of many passes", "mode online", do)
    which = beginning.resume if isinstance(beginning.resume, str) else None
    if beginning.branch:
        return _branched(job, run_name, which, more, say)
    folder = folder_to_resume(job, run_name, which, ended_too=more > 0) if beginning.resume else None
    last = None if folder is None else _files(job, folder, say).newest()
    if more and last is None:
        raise _nothing_to_go_on_from("--more-passes", run_name if folder is None else str(folder.path))
    if folder is None:
        return Earlier()
    return Earlier(folder, last and (going_on(last, job, more) if more else last), initial=_initial(folder))


def _initial(folder: RunFolder) -> Path | None:
    return folder.initial if folder.initial.exists() else None


def with_initial(
    job: Job, earlier: Earlier, parameters: str | None, say: Callable[[str], None]
) -> tuple[Job, dict[str, str]]:
    """The job whose model begins with the parameters that were asked for, or that an earlier run began with.

    Args:
        parameters: a run's folder, or a ``.safetensors`` of a checkpoint or a state dict; ``None`` for none.
        say: takes a line about what they are.

    Returns:
        The job, and where they come from, for MLflow.

    Raises:
        ConfigError: they are not there, or are not the model's, by name.
    """
    tags: dict[str, str] = {}
    if earlier.initial is not None:
        parameters = str(earlier.initial)
    elif parameters is not None and earlier.last is not None:
        say(f"--from {parameters} is not used: the run goes on from its checkpoint")
        parameters = None
    elif parameters is not None:
        tags["lineage.parameters_of"] = str(Path(parameters).absolute())
    if parameters is None:
        return job, tags
    from streamtrain.model.gradient import build_model
    from streamtrain.model.module.initial import InitialParameters, fitted

    tensors, step = kept_parameters(job, Path(parameters))
    found = fitted(build_model(job), tensors, f"--from, {parameters}")
    if tags:
        at = "" if step is None else f", after {step:,} updates"
        say(f"the run begins with {len(found):,} tensors of {parameters}{at}")
        tags |= {} if step is None else {"lineage.step": str(step)}
    return dataclasses.replace(job, model=InitialParameters(job.model, found)), tags


def going_on(last: Checkpoint, job: Job, more_passes: int) -> Checkpoint:
    """The checkpoint of a run that may have ended, so that it goes on.

    Where early stopping has ended it, or is about to, patience counts anew from here.
    """
    progress = Progress.from_json(dict(last.progress)).under(job)
    progress.ended = None
    progress.more_passes += more_passes
    if progress.evaluations and progress.stopping.should_stop:
        progress.patience_from = len(progress.evaluations)
    return dataclasses.replace(last, progress=progress.to_json())


def _branched(job: Job, run_name: str, which: str | None, more: int, say: Callable[[str], None]) -> Earlier:
    """From a run's newest checkpoint, or from the one that is named."""
    is_file = which is not None and which.endswith(".safetensors")
    folder = RunFolder.of(Path(which).absolute()) if which and is_file else folder_named(job, run_name, which)
    if folder is None:
        raise _nothing_to_go_on_from("--branch", f"runs named {run_name}")
    if which and is_file:
        files = CheckpointFiles(str(Path(which).absolute().parent), 1, say)
        last = files.at(Path(which).stem)
    else:
        last = _files(job, folder, say).newest()
    if last is None:
        raise _nothing_to_go_on_from("--branch", str(folder.path) if which is None else which)
    tags = {"lineage.branch_of": folder.name, "lineage.step": str(last.step)}
    if last.run_id is not None:
        tags["lineage.run_id"] = last.run_id
    going = going_on(last, job, more)
    progress = {**going.progress, "spent": 0.0}  # it is a run of its own, with all its time
    return Earlier(None, dataclasses.replace(going, progress=progress, run_id=None), tags, _initial(folder))


def _files(job: Job, folder: RunFolder, say: Callable[[str], None]) -> CheckpointFiles:
    return CheckpointFiles(folder.checkpoints(job.checkpoints.folder), 1, say)


def _nothing_to_go_on_from(flag: str, where: str) -> ConfigError:
    do = "name a run, or a checkpoint's .safetensors, that is there, or start a new run"
    return ConfigError(complaint(f"{flag}, {where}", expected="a checkpoint to go on from", found="none", do=do))
