"""Workers and streamers as Ray actors, and what becomes of a run that loses some of them.

Ray places the processes and carries a call a second; bytes of a step never go through it. When a worker or a
streamer is lost, the others go on from the step they are in, with its lanes, until a new one is there: the bits
are the same for any number of workers. Where the state cannot be had from one of them (several hosts, a pool, no
survivor), `WorkerLost` goes to the controller, who begins anew from a checkpoint by `restart`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from streamtrain.errors import StreamtrainError, TrainingError, WorkerLost, one_line
from streamtrain.job import Stale
from streamtrain.order import lanes_of_worker
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.placing import nodes_of, on_one_host, place, resources_of_worker
from streamtrain.run.fleet.worker import Seat, Worker, WorkersStreamer
from streamtrain.values import Loading, Risk, Skip, Update

if TYPE_CHECKING:
    import torch

Answer = TypeVar("Answer")
LONGEST = 300
"""Characters that are kept of what Ray says where it names no reason."""
MOST_LOSSES = 3
"""Losses in the same step that end a run: it is not chance, but an example or the model."""


@dataclass(frozen=True)
class Member:
    """A worker, its streamer where it has one, and the bundle of the placement group that holds both."""

    bundle: int
    worker: Any
    streamer: Any | None


class RayFleet:
    """All workers of a run as actors; a `Fleet` for the controller. Use it as a context.

    Args:
        start: a checkpoint's tensors and step, to begin with.

    Attributes:
        recoveries: how often the run went on after a loss.
    """

    def __init__(self, plan: Plan, start: tuple[Mapping[str, torch.Tensor], int] | None = None) -> None:
        self._plan, self._begin_with = plan, start
        self._group: PlacementGroup | None = None
        self._members: list[Member] = []
        self._coming: list[tuple[Member, Any]] = []
        self._skipped: dict[tuple[str, int], Skip] = {}
        self._losses: list[int] = []
        self.recoveries = 0

    def __enter__(self) -> RayFleet:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        """See `Fleet`."""
        self.recoveries += 1
        self._stop()
        self._begin_with = start
        self._start()

    def advance(self, step: int) -> list[Update]:
        """See `Fleet`."""
        made: list[Update] = []

        def go_on() -> list[list[Update]]:
            self._welcome()
            return self._all("advance", step)

        each = self._surely(go_on, made.extend)
        return made + sorted(itertools.chain(*each), key=lambda update: update.step)

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        """See `Fleet`."""

        def evaluate() -> list[Risk]:
            count = len(self._members)
            shares = self._gather(
                [each.worker.evaluate.remote(split, slices[i::count]) for i, each in enumerate(self._members)]
            )
            return [shares[index % count][index // count] for index in range(len(slices))]

        return self._surely(evaluate)

    def extend(self, plan: Plan, step: int) -> None:
        """See `Fleet`."""
        self._plan = plan
        self._call_off()
        placed = ray.put(plan)
        self._gather([each.streamer.extend.remote(placed) for each in self._members if each.streamer is not None])
        rings = self._rings(self._members, step)
        self._gather([m.worker.extend.remote(placed, ring) for m, ring in zip(self._members, rings, strict=True)])
        self._call_others(self._members)

    def loading(self) -> Loading:
        """See `Fleet`."""
        return self._surely(lambda: sum(self._all("loading"), Loading()))

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """See `Fleet`."""

        def ask() -> list[dict[tuple[str, int], Skip]]:
            actors = [actor for each in self._members for actor in (each.worker, each.streamer) if actor is not None]
            return self._gather([actor.skipped.remote() for actor in actors])

        for skipped in self._surely(ask):
            self._skipped |= skipped
        return dict(self._skipped)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """See `Fleet`."""
        parameters: dict[str, torch.Tensor] = self._of_first("snapshot")
        return parameters

    def distance(self) -> float:
        """See `Fleet`."""
        distance: float = self._of_first("distance")
        return distance

    def save(self) -> dict[str, torch.Tensor]:
        """See `Fleet`."""
        self._surely(lambda: self._all("complete"))
        tensors: dict[str, torch.Tensor] = self._of_first("save")
        return tensors

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """See `Fleet`."""
        self._surely(lambda: self._all("restore", ray.put(parameters)))

    def _start(self) -> None:
        job = self._plan.job
        self._group = place(job)
        places = nodes_of(self._group)
        self._bundles = len(places)
        self._members = [self._new_member(bundle) for bundle in range(len(places))]
        self._by_network = self._network_needed({node for node, _ in places})
        first = self._members[0].worker
        meeting = first.make_store.remote(places[0][1]) if self._by_network else first.make_memory.remote()
        step = 0 if self._begin_with is None else self._begin_with[1]
        self._form(self._members, self._gather([meeting])[0], step)

    def _network_needed(self, nodes: set[str]) -> bool:
        job = self._plan.job
        if job.workers == 1 or on_one_host(job):
            return False
        return job.exchange == "collective" or len(nodes) > 1 or job.device != "cpu"

    def _new_member(self, bundle: int) -> Member:
        worker = self._actor(Worker, bundle, **resources_of_worker(self._plan.job))
        return Member(bundle, worker.remote(self._plan, self._begin_with), self._new_streamer(bundle))

    @property
    def _streamed(self) -> bool:
        """Whether workers have streamers: where who reads what is not known ahead, nobody can read ahead."""
        return self._plan.streamed and not isinstance(self._plan.job.aggregation, Stale)

    def _new_streamer(self, bundle: int) -> Any | None:
        return self._actor(WorkersStreamer, bundle, num_cpus=0).remote(self._plan) if self._streamed else None

    def _form(self, members: Sequence[Member], meeting: Any, step: int) -> None:
        """Gives everybody a seat in a new formation that goes on from ``step``."""
        workers = len(members)
        processes = dict(enumerate(self._gather([each.worker.process_number.remote() for each in members])))
        rings = self._rings(members, step)
        seats = [Seat(index, workers, step, meeting, processes, ring) for index, ring in enumerate(rings)]
        self._gather([each.worker.join.remote(seat) for each, seat in zip(members, seats, strict=True)])
        self._members = list(members)

    def _rings(self, members: Sequence[Member], step: int) -> list[Any]:
        """Every worker's ring, ``None`` where it has no streamer and reads itself."""
        lanes = [lanes_of_worker(self._plan.order.lanes, len(members), index) for index in range(len(members))]
        return self._gather(
            [
                ray.put(None) if each.streamer is None else each.streamer.stream.remote(hosted, step)
                for each, hosted in zip(members, lanes, strict=True)
            ]
        )

    def _surely(self, call: Callable[[], Answer], take: Callable[[list[Update]], None] = lambda _: None) -> Answer:
        """What the call answers, by those who are left where somebody is lost in it.

        Args:
            take: is given updates that the survivors made in a call that did not end.
        """
        while True:
            try:
                return call()
            except WorkerLost as lost:
                take(self._go_on_without(lost))

    def _go_on_without(self, lost: WorkerLost) -> list[Update]:
        """A new formation of those who are left; others are on their way.

        Returns:
            Updates that were made in the call that failed.

        Raises:
            WorkerLost: nobody is left who has the state.
        """
        failure = self._streamers_failure()
        if failure is not None:
            raise failure
        left = [each for each in self._members if self._lives(each.worker)]
        if not left or self._by_network or isinstance(self._plan.job.aggregation, Stale):
            raise lost
        steps = self._gather([each.worker.step.remote() for each in left])
        step = max(steps)
        self._note_loss(step, lost)
        holder = left[steps.index(step)].worker
        made: list[Update] = self._gather([holder.made.remote()])[0]
        left = [each if self._lives(each.streamer) else replace(each, streamer=None) for each in left]
        self._call_others(left)
        self._form(left, self._gather([holder.offer_memory.remote(step)])[0], step)
        return made

    def _note_loss(self, step: int, lost: WorkerLost) -> None:
        """Raises what was lost when the same step has lost too many."""
        self._losses = [*(at for at in self._losses if at == step), step]
        self.recoveries += 1
        if len(self._losses) >= MOST_LOSSES:
            part = self._plan.order.minibatch(self._plan.order.position(step)).parts
            where = ", ".join(f"{each.start}-{each.stop - 1}" for each in part if each.examples)
            raise WorkerLost(
                f"step {step}: workers were lost in it {len(self._losses)} times, so it is not chance; look at the "
                f"examples numbered {where} of the train split, and at what the model does with them ({lost})"
            )

    def _call_others(self, left: Sequence[Member]) -> None:
        """Starts who is missing; `_welcome` takes them in when they are there."""
        self._coming = [
            (each, calls)
            for each, calls in self._coming
            if self._lives(each.worker, 0) and self._lives(each.streamer, 0)
        ]
        there = {each.bundle: each for each in left} | {each.bundle: each for each, _ in self._coming}
        for bundle in range(self._bundles):
            old, fresh = there.get(bundle), None
            if old is None:
                fresh = self._new_member(bundle)
            elif old.streamer is None and self._streamed:
                fresh = replace(old, streamer=self._new_streamer(bundle))
            if fresh is not None:
                calls = [actor.__ray_ready__.remote() for actor in (fresh.worker, fresh.streamer) if actor is not None]
                self._coming.append((fresh, calls))

    def _welcome(self) -> None:
        """Forms anew once all who were on their way are there."""
        calls = [call for _, ready in self._coming for call in ready]
        if not calls or ray.wait(calls, num_returns=len(calls), timeout=0)[1]:
            return
        coming, self._coming = [each for each, _ in self._coming if self._lives(each.worker)], []
        members = {each.bundle: each for each in (*self._members, *coming)}
        step = self._gather([self._members[0].worker.step.remote()])[0]
        meeting = self._gather([self._members[0].worker.offer_memory.remote(step)])[0]
        self._form([members[bundle] for bundle in sorted(members)], meeting, step)
        self._call_others(self._members)  # where somebody was lost on the way here

    @staticmethod
    def _lives(actor: Any | None, seconds: float = 5.0) -> bool:
        """Whether nobody knows it to be dead, after so long at most."""
        if actor is None:
            return True
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=seconds)
        except GetTimeoutError:
            return True
        except RayActorError:
            return False
        return True

    def _streamers_failure(self) -> BaseException | None:
        """What stopped a streamer, where one stopped by itself: the cause of its worker's loss."""
        streamers = [each.streamer for each in self._members if each.streamer is not None]
        failures = [ray.get(each.failure.remote()) for each in streamers if self._lives(each)]
        return next((failure for failure in failures if failure is not None), None)

    def _actor(self, plain: type, bundle: int, **resources: float) -> Any:
        assert self._group is not None
        there = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
        return ray.remote(plain).options(scheduling_strategy=there, max_restarts=0, **resources)

    def _of_first(self, method: str) -> Any:
        return self._surely(lambda: self._gather([getattr(self._members[0].worker, method).remote()])[0])

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._gather([getattr(each.worker, method).remote(*arguments) for each in self._members])

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
                errors.append(WorkerLost(f"worker {index} died: {_reason(error)}"))
        if errors:
            raise min(errors, key=lambda error: isinstance(error, WorkerLost))
        return results

    def _call_off(self) -> None:
        """Does without those who are on their way."""
        there = [actor for each in self._members for actor in (each.worker, each.streamer)]
        for each, _ in self._coming:
            _kill(actor for actor in (each.worker, each.streamer) if actor not in there)
        self._coming = []

    def _stop(self) -> None:
        self._call_off()
        _kill(actor for each in self._members for actor in (each.worker, each.streamer))
        if self._group is not None:
            remove_placement_group(self._group)
        self._members, self._group = [], None


def _kill(actors: Iterable[Any | None]) -> None:
    for actor in actors:
        if actor is not None:
            ray.kill(actor)


def _reason(error: RayActorError) -> str:
    """What Ray knows of a process's end, without its advice."""
    said = " ".join(str(error).split())
    detail = re.search(r"Worker exit type: (\w+) Worker exit detail: (.*?)( Some common causes|$)", said)
    return f"{detail[2]} ({detail[1]})" if detail else said[:LONGEST]
