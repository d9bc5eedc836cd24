"""Workers and streamers as Ray actors: the only file that knows Ray's remote calls.

Ray places the processes and carries a call a second; bytes of a step never go through it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from streamtrain.errors import ConfigError, StreamtrainError, TrainingError, WorkerLost, complaint, one_line
from streamtrain.job import Job
from streamtrain.prepare.plan import Plan
from streamtrain.run.worker import Worker, WorkersStreamer
from streamtrain.values import Risk, Update

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
        ray.init(logging_level=logging.ERROR, include_dashboard=False)
    else:
        ray.init(logging_level=logging.ERROR)


def will_start_ray() -> bool:
    """Whether `start_ray` will start Ray on this machine."""
    return not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")


def check_resources(job: Job) -> None:
    """Refuses more workers than one node of the cluster can hold.

    Raises:
        ConfigError: with what was found.
    """
    kind, each = ("GPU", 1) if job.device == "cuda" else ("CPU", job.threads)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types for it
    most = max((node["Resources"].get(kind, 0) for node in nodes if node["Alive"]), default=0)
    if job.workers * each > most:
        raise ConfigError(
            complaint(
                "workers",
                expected=f"at most {int(most // each)} ({most:g} {kind}s on the largest node, {each} a worker)",
                found=str(job.workers),
                do="lower workers" + (" or threads" if each > 1 else "") + ", or start Ray with more",
            )
        )


class RayFleet:
    """All workers of a run as actors on one node; a `Fleet` for the controller. Use it as a context."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._group: PlacementGroup | None = None
        self._workers: list[Any] = []
        self._streamers: list[Any] = []

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
            updates: list[Update] = self._all("advance", step)[0]
        except WorkerLost as lost:
            raise self._streamers_failure() or lost from None
        return updates

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        """See `Fleet`."""
        count = len(self._workers)
        shares = self._gather(
            [worker.evaluate.remote(split, slices[index::count]) for index, worker in enumerate(self._workers)]
        )
        return [shares[index % count][index // count] for index in range(len(slices))]

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
        self._group = placement_group([bundle] * job.workers, strategy="STRICT_PACK")
        try:
            ray.get(self._group.ready(), timeout=PLACEMENT_SECONDS)
        except GetTimeoutError:
            raise TrainingError(
                f"workers: {job.workers} of {bundle} were not free on one node within {PLACEMENT_SECONDS} s; "
                "wait for other jobs to end, or lower workers"
            ) from None
        plan = ray.put(self._plan)
        self._workers = [
            self._actor(Worker, index, **_resources(job)).remote(plan, index) for index in range(job.workers)
        ]
        processes = dict(enumerate(self._all("process_number")))
        rings = self._start_streamers(plan) if self._plan.streamed else [None] * job.workers
        handle = self._gather([self._workers[0].make_memory.remote()])[0]
        self._gather([w.join.remote(handle, processes, ring) for w, ring in zip(self._workers, rings, strict=True)])

    def _start_streamers(self, plan: Any) -> list[Any]:
        """One for each worker, beside it."""
        for index in range(self._plan.job.workers):
            self._streamers.append(self._actor(WorkersStreamer, index, num_cpus=0).remote(plan, index))
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


def _resources(job: Job) -> dict[str, float]:
    return {"num_cpus": float(job.threads)} | ({"num_gpus": 1.0} if job.device == "cuda" else {})
