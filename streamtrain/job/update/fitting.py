"""Whether a batch size fits the rest of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamtrain.checks import require, require_count
from streamtrain.job.mode import Epochs
from streamtrain.job.update.batch_size import BatchSize

if TYPE_CHECKING:
    from streamtrain.job.job import Job


def check_batch_size(job: Job) -> None:
    """Whether each of its sizes goes into the lanes, and what changes it fits the rest.

    Raises:
        ConfigError: with the setting that does not.
    """
    batch_size = job.batch_size
    lanes = job.lane_count
    if isinstance(batch_size, BatchSize):
        _check_changing(job, batch_size)
    else:
        require_count("batch_size", batch_size)
    for size in batch_size.all if isinstance(batch_size, BatchSize) else (batch_size,):
        do = f"use {size - size % lanes or lanes} or {size + -size % lanes}"
        require(size % lanes == 0, "batch_size", f"a multiple of the {lanes} lanes", size, do)


def _check_changing(job: Job, batch_size: BatchSize) -> None:
    """Whether a batch size that changes fits the rest."""
    again = job.backup > 0 and isinstance(job.mode, Epochs)
    expected, do = "none with a batch size that changes, but online", "leave one of them out"
    require(not again, "aggregation.backup", expected, job.backup, do)
    of_library = job.optimizer is not None and job.optimizer.together == "model"
    do = 'say how the rate goes with the size, e.g. scale_lr="root" for one of Adam\'s kind'
    known = not of_library or batch_size.scale_lr is not None
    require(known, "batch_size.scale_lr", "linear, root or none with st.Torch", batch_size.scale_lr, do)
    if batch_size.follow is not None:
        _check_following(job, batch_size.follow)


def _check_following(job: Job, follow: str) -> None:
    """Whether the gradient's noise can be measured: between lanes, in a norm that the optimizer names."""
    where, do = "batch_size.follow", "set lanes, e.g. to 8"
    require(job.lane_count > 1, where, f"at least 2 lanes, between which {follow} is measured", 1, do)
    do = "leave aggregation as it is by default, or give sizes by examples used"
    require(not job.pooled, where, "updates that wait for all lanes", job.aggregation, do)
    parts = () if job.optimizer is None else job.optimizer.parts()
    unknown = next((type(part).__name__ for part in parts if not part.has_norm), None)
    expected = "an optimizer with a norm of its own to measure it in (SGD, Adam, AdamW, RMSprop, Adagrad)"
    require(unknown is None, where, expected, unknown, "use one, or give sizes by examples used")
    clips = (job.clip, *(group.clip for group in job.groups))
    clipped = any(clip.value or clip.adaptive for clip in clips)
    do = "clip by norm, or give sizes by examples used"
    require(not clipped, where, "no clipping by value or by unit, which changes the noise", job.clip, do)
