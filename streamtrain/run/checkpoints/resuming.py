"""Whether a job is still the one that a run began with, which goes on from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Epochs, Job, Online
from streamtrain.job.settings import settings_of
from streamtrain.job.update import needs_last_step
from streamtrain.prepare.description import show

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan
    from streamtrain.run.checkpoints.checkpoint_files import Checkpoint


def begun_with(job: Job, last: Checkpoint) -> Job:
    """The job as a run that goes on has it: with the lanes that it began with, and the passes that it was given."""
    if job.lanes is None:  # they fix the bits; workers may be others
        job = dataclasses.replace(job, lanes=int(last.settings["lanes"]))
    more = int(last.progress["more_passes"])
    if isinstance(job.mode, Epochs) and more:
        job = dataclasses.replace(job, mode=dataclasses.replace(job.mode, max_passes=job.mode.max_passes + more))
    return job


def as_the_checkpoint(plan: Plan, last: Checkpoint, folder: Path | None) -> Plan:
    """The plan of a run that goes on: with the examples that it has left out, and the batch sizes it has come to.

    Args:
        folder: of the run; ``None`` for a branch, some of whose settings may be others.

    Raises:
        ConfigError: the job is another.
    """
    from streamtrain.prepare.plan import resized
    from streamtrain.run.checkpoints.progress import Progress

    if folder is None:
        check_branch(last, plan)
    else:
        check_settings(last.settings, fixed_settings(plan), folder)
    progress = Progress.from_json(dict(last.progress))
    plan = dataclasses.replace(plan, left_out=progress.left_out)
    return resized(plan, progress.growth.later) if progress.growth.later else plan


def fixed_settings(plan: Plan) -> dict[str, str]:
    """What fixes the bits of a run, under its flags' names: a checkpoint is of these."""
    job = plan.job
    fixed = {each.name: show(each) for each in settings_of(job) if not each.may_change}
    fixed.setdefault("schedule", "a shape")  # so that a function in its place is told by this name
    fixed["lanes"] = str(plan.order.lanes)
    growing = isinstance(job.mode, Online) and job.mode.follow
    fixed["dataset"] = str(plan.manifest.segments[0]) if growing else plan.manifest.digest
    if job.data.mixture is not None:
        fixed["data.url, shares"] = ", ".join(f"{share:.6g}" for share in job.data.mixture.shares.values())
    stop_on = job.mode.stop_on.rpartition("/")[0] if isinstance(job.mode, Epochs) else ""
    if stop_on in plan.others:
        fixed["mode.stop_on, its data set"] = plan.held_out_set(stop_on).manifest.digest
    if needs_last_step(job.schedule):
        fixed["mode.max_passes"] = str(plan.passes)
        if job.max_steps is not None:
            fixed["max_steps"] = str(job.max_steps)
    return fixed


MAY_BRANCH = (
    "optimizer.",
    "clip.",
    "schedule",
    "groups",
    "average.",
    "nonfinite",
    "skip_limit",
    "mode.max_passes",
    "mode.min_delta",
    "max_steps",
    "micro_batch",
    "compile",
    "deterministic",
    "channels_last",
    "lost_after",
    "data.augment",
)
"""How the settings begin that a branch may change: those that move the parameters; not which examples
come when, nor what the measurements so far are of."""


def check_branch(last: Checkpoint, plan: Plan) -> None:
    """Refuses what a run cannot change in the middle.

    Raises:
        ConfigError: naming the first setting that differs and may not.
    """
    from streamtrain.aggregate.descent.rules import Descent, vectors_of
    from streamtrain.aggregate.vector import layout_of
    from streamtrain.model.gradient import build_model

    now = fixed_settings(plan)
    saved = last.settings
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name) and not name.startswith(MAY_BRANCH) and name != "optimizer":
            do = "set it back, or take the parameters alone into a new run, by --from"
            expected, found = f"{saved.get(name, 'nothing')}, as the run has it", now.get(name, "nothing")
            raise ConfigError(complaint(f"--branch, {name}", expected=expected, found=found, do=do))
    vectors = vectors_of(Descent.of(plan.job), layout_of(build_model(plan.job)))
    parts = {name.partition("/")[0] for name in last.state if "/" in name} - {"buffers"}
    if parts != set(vectors):
        do = "keep the kind of optimizer and average, or take the parameters alone into a new run, by --from"
        expected = f"one that keeps {' and '.join(sorted(parts))} of each parameter, as the checkpoint has it"
        found = f"one that keeps {' and '.join(sorted(vectors))}"
        raise ConfigError(complaint("--branch, optimizer", expected=expected, found=found, do=do))


def check_settings(saved: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Refuses to go on with another job.

    Raises:
        ConfigError: naming the first setting that differs.
    """
    if "sgd.lr" in saved:
        expected, found = "a checkpoint that this version wrote", "an older one, in which optimizer.lr is sgd.lr"
        do = "go on with the version that began it, or start a new run"
        raise ConfigError(complaint(f"--resume, {folder}", expected=expected, found=found, do=do))
    both = saved.keys() & now.keys()
    for name in [*sorted(both), *sorted(saved.keys() ^ now.keys())]:  # the kind first, then what only one kind has
        if saved.get(name) != now.get(name):
            where, do = f"--resume, {name}", f"set it back, or start a new run ({folder} stays as it is)"
            expected, found = (f"{each.get(name, 'nothing')}" for each in (saved, now))
            raise ConfigError(complaint(where, expected=f"{expected}, as the run began", found=found, do=do))
