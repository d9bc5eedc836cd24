"""Where in Ray's cluster a run has room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from streamtrain.errors import TrainingError
from streamtrain.job import Job
from streamtrain.run.fleet.placing import grows, on_one_host

PLACEMENT_SECONDS, GROWING_SECONDS = 120, 1800
"""Longest wait for room: for other jobs to end, and for an autoscaler's nodes."""
AT_ONCE_SECONDS = 1.0
"""Within which those have room who are not needed for the beginning, but shall be there."""
TELL_SECONDS = 60
"""Between two lines that say what is waited for."""
NODE_LABEL = "ray.io/node-id"


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
