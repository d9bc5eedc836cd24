"""Who belongs to a run, made Ray actors in its room: at the beginning, and for those who are lost later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from streamtrain.order import lanes_of_worker
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.members import Arrivals, Member
from streamtrain.run.fleet.placing import resources_of_worker
from streamtrain.run.fleet.processes.examiner import Examiner
from streamtrain.run.fleet.processes.streamer import WorkersStreamer
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.run.fleet.room import Bundle, Place, Room

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
        self.plan, self.start = plan, start
        self._room = Room(plan.job, say)
        self._bundles: list[Bundle] = []
        self._arrivals = Arrivals()

    def take_room(self) -> list[Member]:
        """Waits for room for the fewest workers; those for whom there is room, on their way."""
        self._bundles = self._room.take()
        places = self._room.places(self._bundles)
        return [self._member(each) for each in self._bundles if each.number in places]

    def give_back_room(self) -> None:
        """Ends who has not ended, and frees the room."""
        self._room.give_back()

    def places(self, members: Iterable[Member]) -> dict[int, Place]:
        """Where they are, by number; without those whom Ray no longer knows."""
        return self._room.places(each.bundle for each in members)

    def call_others(self, left: Iterable[Member]) -> None:
        """Starts who is missing beside those who are ``left``; `come` says when they are there."""
        there = {each.bundle.number: each for each in (*left, *self._arrivals.expected())}
        for bundle in self._bundles:
            old = there.get(bundle.number)
            if old is None:
                self._arrivals.expect(self._member(bundle))
            elif old.streamer is None and self._streamed:
                self._arrivals.expect(replace(old, streamer=self._streamer(bundle)))

    def come(self, members: Sequence[Member]) -> list[Member]:
        """Who is there now, beside ``members`` or in place of one; whoever was lost on the way is called again."""
        expected, come = len(self._arrivals), self._arrivals.come()
        if len(self._arrivals) + len(come) < expected:
            there = {each.bundle.number: each for each in (*members, *come)}
            self.call_others(there.values())
        return come

    def call_off(self, members: Sequence[Member]) -> None:
        """Does without those who are on their way to ``members``."""
        self._arrivals.call_off(members)

    def rings(self, members: Sequence[Member], step: int) -> list[Any]:
        """A call for every worker's ring, from ``step`` on; ``None`` where it has no streamer and reads itself."""
        lanes = [lanes_of_worker(self.plan.order.lanes, len(members), index) for index in range(len(members))]
        return [
            ray.put(None) if each.streamer is None else each.streamer.stream.remote(hosted, step)
            for each, hosted in zip(members, lanes, strict=True)
        ]

    def examiner(self, bundle: Bundle, parameters: Any) -> Any:
        """A new `Examiner`."""
        return _actor(Examiner, bundle, num_cpus=0).remote(self.plan, parameters)

    @property
    def _streamed(self) -> bool:
        """Whether workers have streamers: where who reads what is not known ahead, nobody can read ahead."""
        return self.plan.streamed and not self.plan.job.pooled

    def _member(self, bundle: Bundle) -> Member:
        worker = _actor(Worker, bundle, **resources_of_worker(self.plan.job))
        return Member(bundle, worker.remote(self.plan, self.start), self._streamer(bundle))

    def _streamer(self, bundle: Bundle) -> Any | None:
        return _actor(WorkersStreamer, bundle, num_cpus=0).remote(self.plan) if self._streamed else None


def _actor(plain: type, bundle: Bundle, **resources: float) -> Any:
    there = PlacementGroupSchedulingStrategy(bundle.group, placement_group_bundle_index=bundle.index)
    return ray.remote(plain).options(scheduling_strategy=there, max_restarts=0, **resources)
