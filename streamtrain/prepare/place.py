"""Where a job's data set lies, and how its shards are shared out over the host's cache."""

from __future__ import annotations

import os
from pathlib import Path

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job, Online
from streamtrain.pack import Manifest
from streamtrain.store.remote import Store
from streamtrain.stream.cache import Cache
from streamtrain.stream.files import FetchedFiles


def cache_folder(job: Job) -> Path:
    """``data.cache``, or a folder in the user's cache directory (XDG Base Directory Specification)."""
    if job.data.cache is not None:
        return Path(job.data.cache).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamtrain"


def fetched_files(job: Job, manifest: Manifest, *, lanes: bool) -> FetchedFiles:
    """The shards of a remote data set for one reader of a worker.

    The reader of its lanes holds the shard that every lane is in, and one more while a lane goes on to the
    next. Those for evaluation, one for each split, hold one shard. What the cache has beyond these is for
    what the lanes need next, in equal shares.

    Args:
        lanes: for the reader of the lanes in training, rather than for evaluation.

    Raises:
        ConfigError: the cache has no room for what is held at once.
    """
    largest = max((shard.bytes for split in manifest.splits.values() for shard in split.shards), default=0)
    held_by_lanes = -(-job.lane_count // job.workers) + 1
    shards_held = job.workers * (held_by_lanes + len(manifest.splits))
    spare = job.data.cache_bytes - shards_held * largest
    if spare < 0:
        expected = f"at least {shards_held * largest:,}, for the {shards_held} shards that are in use at once"
        do = "raise it, lower lanes, or pack with a smaller --shard-bytes"
        raise ConfigError(complaint("data.cache_bytes", expected=expected, found=f"{job.data.cache_bytes:,}", do=do))
    return FetchedFiles(
        Store(job.data.url),
        Cache(cache_folder(job), job.data.cache_bytes),
        keep=not (lanes and isinstance(job.mode, Online)),
        most_held=held_by_lanes if lanes else 1,
        ahead_bytes=spare // job.workers if lanes else 0,
    )
