"""Where in Ray's cluster a run has room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ray.util.accelerators import accelerators
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from streamtrain.errors import TrainingError
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.cluster.placing import (
    cpus_of_streamers,
    living_nodes,
    lone_node,
    on_one_host,
    resources_of_worker,
    streamers_apart,
)
from streamtrain.run.fleet.cluster.ray_private import free_resources, may_grow

PLACEMENT_SECONDS, GROWING_SECONDS = 120, 1800
"""Longest wait for room: for other jobs to end, and for an autoscaler's nodes."""
AT_ONCE_SECONDS = 1.0
"""Within which those have room who are not needed for the beginning, but shall be there."""
TELL_SECONDS = 60
"""Between two lines that say what is waited for."""
NODE_LABEL, ACCELERATOR_LABEL = "ray.io/node-id", "ray.io/accelerator-type"
Selector = dict[str, str]


@dataclass(frozen=True)
class GroupBundle:
    """A bundle of one of Ray's placement groups."""

    group: PlacementGroup
    index: int


@dataclass(frozen=True)
class Bundle:
    """Room for one worker, by its number among all of a run, and for its streamers: mostly in the same place."""

    number: int
    worker: GroupBundle
    streamer: GroupBundle


@dataclass(frozen=True)
class Place:
    """A node, and its address."""

    node: str
    address: str


@dataclass(frozen=True)
class Wanted:
    """Room that is asked for: for so many workers or streamers, each with these resources, on certain nodes."""

    count: int
    who: str
    each: dict[str, float]
    where: str = ""

    def __str__(self) -> str:
        each = " and ".join(f"{number:g} {kind}" for kind, number in self.each.items())
        return f"{self.count} {self.who}(s) of {each}{self.where}"


class Room:
    """Room for a run's workers: one group of bundles for the fewest, taken at once, and one for each of the others.

    Streamers that run apart have room of their own. What Ray has not placed is a request that its autoscaler sees;
    what a lost node held is one again.

    Args:
        say: takes a line about what is waited for.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._job = plan.job
        self._say = say
        self._apart = streamers_apart(plan)
        cpus, gpus = (resources_of_worker(plan.job).get(kind, 0.0) for kind in ("num_cpus", "num_gpus"))
        self._worker = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        self._streamer = {"CPU": float(cpus_of_streamers(plan.job))}
        self._groups: list[PlacementGroup] = []

    def take(self) -> list[Bundle]:
        """Asks for room for the most workers, and waits until there is for the fewest.

        Returns:
            All bundles; which of them are placed, `placed` says.

        Raises:
            TrainingError: no room in time, with what is missing.
        """
        job = self._job
        selector = self._selector()
        workers, streamers, count = self._first_groups(selector)
        where = " on one node" if on_one_host(job) else ""
        self._wait_for(workers, Wanted(count, "worker", self._worker, where), {})
        where = " on nodes without GPUs" if selector else ""
        self._wait_for(streamers, Wanted(count, "streamer", self._streamer, where), selector)
        bundles = [
            Bundle(number, GroupBundle(workers, number), GroupBundle(streamers, number)) for number in range(count)
        ]
        beside = {NODE_LABEL: self.places({0: bundles[0].worker})[0].node} if on_one_host(job) else {}
        for number in range(count, job.most_workers):
            both = ([self._worker, self._streamer], [beside, selector]) if self._apart else ([self._worker], [beside])
            group = self._ask(both[0], "PACK", both[1])
            bundles.append(Bundle(number, GroupBundle(group, 0), GroupBundle(group, len(both[0]) - 1)))
        until = time.monotonic() + AT_ONCE_SECONDS
        while len(self.placed(bundles)) < len(bundles) and time.monotonic() < until:
            time.sleep(0.02)
        return bundles

    def take_one(self, who: str) -> GroupBundle:
        """Waits for room for one more process with the resources of a worker, by this name, beside the workers.

        Raises:
            TrainingError: no room in time.
        """
        lone = lone_node(self._job) if on_one_host(self._job) else None
        selector = {} if lone is None else {NODE_LABEL: f"!in({lone})"}
        group = self._ask([self._worker], "PACK", [selector])
        self._wait_for(group, self.one(who), selector)
        return GroupBundle(group, 0)

    def one(self, who: str) -> Wanted:
        """What one process takes that has the resources of a worker."""
        return Wanted(1, who, self._worker)

    def give_back(self) -> None:
        """Takes back all requests, and frees what was placed."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups = []

    def placed(self, bundles: Iterable[Bundle]) -> set[int]:
        """Numbers of the bundles that have a place, for worker and streamer."""
        bundles = list(bundles)
        workers = self.places({each.number: each.worker for each in bundles})
        return workers.keys() & self.places({each.number: each.streamer for each in bundles}).keys()

    @staticmethod
    def places(slots: Mapping[int, GroupBundle]) -> dict[int, Place]:
        """Where these are; without those that are not placed."""
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in living_nodes()}
        table = placement_group_table()
        found = {}
        for number, slot in slots.items():
            node = table[slot.group.id.hex()]["bundles_to_node_id"].get(slot.index)
            if node in nodes:
                found[number] = Place(node, nodes[node])
        return found

    def _first_groups(self, selector: Selector) -> tuple[PlacementGroup, PlacementGroup, int]:
        """Of the fewest workers and their streamers; of all, where these are to be spread, and can be at once.

        Groups of their own are placed where most is taken already.
        """
        job = self._job
        strategy = "STRICT_PACK" if on_one_host(job) else job.placement.upper()

        def ask(count: int) -> tuple[PlacementGroup, PlacementGroup, int]:
            workers = self._ask([self._worker] * count, strategy)
            streamers = self._ask([self._streamer] * count, "PACK", [selector] * count) if self._apart else workers
            return workers, streamers, count

        if job.placement == "spread" and job.most_workers > job.least_workers:
            workers, streamers, count = ask(job.most_workers)
            if workers.wait(AT_ONCE_SECONDS) and streamers.wait(AT_ONCE_SECONDS):
                return workers, streamers, count
            self.give_back()
        return ask(job.least_workers)

    def _selector(self) -> Selector:
        """The nodes for streamers that run apart."""
        return without_gpus() if self._apart and self._job.device == "cuda" else {}

    def _ask(
        self, bundles: list[dict[str, float]], strategy: str, selectors: list[Selector] | None = None
    ) -> PlacementGroup:
        chosen = selectors if selectors is not None and any(selectors) else None
        self._groups.append(placement_group(bundles, strategy=strategy, bundle_label_selector=chosen))
        return self._groups[-1]

    def _wait_for(self, group: PlacementGroup, wanted: Wanted, selector: Selector) -> None:
        patience = GROWING_SECONDS if may_grow() else PLACEMENT_SECONDS
        began = last_said = time.monotonic()
        while not group.wait(1):
            now = time.monotonic()
            free = _free(wanted, selector)
            if last_said == began or now - last_said > TELL_SECONDS:
                self._say(f"waiting for room for {wanted}: {free} free in the cluster")
                last_said = now
            if now - began > patience:
                raise TrainingError(
                    f"{wanted.who}s: expected room for {wanted} within {patience} s, found {free} free; "
                    f"wait for other jobs to end, lower workers, or add nodes"
                )


def without_gpus() -> Selector:
    """Nodes without GPUs: of those that are there by what they have, of an autoscaler's by what they say they have."""
    kinds = [kind for name, kind in vars(accelerators).items() if isinstance(kind, str) and not name.startswith("_")]
    having = [node["NodeID"] for node in living_nodes() if node["Resources"].get("GPU", 0) > 0]
    selector = {ACCELERATOR_LABEL: f"!in({','.join(sorted(set(kinds)))})"}
    return selector | ({NODE_LABEL: f"!in({','.join(having)})"} if having else {})


def _free(wanted: Wanted, selector: Selector) -> str:
    """What the cluster has of what is wanted, on the nodes where it is."""
    nodes = [free for node, free in free_resources().items() if node not in selector.get(NODE_LABEL, "")]
    return ", ".join(f"{kind} {sum(node.get(kind, 0) for node in nodes):g}" for kind in wanted.each)
