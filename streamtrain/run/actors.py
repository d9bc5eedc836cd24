"""Workers and streamers as Ray actors: the only file that knows Ray's remote calls.

Ray places the processes and carries a call a second; bytes of a step never go through it.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from streamtrain.errors import ConfigError, StreamtrainError, TrainingError, WorkerLost, complaint, one_line
from streamtrain.job import Job, Stale
from streamtrain.prepare.plan import Plan
from streamtrain.run.worker import Worker, WorkersStreamer
from streamtrain.values import Loading, Risk, Skip, Update

if TYPE_CHECKING:
    import torch

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
    kind, each = ("GPU", 1) if job.device == "cuda" else ("CPU", job.threads)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types for it
    rooms = [int(node["Resources"].get(kind, 0) // each) for node in nodes if node["Alive"]]
    room, where = (
        (max(rooms, default=0), "the largest node") if _on_one_host(job) else (sum(rooms), f"{len(rooms)} node(s)")
    )
    if job.workers > room:
        raise ConfigError(
            complaint(
                "workers",
                expected=f"at most {room} ({each} {kind}(s) a worker on {where})",
                found=str(job.workers),
                do="lower workers" + (" or threads" if each > 1 else "") + ", or start Ray with more",
            )
        )


class RayFleet:
    """All workers of a run as actors, on one node if they fit; a `Fleet` for the controller. Use it as a context."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._group: PlacementGroup | None = None
        self._workers: list[Any] = []
        self._streamers: list[Any] = []
        self._skipped: dict[tuple[str, int], Skip] = {}

    def __enter__(self) -> RayFleet:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def advance(self, step: int) -> list[Update]:
        """See `Fleet`."""
        try:
            each: list[list[Update]] = self._all("advance", step)
        except WorkerLost as lost:
            raise self._streamers_failure() or lost from None
        return sorted(itertools.chain(*each), key=lambda update: update.step)

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        """See `Fleet`."""
        count = len(self._workers)
        shares = self._gather(
            [worker.evaluate.remote(split, slices[index::count]) for index, worker in enumerate(self._workers)]
        )
        return [shares[index % count][index // count] for index in range(len(slices))]

    def extend(self, plan: Plan, step: int) -> None:
        """See `Fleet`."""
        self._plan = plan
        self.skipped()  # what they know dies with the streamers
        for streamer in self._streamers:
            ray.kill(streamer)
        self._streamers = []
        placed = ray.put(plan)
        rings = self._start_streamers(placed, step) if self._streamed else [None] * len(self._workers)
        self._gather([w.extend.remote(placed, ring) for w, ring in zip(self._workers, rings, strict=True)])

    def loading(self) -> Loading:
        """See `Fleet`."""
        return sum(self._all("loading"), Loading())

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """See `Fleet`."""
        calls = [actor.skipped.remote() for actor in (*self._workers, *self._streamers)]
        for skipped in self._gather(calls):
            self._skipped |= skipped
        return dict(self._skipped)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """See `Fleet`."""
        parameters: dict[str, torch.Tensor] = self._gather([self._workers[0].snapshot.remote()])[0]
        return parameters

    def distance(self) -> float:
        """See `Fleet`."""
        distance: float = self._gather([self._workers[0].distance.remote()])[0]
        return distance

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """See `Fleet`."""
        self._all("restore", ray.put(parameters))

    def _start(self) -> None:
        job = self._plan.job
        bundle = {"CPU": float(job.threads)} | ({"GPU": 1.0} if job.device == "cuda" else {})
        strategy = "STRICT_PACK" if _on_one_host(job) else "PACK"
        self._group = placement_group([bundle] * job.workers, strategy=strategy)
        try:
            ray.get(self._group.ready(), timeout=PLACEMENT_SECONDS)
        except GetTimeoutError:
            raise TrainingError(
                f"workers: {job.workers} of {bundle} were not free within {PLACEMENT_SECONDS} s; "
                "wait for other jobs to end, or lower workers"
            ) from None
        plan = ray.put(self._plan)
        self._workers = [
            self._actor(Worker, index, **_resources(job)).remote(plan, index) for index in range(job.workers)
        ]
        processes = dict(enumerate(self._all("process_number")))
        rings = self._start_streamers(plan) if self._streamed else [None] * job.workers
        meeting = self._gather([self._meeting()])[0]
        self._gather([w.join.remote(meeting, processes, ring) for w, ring in zip(self._workers, rings, strict=True)])

    def _meeting(self) -> Any:
        """Where the workers meet, made by worker 0: in memory where they are on one host, else by the network."""
        job, first = self._plan.job, self._workers[0]
        assert self._group is not None
        places = placement_group_table(self._group)["bundles_to_node_id"]
        nodes = set(places.values())
        chosen = job.exchange
        if chosen == "auto":
            chosen = "shared" if len(nodes) == 1 and job.device == "cpu" else "collective"
        if chosen == "shared" or job.workers == 1 or _on_one_host(job):
            return first.make_memory.remote()
        hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
        return first.make_store.remote(hosts[places[0]])

    @property
    def _streamed(self) -> bool:
        """Whether workers get streamers: not where who reads what is not known ahead."""
        return self._plan.streamed and not isinstance(self._plan.job.aggregation, Stale)

    def _start_streamers(self, plan: Any, step: int = 0) -> list[Any]:
        """One for each worker, beside it."""
        for index in range(self._plan.job.workers):
            self._streamers.append(self._actor(WorkersStreamer, index, num_cpus=0).remote(plan, index, step))
        return self._gather([streamer.start.remote() for streamer in self._streamers])

    def _streamers_failure(self) -> BaseException | None:
        """What stopped a streamer, where one stopped by itself: the cause of its worker's loss."""
        failures = self._gather([streamer.failure.remote() for streamer in self._streamers])
        return next((failure for failure in failures if failure is not None), None)

    def _actor(self, plain: type, index: int, **resources: float) -> Any:
        assert self._group is not None
        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        return ray.remote(plain).options(scheduling_strategy=place, max_restarts=0, **resources)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._gather([getattr(worker, method).remote(*arguments) for worker in self._workers])

    def _gather(self, calls: Sequence[Any]) -> list[Any]:
        """All results; or, once every call has ended, the error that the others follow from."""
        ray.wait(list(calls), num_returns=len(calls))
        results, errors = [], []
        for index, call in enumerate(calls):
            try:
                results.append(ray.get(call))
            except RayTaskError as error:
                cause = error.cause
                known = isinstance(cause, StreamtrainError)
                errors.append(cause if known else TrainingError(f"worker {index}: {one_line(cause)}"))
            except RayActorError as error:
                reason = " ".join(str(error).split())
                errors.append(WorkerLost(f"worker {index} died: {reason}"))
        if errors:
            raise min(errors, key=lambda error: isinstance(error, WorkerLost))
        return results

    def _stop(self) -> None:
        for actor in (*self._workers, *self._streamers):
            ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)
        self._workers, self._streamers, self._group = [], [], None


def _on_one_host(job: Job) -> bool:
    """Whether all workers must be placed on one node."""
    return job.exchange == "shared" or isinstance(job.aggregation, Stale)


def _resources(job: Job) -> dict[str, float]:
    return {"num_cpus": float(job.threads)} | ({"num_gpus": 1.0} if job.device == "cuda" else {})
