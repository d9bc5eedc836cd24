"""Where workers and streamers of a run go on a cluster of two nodes, and that it changes no bit."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.run.fleet.cluster.placing import check_resources, living_nodes
from streamtrain.run.fleet.cluster.room import NODE_LABEL, Place, Room
from tests.support.datasets import digits
from tests.support.fleet import PlainFleet
from tests.support.small_job import digest, model, scaled


@pytest.fixture(scope="module", autouse=True)
def nodes(without_shared_ray: None) -> Iterator[tuple[str, str]]:
    """One with GPUs, as Ray is told, and one without; so few CPUs that two workers fill it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    cluster.connect()
    yield tuple(node["NodeID"] for node in sorted(living_nodes(), key=lambda n: -n["Resources"].get("GPU", 0)))
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of digits as PNG, which streamers decode."""
    folder = tmp_path_factory.mktemp("digits")
    for number, (image, label) in enumerate(zip(*digits(200), strict=True)):
        (folder / "raw" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "raw" / str(label) / f"{number}.png")
    pack(str(folder / "raw"), folder / "packed", PackOptions(seed=1))
    data = st.Data(str(folder / "packed"), transform=scaled)
    return plan(st.Job(data, model, mode=st.Epochs(10**6), batch_size=16, workers=2, lanes=2))


def changed(plans: Plan, **settings: object) -> Plan:
    return plan(dataclasses.replace(plans.job, **settings))  # type: ignore[arg-type]


@contextlib.contextmanager
def places(plans: Plan, said: list[str] | None = None) -> Iterator[tuple[list[str], list[str]]]:
    """Nodes of the workers and of the streamers, while the room is taken."""
    check_resources(plans)
    room = Room(plans, (said if said is not None else []).append)
    try:
        bundles = room.take()
        workers = room.places({bundle.number: bundle.worker for bundle in bundles})
        streamers = room.places({bundle.number: bundle.streamer for bundle in bundles})
        yield nodes_of(workers), nodes_of(streamers)
    finally:
        room.give_back()


def nodes_of(found: dict[int, Place]) -> list[str]:
    return [found[number].node for number in sorted(found)]


def test_packed_and_spread(plans: Plan, nodes: tuple[str, str]) -> None:
    with places(plans) as (workers, streamers):
        assert len(set(workers)) == 1 and streamers == workers
    for number in (2, (1, 2)):
        with places(changed(plans, placement="spread", workers=number)) as (workers, streamers):
            assert sorted(workers) == sorted(nodes) and streamers == workers
    with places(changed(plans, placement="spread", workers=(1, 8), lanes=8)) as (workers, _):
        assert sorted(workers.count(node) for node in nodes) == [2, 4], "all the room that there is"


def test_who_measures_beside_leaves_the_only_node_to_workers_who_must_be_together(
    plans: Plan, nodes: tuple[str, str]
) -> None:
    together = changed(plans, exchange="shared", workers=4, lanes=4, evaluate=st.Evaluate(beside=True))
    room = Room(together, print)
    try:
        slot = room.take_one("measurer")
        with places(together) as (workers, _):
            assert nodes_of(room.places({0: slot})) == [nodes[1]] and workers == [nodes[0]] * 4
    finally:
        room.give_back()


def test_streamers_of_workers_on_gpus_go_where_no_gpu_is(plans: Plan, nodes: tuple[str, str]) -> None:
    for number in (2, (1, 2)):
        with places(changed(plans, device="cuda", streamers="cpu_nodes", workers=number)) as (workers, streamers):
            assert workers == [nodes[0]] * 2 and streamers == [nodes[1]] * 2
    many = changed(
        plans, device="cuda", streamers="cpu_nodes", data=dataclasses.replace(plans.job.data, decode_threads=2)
    )
    found = r"streamers: expected 2 CPU\(s\) for each of 2 on nodes without GPUs, found room for 1; add nodes"
    with pytest.raises(st.ConfigError, match=found):
        check_resources(many)


def test_what_is_waited_for_is_said(plans: Plan, nodes: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamtrain.run.fleet.cluster.room.PLACEMENT_SECONDS", 0)
    said: list[str] = []
    gpus = changed(plans, device="cuda", streamers="cpu_nodes")
    with (
        places(gpus),
        pytest.raises(st.TrainingError, match=r"workers: expected room for 2 worker\(s\) of 1 CPU and 1 GPU within"),
        places(gpus, said),
    ):
        pass
    assert said == ["waiting for room for 2 worker(s) of 1 CPU and 1 GPU: CPU 2, GPU 0 free in the cluster"]


@contextlib.contextmanager
def taken(cpus: int, node: str) -> Iterator[None]:
    """So many CPUs of a node have other work: on each there is room for two then."""
    other = placement_group([{"CPU": cpus}], bundle_label_selector=[{NODE_LABEL: node}])
    try:
        assert other.wait(30)
        yield
    finally:
        remove_placement_group(other)


def streamers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::WorkersStreamer" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_promise_2_streamers_on_another_node_change_no_bit_and_lost_ones_are_replaced(
    plans: Plan, nodes: tuple[str, str]
) -> None:
    with taken(2, nodes[0]), RayFleet(changed(plans, streamers="cpu_nodes")) as fleet:
        assert len(fleet._recruiter.apart(fleet._members)) == 2
        updates = fleet.advance(50)
        streamers()[0].kill()
        while len(fleet._recruiter.apart(fleet._members)) == 2:
            updates += fleet.advance(updates[-1].step + 20)
        (recovery,) = fleet.recovered()
        assert recovery.workers == 2
        while len(fleet._recruiter.apart(fleet._members)) < 2:  # until another has its place
            time.sleep(0.05)  # leaves it the cores
            updates += fleet.advance(updates[-1].step + 20)
        updates += fleet.advance(steps := updates[-1].step + 50)
        found = digest(fleet.snapshot())
    beside = PlainFleet(changed(plans, workers=1))
    assert beside.advance(steps) == updates and digest(beside.snapshot()) == found
