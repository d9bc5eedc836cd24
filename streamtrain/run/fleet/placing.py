"""Ray itself, and where in its cluster a run has room."""

from __future__ import annotations

import logging
import os

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from streamtrain.errors import ConfigError, TrainingError, complaint
from streamtrain.job import Job, Stale

PLACEMENT_SECONDS = 120


def start_ray() -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine; nothing where it runs already."""
    if ray.is_initialized():
        return
    # this variable asks for Ray's coming behaviour, and with it a warning less at every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if will_start_ray():
        # Ray's workers yield to everything else (nice 15); workers that wait for each other would each wait for all
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(logging_level=logging.ERROR, include_dashboard=False)
    else:
        ray.init(logging_level=logging.ERROR)


def will_start_ray() -> bool:
    """Whether `start_ray` will start Ray on this machine."""
    return not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")


def check_resources(job: Job) -> None:
    """Refuses more workers than the cluster can hold, or one node of it where they meet in shared memory.

    Raises:
        ConfigError: with what was found.
    """
    room, (kind, each) = _room(job), _needs(job)
    alive = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]  # Ray has no types for it
    where = "the largest node" if on_one_host(job) else f"{alive} node(s)"
    least = job.min_workers or job.workers
    if least > room:
        raise ConfigError(
            complaint(
                "workers",
                expected=f"at most {room} ({each} {kind}(s) a worker on {where})",
                found=str(least),
                do="lower workers" + (" or threads" if each > 1 else "") + ", or start Ray with more",
            )
        )


def _needs(job: Job) -> tuple[str, int]:
    """Kind and number of what a worker computes on."""
    return ("GPU", 1) if job.device == "cuda" else ("CPU", job.threads)


def _room(job: Job) -> int:
    """Workers that the living nodes could hold, if they did nothing else."""
    kind, each = _needs(job)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types for it
    rooms = [int(node["Resources"].get(kind, 0) // each) for node in nodes if node["Alive"]]
    return max(rooms, default=0) if on_one_host(job) else sum(rooms)


def place(job: Job) -> PlacementGroup:
    """Room for the workers, one bundle each with what it needs; waits for it.

    With ``min_workers`` it takes fewer where the cluster has not room for all.

    Raises:
        TrainingError: no room in time, with what is missing.
    """
    bundle = {"CPU": float(job.threads)} | ({"GPU": 1.0} if job.device == "cuda" else {})
    count = job.workers if job.min_workers is None else max(job.min_workers, min(job.workers, _room(job)))
    strategy = "STRICT_PACK" if on_one_host(job) else "PACK"
    group: PlacementGroup = placement_group([bundle] * count, strategy=strategy)
    try:
        ray.get(group.ready(), timeout=PLACEMENT_SECONDS)
    except GetTimeoutError:
        remove_placement_group(group)
        available = ray.available_resources()  # type: ignore[no-untyped-call]
        free = ", ".join(f"{kind} {available.get(kind, 0):g}" for kind in bundle)
        raise TrainingError(
            f"workers: expected room for {count} of {bundle} within {PLACEMENT_SECONDS} s, found {free} free; "
            "wait for other jobs to end, lower workers, or add nodes"
        ) from None
    return group


def nodes_of(group: PlacementGroup) -> list[tuple[str, str]]:
    """(node, address) of every bundle."""
    hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    places = placement_group_table(group)["bundles_to_node_id"]
    return [(places[bundle], hosts[places[bundle]]) for bundle in sorted(places)]


def on_one_host(job: Job) -> bool:
    """Whether all workers must be placed on one node."""
    return job.exchange == "shared" or isinstance(job.aggregation, Stale)


def resources_of_worker(job: Job) -> dict[str, float]:
    """What Ray gives a worker out of its bundle."""
    return {"num_cpus": float(job.threads)} | ({"num_gpus": 1.0} if job.device == "cuda" else {})
