"""The one way to open a data set: its manifest, where its shards are, and what of the host's cache a reader gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job, Online
from streamtrain.shards import FILE, Manifest, fetch_manifest, read_manifest, scan_foreign
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache, cache_folder
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import OPEN_SHARDS, LocalFiles, ShardFiles
from streamtrain.stream.fetch.unpacked import data_folder

IMPATIENT = RetryPolicy(attempts=4)
"""For the first request of all, whose failure is most often a wrong URL."""


def open_dataset(url: str) -> Manifest:
    """The manifest of a packed data set, or one made by looking at foreign shards in a folder.

    Raises:
        DataError: neither is there, or it is damaged.
    """
    folder = data_folder(url)
    if folder is None:
        return fetch_manifest(Store(url, IMPATIENT))
    if not (folder / FILE).exists() and any(folder.glob("train/*.tar")):
        return scan_foreign(folder)
    return read_manifest(folder)


def shards_of(url: str, fetched: Callable[[], FetchedFiles], *, verify: bool) -> ShardFiles:
    """Where a data set's shards are: in its folder or its unpacked copy, else ``fetched`` from its store.

    Args:
        verify: check every shard's checksum when it is first opened; what is fetched is always checked.
    """
    folder = data_folder(url)
    return fetched() if folder is None else LocalFiles(folder, verify=verify)


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
    planned = cache_bytes - largest
    files = Cache(cache, cache_bytes)
    return FetchedFiles(Store(url), files, most_held=held, planned_bytes=planned, ahead_bytes=ahead)


def fetched_files(job: Job, manifest: Manifest, *, lanes: bool) -> FetchedFiles:
    """The shards of a remote data set for one reader of a worker.

    The reader of its lanes holds the shard that every lane is in, and one more while a lane goes on to the next: as
    many as the worker has where workers are fewest. Its streamers are in the same shards, but for one more each.
    Those for evaluation, one for each split, hold one shard. What the cache has beyond these is for what the lanes
    need next, in equal shares.

    Args:
        lanes: for the reader of the lanes in training, rather than for evaluation.

    Raises:
        ConfigError: the cache has no room for what is held at once.
    """
    largest = largest_shard(manifest)
    workers = job.most_workers
    held_by_lanes = -(-job.lane_count // job.least_workers) + 1
    shards_held = job.lane_count + workers * (job.data.streamers + len(manifest.splits))
    spare = job.data.cache_bytes - shards_held * largest
    if spare < 0:
        expected = f"at least {shards_held * largest:,}, for the {shards_held} shards that are in use at once"
        do = "raise it, lower lanes, or pack with a smaller --shard-bytes"
        raise ConfigError(complaint("data.cache_bytes", expected=expected, found=f"{job.data.cache_bytes:,}", do=do))
    ahead = spare // (workers * job.data.streamers) if lanes else 0
    return FetchedFiles(
        Store(job.data.place),
        Cache(cache_folder(job.data.cache), job.data.cache_bytes),
        keep=not (lanes and isinstance(job.mode, Online)),
        most_held=held_by_lanes if lanes else 1,
        planned_bytes=ahead + largest if lanes else 0,
        ahead_bytes=ahead,
    )
