"""Ray itself, and whether a job fits into its cluster."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray._private import ray_constants, services

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan

TOKEN, TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def start_ray(say: Callable[[str], None] = lambda _: None) -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine; nothing where it runs already.

    What is started here listens on localhost only, and wants a token: the one that RAY_AUTH_TOKEN or
    RAY_AUTH_TOKEN_PATH has, or else a new one, which no file holds and only this process and its children know.
    ``RAY_AUTH_MODE=disabled`` turns the token off.

    Args:
        say: takes a line about how long it took, where it was started.
    """
    if ray.is_initialized():
        return
    # this variable asks for Ray's coming behaviour, and with it a warning less at every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if will_start_ray():
        # Ray's workers yield to everything else (nice 15); workers that wait for each other would each wait for all
        os.environ.setdefault("RAY_worker_niceness", "0")
        began = time.monotonic()
        with _for_us_alone():
            ray.init(logging_level=logging.ERROR, include_dashboard=False)
        say(f"Ray started in {time.monotonic() - began:.1f} s")
    else:
        if os.environ.get(TOKEN) == _token():  # of a Ray that this process had before
            _set_token(None)
        ray.init(logging_level=logging.ERROR)


@contextlib.contextmanager
def _for_us_alone() -> Iterator[None]:
    """Ray that is started in the block can be reached from this machine only, by who has its token.

    Its processes are in groups of their own.
    """
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if wanted and not os.environ.get(TOKEN) and not os.environ.get(TOKEN_FILE):
        _set_token(_token())
    before = ray_constants.ENABLE_RAY_CLUSTER, services.ConsolePopen
    ray_constants.ENABLE_RAY_CLUSTER = False  # as Ray itself does on macOS: no other machine is to join
    # who ends this process's group, as `timeout` and shells do, must not end Ray before the checkpoint is written
    services.ConsolePopen = functools.partial(before[1], process_group=0)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, services.ConsolePopen = before  # type: ignore[misc]


@functools.cache
def _token() -> str:
    """Of what this process starts; Ray's own would be in a file that others of the machine may read."""
    return secrets.token_hex(32)


def _set_token(token: str | None) -> None:
    if token is None:
        os.environ.pop(TOKEN, None)
    else:
        os.environ[TOKEN] = token
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def will_start_ray() -> bool:
    """Whether `start_ray` will start Ray on this machine."""
    return not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")


def ray_is_gone() -> bool:
    """Whether this process started Ray and has lost it."""
    node = ray._private.worker._global_node
    started: dict[str, list[Any]] = {} if node is None else node.all_processes
    return any(each.process.poll() is not None for kind in ("gcs_server", "raylet") for each in started.get(kind, ()))


def check_resources(plan: Plan) -> None:
    """Refuses more workers than the cluster can hold, or one node of it where they meet in shared memory.

    Raises:
        ConfigError: with what was found.
    """
    job, room, (kind, each) = plan.job, _room(plan.job), _needs(plan.job)
    if grows():
        return
    where = "the largest node" if on_one_host(job) else f"{len(living_nodes())} node(s)"
    if job.least_workers > room:
        raise ConfigError(
            complaint(
                "workers",
                expected=f"at most {room} ({each} {kind}(s) a worker on {where})",
                found=str(job.least_workers),
                do="lower workers" + (" or threads" if each > 1 else "") + ", or start Ray with more",
            )
        )
    room, cpus = _room_for_streamers(job), job.data.decode_threads
    if streamers_apart(plan) and job.least_workers > room:
        without = " without GPUs" if job.device == "cuda" else " beside the workers'"
        expected, found = f"{cpus} CPU(s) for each of {job.least_workers} on nodes{without}", f"room for {room}"
        do = "add nodes, lower data.decode_threads, or leave streamers beside their workers"
        raise ConfigError(complaint("streamers", expected=expected, found=found, do=do))


def grows() -> bool:
    """Whether the cluster has an autoscaler that knows kinds of nodes to add."""
    return ray._private.state.state.get_max_resources_from_cluster_config() is not None


def _needs(job: Job) -> tuple[str, int]:
    """Kind and number of what a worker computes on."""
    return ("GPU", 1) if job.device == "cuda" else ("CPU", job.threads)


def living_nodes() -> list[dict[str, Any]]:
    """The cluster's, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no types for it


def _room(job: Job) -> int:
    """Workers that the living nodes could hold, if they did nothing else."""
    kind, each = _needs(job)
    rooms = [int(node["Resources"].get(kind, 0) // each) for node in living_nodes()]
    return max(rooms, default=0) if on_one_host(job) else sum(rooms)


def _room_for_streamers(job: Job) -> int:
    """Streamers that the living nodes could hold apart, beside the fewest workers and nothing else."""
    found = [node["Resources"] for node in living_nodes()]
    if job.device == "cuda":
        return sum(int(each.get("CPU", 0) // job.data.decode_threads) for each in found if not each.get("GPU"))
    left = sum(each.get("CPU", 0) for each in found) - job.threads * job.least_workers
    return max(0, int(left // job.data.decode_threads))


def streamers_apart(plan: Plan) -> bool:
    """Whether there are streamers, and they have places of their own."""
    return plan.streamed and plan.job.streamers == "cpu_nodes"


def on_one_host(job: Job) -> bool:
    """Whether all workers must be placed on one node."""
    return job.exchange == "shared" or job.pooled


def by_network(job: Job, nodes: set[str]) -> bool:
    """Whether the workers on these nodes meet by torch.distributed, rather than in memory alone."""
    if job.most_workers == 1 or on_one_host(job):
        return False
    return job.exchange == "collective" or len(nodes) > 1 or job.device != "cpu"


def resources_of_worker(job: Job) -> dict[str, float]:
    """What Ray gives a worker out of its bundle."""
    return {"num_cpus": float(job.threads)} | ({"num_gpus": 1.0} if job.device == "cuda" else {})
