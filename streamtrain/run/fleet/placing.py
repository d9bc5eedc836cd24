"""Ray itself, and where in its cluster a run has room."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import ray
from ray._private import ray_constants
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from streamtrain.errors import ConfigError, TrainingError, complaint
from streamtrain.job import Job

PLACEMENT_SECONDS, GROWING_SECONDS = 120, 1800
"""Longest wait for room: for other jobs to end, and for an autoscaler's nodes."""
AT_ONCE_SECONDS = 1.0
"""Within which those have room who are not needed for the beginning, but shall be there."""
TELL_SECONDS = 60
"""Between two lines that say what is waited for."""
NODE_LABEL = "ray.io/node-id"
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
    """Ray that is started in the block can be reached from this machine only, by who has its token."""
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if wanted and not os.environ.get(TOKEN) and not os.environ.get(TOKEN_FILE):
        _set_token(_token())
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # as Ray itself does on macOS: no other machine is to join
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


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


def check_resources(job: Job) -> None:
    """Refuses more workers than the cluster can hold, or one node of it where they meet in shared memory.

    Raises:
        ConfigError: with what was found.
    """
    room, (kind, each) = _room(job), _needs(job)
    alive = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]  # Ray has no types for it
    where = "the largest node" if on_one_host(job) else f"{alive} node(s)"
    if job.least_workers > room and not grows():
        raise ConfigError(
            complaint(
                "workers",
                expected=f"at most {room} ({each} {kind}(s) a worker on {where})",
                found=str(job.least_workers),
                do="lower workers" + (" or threads" if each > 1 else "") + ", or start Ray with more",
            )
        )


def grows() -> bool:
    """Whether the cluster has an autoscaler that knows kinds of nodes to add."""
    return ray._private.state.state.get_max_resources_from_cluster_config() is not None


def _needs(job: Job) -> tuple[str, int]:
    """Kind and number of what a worker computes on."""
    return ("GPU", 1) if job.device == "cuda" else ("CPU", job.threads)


def _room(job: Job) -> int:
    """Workers that the living nodes could hold, if they did nothing else."""
    kind, each = _needs(job)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types for it
    rooms = [int(node["Resources"].get(kind, 0) // each) for node in nodes if node["Alive"]]
    return max(rooms, default=0) if on_one_host(job) else sum(rooms)


@dataclass(frozen=True)
class Bundle:
    """Room for one worker: its number among all of a run, and where Ray keeps it."""

    number: int
    group: PlacementGroup
    index: int


@dataclass(frozen=True)
class Place:
    """A node, and its address."""

    node: str
    address: str


class Room:
    """Room for a run's workers: one group of bundles for the fewest, taken at once, and one for each of the others.

    What Ray has not placed is a request that its autoscaler sees; what a lost node held is one again.

    Args:
        say: takes a line about what is waited for.
    """

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        self._job, self._say = job, say
        self._bundle = {"CPU": float(job.threads)} | ({"GPU": 1.0} if job.device == "cuda" else {})
        self._groups: list[PlacementGroup] = []

    def take(self) -> list[Bundle]:
        """Asks for room for the most workers, and waits until there is for the fewest.

        Returns:
            All bundles; which of them are placed, `places` says.

        Raises:
            TrainingError: no room in time, with what is missing.
        """
        job = self._job
        strategy, least = "STRICT_PACK" if on_one_host(job) else "PACK", job.least_workers
        first = placement_group([self._bundle] * least, strategy=strategy)
        self._groups.append(first)
        self._wait_for(first)
        bundles = [Bundle(number, first, number) for number in range(least)]
        beside = [{NODE_LABEL: self.places(bundles)[0].node}] if on_one_host(job) else None
        for number in range(least, job.most_workers):
            group = placement_group([self._bundle], bundle_label_selector=beside)
            self._groups.append(group)
            bundles.append(Bundle(number, group, 0))
        until = time.monotonic() + AT_ONCE_SECONDS
        while len(self.places(bundles)) < len(bundles) and time.monotonic() < until:
            time.sleep(0.02)
        return bundles

    def give_back(self) -> None:
        """Takes back all requests, and frees what was placed."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups = []

    @staticmethod
    def places(bundles: Iterable[Bundle]) -> dict[int, Place]:
        """Where the bundles are, by number; without those that are not placed."""
        nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}  # type: ignore[no-untyped-call]
        table, found = placement_group_table(), {}
        for each in bundles:
            node = table[each.group.id.hex()]["bundles_to_node_id"].get(each.index)
            if node in nodes:
                found[each.number] = Place(node, nodes[node])
        return found

    def _wait_for(self, group: PlacementGroup) -> None:
        patience = GROWING_SECONDS if grows() else PLACEMENT_SECONDS
        began = told = time.monotonic()
        while not group.wait(1):
            now = time.monotonic()
            if now - began > patience:
                raise TrainingError(
                    f"workers: expected room for {self._wanted} within {patience} s, found {_free(self._bundle)} free; "
                    "wait for other jobs to end, lower workers, or add nodes"
                )
            if told == began or now - told > TELL_SECONDS:
                self._say(f"waiting for room for {self._wanted}: {_free(self._bundle)} free in the cluster")
                told = now

    @property
    def _wanted(self) -> str:
        each = " and ".join(f"{number:g} {kind}" for kind, number in self._bundle.items())
        return f"{self._job.least_workers} worker(s) of {each}" + (" on one node" if on_one_host(self._job) else "")


def _free(kinds: Iterable[str]) -> str:
    available = ray.available_resources()  # type: ignore[no-untyped-call]
    return ", ".join(f"{kind} {available.get(kind, 0):g}" for kind in kinds)


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
