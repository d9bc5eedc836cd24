"""Where a job's data set lies, and how its shards are shared out over the host's cache."""

from __future__ import annotations

from pathlib import Path

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job, Online
from streamtrain.pack import Manifest
from streamtrain.store import user_cache
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.files import OPEN_SHARDS


def cache_folder(chosen: str | Path | None) -> Path:
    """The chosen one, or a folder in the user's cache directory (XDG Base Directory Specification)."""
    return user_cache() if chosen is None else Path(chosen).absolute()


def largest_shard(manifest: Manifest) -> int:
    """Bytes of the largest shard of all splits."""
    return max((max(split.shards.sizes, default=0) for split in manifest.splits.values()), default=0)


def files_for_reading(url: str, manifest: Manifest, cache: Path, cache_bytes: int) -> FetchedFiles:
    """The shards of a remote data set for one reader that has the cache's half to hold, and the rest to fetch ahead.

    Raises:
        ConfigError: the cache has no room for two shards.
    """
    largest = max(largest_shard(manifest), 1)
    held = min(OPEN_SHARDS, cache_bytes // (2 * largest))
    if not held:
        expected = f"at least {2 * largest:,}, twice the largest shard"
        raise ConfigError(complaint("cache_bytes", expected=expected, found=f"{cache_bytes:,}", do="raise it"))
    ahead = cache_bytes - held * largest
    return FetchedFiles(Store(url), Cache(cache, cache_bytes), most_held=held, ahead_bytes=ahead)


def fetched_files(job: Job, manifest: Manifest, *, lanes: bool) -> FetchedFiles:
    """The shards of a remote data set for one reader of a worker.

    The reader of its lanes holds the shard that every lane is in, and one more while a lane goes on to the
    next: as many as the worker has where workers are fewest. Those for evaluation, one for each split, hold
    one shard. What the cache has beyond these is for what the lanes need next, in equal shares.

    Args:
        lanes: for the reader of the lanes in training, rather than for evaluation.

    Raises:
        ConfigError: the cache has no room for what is held at once.
    """
    largest = largest_shard(manifest)
    workers = job.most_workers
    held_by_lanes = -(-job.lane_count // job.least_workers) + 1
    shards_held = job.lane_count + workers * (1 + len(manifest.splits))
    spare = job.data.cache_bytes - shards_held * largest
    if spare < 0:
        expected = f"at least {shards_held * largest:,}, for the {shards_held} shards that are in use at once"
        do = "raise it, lower lanes, or pack with a smaller --shard-bytes"
        raise ConfigError(complaint("data.cache_bytes", expected=expected, found=f"{job.data.cache_bytes:,}", do=do))
    return FetchedFiles(
        Store(job.data.url),
        Cache(cache_folder(job.data.cache), job.data.cache_bytes),
        keep=not (lanes and isinstance(job.mode, Online)),
        most_held=held_by_lanes if lanes else 1,
        ahead_bytes=spare // workers if lanes else 0,
    )
