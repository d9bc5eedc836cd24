"""Who belongs to a run, made Ray actors in its room: at the beginning, and for those who are lost later."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from streamtrain.errors import WorkerLost
from streamtrain.job import Job
from streamtrain.model.machine.portable import portable_environment
from streamtrain.order import hosting_of
from streamtrain.prepare.jobfile import ship_code
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.actors.members import Arrivals, Member, gather, kill
from streamtrain.run.fleet.cluster.placing import resources_of_worker, streamers_apart
from streamtrain.run.fleet.cluster.room import Bundle, GroupBundle, Place, Room
from streamtrain.run.fleet.processes.examiner import Examiner
from streamtrain.run.fleet.processes.lane_streamer import Share, WorkersStreamer
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.stream.ahead.streamer import StreamHandle

if TYPE_CHECKING:
    import torch


class Recruiter:
    """See the module.

    Args:
        say: takes a line about what is waited for.

    Attributes:
        plan: that new ones get.
        start: a checkpoint's tensors and step, with which new ones begin who get no other's state.
    """

    def __init__(
        self, plan: Plan, start: tuple[Mapping[str, torch.Tensor], int] | None, say: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.start = start
        self._room = Room(plan, say)
        self._bundles: list[Bundle] = []
        self._arrivals = Arrivals()
        self._turned_away: set[int] = set()

    def take_room(self) -> list[Member]:
        """Waits for room for the fewest workers; those for whom there is room, on their way."""
        self._bundles = self._room.take()
        placed = self._room.placed(self._bundles)
        return [self._member(each) for each in self._bundles if each.number in placed]

    def give_back_room(self) -> None:
        """Ends who has not ended, and frees the room."""
        self._room.give_back()

    def places(self, members: Iterable[Member]) -> dict[int, Place]:
        """Where the workers are, by number; without those whom Ray no longer knows."""
        return self._room.places({each.bundle.number: each.bundle.worker for each in members})

    def call_others(self, left: Iterable[Member]) -> None:
        """Starts who is missing beside those who are ``left``; `collect_arrivals` gives them when they are there."""
        there = {each.bundle.number: each for each in (*left, *self._arrivals.expected())}
        for bundle in self._bundles:
            old = there.get(bundle.number)
            if old is None and bundle.number not in self._turned_away:
                self._arrivals.expect(self._member(bundle))
            elif old is not None and len(old.streamers) < self._streamers_each:
                new = self._streamers(bundle, self._streamers_each - len(old.streamers))
                self._arrivals.expect(replace(old, streamers=(*old.streamers, *new)))

    def collect_arrivals(self, members: Sequence[Member]) -> list[Member]:
        """Who is there now, beside ``members`` or in place of one; whoever was lost on the way is called again."""
        expected = len(self._arrivals)
        arrived = self._arrivals.collect()
        if len(self._arrivals) + len(arrived) < expected:
            there = {each.bundle.number: each for each in (*members, *arrived)}
            self.call_others(there.values())
        return arrived

    def turn_away(self, member: Member) -> None:
        """Ends one who has come; nobody is called to that room again."""
        self._turned_away.add(member.bundle.number)
        kill(member.actors)

    def dismiss(self, members: Sequence[Member]) -> None:
        """Does without those who are on their way to ``members``."""
        self._arrivals.dismiss(members)

    def open_streams(self, members: Sequence[Member], step: int) -> list[tuple[StreamHandle, ...]]:
        """Every worker's streams, from ``step`` on; none where it has no streamers and reads itself.

        Raises:
            WorkerLost: a streamer is lost, or Ray no longer knows where it is.
        """
        hosting = hosting_of(self.plan.order.lanes, len(members))
        apart = self.apart(members)
        calls = [
            streamer.stream.remote(hosted, step, Share(index, len(each.streamers)), apart.get(each.bundle.number))
            for each, hosted in zip(members, hosting, strict=True)
            for index, streamer in enumerate(each.streamers)
        ]
        opened = iter(gather(calls))  # without patience: one may have to fetch a shard for it
        return [tuple(itertools.islice(opened, len(each.streamers))) for each in members]

    def apart(self, members: Sequence[Member]) -> dict[int, str]:
        """Addresses of the streamers that are not on their worker's node, by number.

        Raises:
            WorkerLost: Ray no longer knows where a streamer is.
        """
        if not streamers_apart(self.plan):
            return {}
        streamers = {each.bundle.number: each.bundle.streamer for each in members if each.streamers}
        workers = self.places(members)
        places = self._room.places(streamers)
        for number in streamers.keys() - places.keys():
            raise WorkerLost(f"the node of streamer {number} is lost")
        return {number: at.address for number, at in places.items() if at != workers.get(number)}

    def examiner(self, bundle: Bundle, parameters: Any) -> Any:
        """A new `Examiner`."""
        return actor_class(self.plan.job, Examiner, bundle.worker, {"num_cpus": 0}).remote(self.plan, parameters)

    def _member(self, bundle: Bundle) -> Member:
        worker = actor_class(self.plan.job, Worker, bundle.worker)
        return Member(bundle, worker.remote(self.plan, self.start), self._streamers(bundle, self._streamers_each))

    @property
    def _streamers_each(self) -> int:
        """Streamers that every worker is to have."""
        return self.plan.job.data.streamers if self.plan.streamed else 0

    def _streamers(self, bundle: Bundle, count: int) -> tuple[Any, ...]:
        cpus = float(self.plan.job.data.decode_threads) if streamers_apart(self.plan) else 0.0
        actor = actor_class(self.plan.job, WorkersStreamer, bundle.streamer, {"num_cpus": cpus})
        return tuple(actor.remote(self.plan) for _ in range(count))


def actor_class(job: Job, plain: type, slot: GroupBundle, resources: Mapping[str, float] | None = None) -> Any:
    """The class as an actor's, in its place; with portable bits, in a process that begins with the switches.

    What it is given may be declared in a job file: its code travels along.

    Args:
        resources: that it takes of its place; those of a worker by default.
    """
    ship_code(ray.cloudpickle)
    there = PlacementGroupSchedulingStrategy(slot.group, placement_group_bundle_index=slot.index)
    switched = {"runtime_env": {"env_vars": portable_environment()}} if job.bits == "portable" else {}
    taken = resources_of_worker(job) if resources is None else resources
    return ray.remote(plain).options(scheduling_strategy=there, max_restarts=0, **switched, **taken)
