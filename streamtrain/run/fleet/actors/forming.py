"""Who sits where: a formation gives every member its lanes, its place in the exchange, and the state that it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from streamtrain.aggregate.exchange.collective.hosts import group_by_host
from streamtrain.aggregate.exchange.join import Seat
from streamtrain.memory_order import shares_memory
from streamtrain.order import hosting_of
from streamtrain.run.fleet.actors.members import Member, by_host, gather, offers
from streamtrain.run.fleet.actors.recruiting import Recruiter
from streamtrain.run.fleet.cluster.placing import by_network
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.run.fleet.processes.worker import Standing

SILENCE_SECONDS = 2.0
"""What the others may need longer than a stint to notice a loss; who has not answered then is on a host that is cut."""


class Formation:
    """How a run's members meet, from one loss or arrival to the next.

    Attributes:
        scattered: whether some may be on a host that can be cut off: who is silent then is taken for lost.
        longest_stint: seconds that a stint of steps has taken at most; nobody is silent before.
    """

    def __init__(self, recruiter: Recruiter) -> None:
        self._recruiter = recruiter
        self.scattered = False
        self.longest_stint = 0.0

    def form(self, members: Sequence[Member], step: int, holder: Member | None) -> None:
        """Gives everybody a seat in a new formation that goes on from ``step``.

        Args:
            holder: who has the state, which others may not have; ``None`` where all have the one to begin with.

        Raises:
            WorkerLost: another member, meanwhile.
        """
        job = self._recruiter.plan.job
        lanes = self._recruiter.plan.order.lanes
        places = self._recruiter.places(members)
        members, nodes = by_host(members, places)
        networked = by_network(job, set(nodes))
        scattered = networked or bool(self._recruiter.apart(members))
        self.scattered = scattered and holder is not None  # at the beginning some take long: nobody's silence counts
        first = members[0] if holder is None else holder
        hosts: tuple[range, ...] = ()
        if networked:
            fresh = [] if holder is None else self._hand_over(step, holder, members)
            meeting = first.worker.make_store.remote(places[first.bundle.number].address)
            together = len(set(nodes)) > 1 and job.device == "cpu" and shares_memory()
            hosts = group_by_host(nodes, together=together)
        else:
            fresh = []
            meeting = first.worker.offer_memory.remote(step)
        blocks = self.gather(offers(step, [members[host.start : host.stop] for host in hosts], fresh))
        (meeting,) = self.gather([meeting])
        processes = dict(enumerate(self.gather([each.worker.process_number.remote() for each in members])))
        streams = self._recruiter.open_streams(members, step)
        own = {worker: block for host, block in zip(hosts, blocks, strict=True) for worker in host}
        # all are seated anew: whose lanes are whose and who sums what follows from how many they are; no bit does
        hosting = hosting_of(lanes, len(members))
        seats = [Seat(index, hosting, step, meeting, processes, hosts, own.get(index)) for index in range(len(members))]
        self.gather(
            [each.worker.join.remote(seat, stream) for each, seat, stream in zip(members, seats, streams, strict=True)]
        )
        self.scattered = scattered

    def standings(self, members: Sequence[Member]) -> list[Standing]:
        """How far each is."""
        return self.gather([each.worker.standing.remote() for each in members])

    def gather(self, calls: Sequence[Any]) -> list[Any]:
        """Results of calls; raises `WorkerLost` where one is lost, or silent while others answer."""
        return gather(calls, SILENCE_SECONDS + self.longest_stint if self.scattered else None)

    def _hand_over(self, step: int, holder: Member, members: Sequence[Member]) -> list[Member]:
        """Gives the state to those who have another or none, where no memory gives it to all; returns them."""
        standings = self.standings(members)
        behind = [each for each, standing in zip(members, standings, strict=True) if standing.step != step]
        if behind:
            state = holder.worker.save.remote()
            self.gather([each.worker.receive.remote(state, step) for each in behind])
        return behind


def admit(
    arrived: Sequence[Member],
    members: Sequence[Member],
    likeness: Likeness,
    gather: Callable[[Sequence[Any]], list[Any]],
) -> tuple[list[Member], list[Member]]:
    """Of those who have arrived, who may join, and who computes other bits; a member with a new streamer may.

    Raises:
        WorkerLost: one was lost since it came.
    """
    there = {each.bundle.number for each in members}
    new = [each for each in arrived if each.bundle.number not in there]
    found = likeness.find_strangers(gather([each.worker.fingerprint.remote() for each in new]))
    strangers = [new[index] for index in found]
    return [each for each in arrived if each not in strangers], strangers
