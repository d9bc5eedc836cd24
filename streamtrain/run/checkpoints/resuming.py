"""Whether a job is still the one that a run began with, which goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Online
from streamtrain.job.settings import settings_of
from streamtrain.job.update import needs_last_step
from streamtrain.prepare.description import show

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan


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
    if needs_last_step(job.schedule):
        fixed["mode.max_passes"] = str(plan.passes)
        if job.max_steps is not None:
            fixed["max_steps"] = str(job.max_steps)
    return fixed


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
