"""Whether a job fits into Ray's cluster, and what of it each worker takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.run.fleet.cluster.ray_private import may_grow

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan


def check_resources(plan: Plan) -> None:
    """Refuses more workers than the cluster can hold, or one node of it where they meet in shared memory.

    Raises:
        ConfigError: with what was found.
    """
    job, room, (kind, each) = plan.job, _room(plan.job, together=on_one_host(plan.job)), _needs(plan.job)
    if may_grow():
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
    everywhere = _room(job, together=False)
    if job.evaluate.beside and job.least_workers + 1 > everywhere:
        expected = f"room for {job.least_workers} worker(s) and a process beside them, of {each} {kind}(s) each"
        do = "lower workers, leave it out, or start Ray with more"
        raise ConfigError(complaint("evaluate.beside", expected=expected, found=f"room for {everywhere}", do=do))
    room = _room_for_streamers(job)
    cpus = cpus_of_streamers(job)
    if streamers_apart(plan) and job.least_workers > room:
        without = " without GPUs" if job.device == "cuda" else " beside the workers'"
        expected, found = f"{cpus} CPU(s) for each of {job.least_workers} on nodes{without}", f"room for {room}"
        do = "add nodes, lower data.decode_threads or data.streamers, or leave streamers beside their workers"
        raise ConfigError(complaint("streamers", expected=expected, found=found, do=do))


def _needs(job: Job) -> tuple[str, int]:
    """Kind and number of what a worker computes on."""
    return ("GPU", 1) if job.device == "cuda" else ("CPU", job.threads)


def living_nodes() -> list[dict[str, Any]]:
    """The cluster's, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no types for it


def _room(job: Job, *, together: bool) -> int:
    """Workers that the living nodes, or the largest of them, could hold, if they did nothing else."""
    kind, each = _needs(job)
    rooms = [int(node["Resources"].get(kind, 0) // each) for node in living_nodes()]
    return max(rooms, default=0) if together else sum(rooms)


def lone_node(job: Job) -> str | None:
    """The one node that can hold the fewest workers together, where it holds none beside them; by its id."""
    kind, each = _needs(job)
    rooms = {str(node["NodeID"]): int(node["Resources"].get(kind, 0) // each) for node in living_nodes()}
    able = [node for node, room in rooms.items() if room >= job.least_workers]
    return able[0] if len(able) == 1 and rooms[able[0]] == job.least_workers else None


def _room_for_streamers(job: Job) -> int:
    """Workers whose streamers the living nodes could hold apart, beside the fewest workers and nothing else."""
    cpus = cpus_of_streamers(job)
    found = [node["Resources"] for node in living_nodes()]
    if job.device == "cuda":
        return sum(int(each.get("CPU", 0) // cpus) for each in found if not each.get("GPU"))
    left = sum(each.get("CPU", 0) for each in found) - job.threads * job.least_workers
    return max(0, int(left // cpus))


def cpus_of_streamers(job: Job) -> int:
    """CPU cores that the streamers of one worker take where they run apart."""
    return job.data.decode_threads * job.data.streamers


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
