"""Workers that are killed, join, leave or meet what ends them, on real Ray: the others go on, and the bits stay."""

import dataclasses
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import ray
import torch

import streamtrain as st
from streamtrain.errors import ShardError, WorkerLost
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from streamtrain.values import Skip, Update
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet
from tests.support.small_job import digest, job_on, scaled


@pytest.fixture(scope="module", autouse=True)
def own_ray(without_shared_ray: None) -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def killed_soon(process: int) -> threading.Timer:
    kill = threading.Timer(0.1, os.kill, (process, signal.SIGKILL))
    kill.start()
    return kill


@pytest.mark.parametrize(
    ("exchange", "optimizer"),
    [("shared", st.Muon(lr=0.01)), ("collective", st.AdamW(lr=2e-3))],
    ids=["shared-Muon", "collective-AdamW"],
)
def test_promise_5_others_go_on_without_a_killed_worker_and_the_bits_stay(
    exchange: str, optimizer: st.Optimizer, tmp_path: Path
) -> None:
    """The one dies who made what the others meet in."""
    pack_digits(tmp_path / "digits")
    endless = st.Epochs(10**6)
    job = job_on(tmp_path / "digits", tmp_path, mode=endless, lanes=4, exchange=exchange, optimizer=optimizer)
    plans, steps = plan(job), 600
    with RayFleet(plans) as fleet:
        fleet.advance(5)
        kill = killed_soon(fleet._all("process_number")[0])
        made = fleet.advance(steps)
        kill.join()
        assert [update.step for update in made] == list(range(5, steps)), "each once"
        (recovery,) = fleet.recovered()
        assert recovery.workers == 1 and "\n" not in recovery.lost
        while fleet.workers < 2:  # until somebody has the free seat
            time.sleep(0.05)
            fleet._welcome()
        assert fleet.workers == 2
        fleet.advance(steps + 50)
        saved, found = fleet.save(), digest(fleet.snapshot())
        fleet.restart((saved, steps + 50))
        assert digest(fleet.snapshot()) == found
    alone = PlainFleet(plan(dataclasses.replace(job, workers=1, exchange="shared")))
    assert len(alone.advance(steps + 50)) == steps + 50
    assert digest(alone.snapshot()) == found


def test_promise_5_a_batch_follows_the_noise_and_a_worker_is_killed_as_it_doubles(tmp_path: Path) -> None:
    """Over Ray by two workers, in this process by one: the same sizes from the same examples on, and the same bits."""
    pack_digits(tmp_path / "digits", examples=600)
    batch = st.BatchSize(16, most=64, follow="noise_scale", every=10)  # BatchNorm wants two examples of a lane
    mode = st.Epochs(max_passes=6, patience=6)
    job = job_on(tmp_path / "digits", tmp_path, mode=mode, lanes=8)
    job = dataclasses.replace(job, batch_size=batch, optimizer=st.AdamW(lr=2e-3))
    kept = Keeper(job, {})
    alone = PlainFleet(plan(dataclasses.replace(job, workers=1)))
    expected = Controller(alone.plans, alone, NoTracker(), Terminal(quiet=True), tmp_path, kept).run()
    later = alone.worker._plan.order.later
    assert later, "it doubles"

    class Killing(RayFleet):
        killed = 0

        def extend(self, plan: Plan, step: int) -> None:
            if not self.killed:
                self.killed = self._all("process_number")[0]
                os.kill(self.killed, signal.SIGKILL)
            super().extend(plan, step)

    plans = plan(job)
    with Killing(plans) as fleet:
        found = Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, Keeper(job, {})).run()
        assert fleet.killed and fleet._plan.order.later == later
    assert digest(found.parameters) == digest(expected.parameters)


@ray.remote(num_cpus=1)
class Occupant:
    """Has a CPU that workers wait for."""


def nadam(parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.NAdam(parameters, lr=2e-3)


@pytest.mark.parametrize(
    ("exchange", "optimizer"),
    [("shared", st.Torch(nadam)), ("collective", st.SGD(lr=0.2, momentum=0.9))],
    ids=["shared-NAdam", "collective-SGD"],
)
def test_promise_5_workers_join_when_there_is_room_and_leave_and_the_bits_stay(
    exchange: str, optimizer: st.Optimizer, tmp_path: Path
) -> None:
    pack_digits(tmp_path / "digits")
    endless = st.Epochs(10**6)
    job = job_on(tmp_path / "digits", tmp_path, mode=endless, lanes=4, exchange=exchange, optimizer=optimizer)
    occupants = [Occupant.remote() for _ in range(3)]
    ray.get([each.__ray_ready__.remote() for each in occupants])
    sizes, step, updates = [], 10, []
    with RayFleet(plan(dataclasses.replace(job, workers=(1, 3)))) as fleet:
        updates += fleet.advance(step)
        sizes.append(fleet.workers)
        for occupant in occupants[:2]:
            ray.kill(occupant)
            while fleet.workers == sizes[-1]:
                time.sleep(0.05)  # leaves the cores to the one who is about to come
                step += 10
                updates += fleet.advance(step)
            sizes.append(fleet.workers)
        found = digest(fleet.save())
    ray.kill(occupants[2])
    assert sizes == [1, 2, 3] and [update.step for update in updates] == list(range(step)), "each once"
    alone = PlainFleet(plan(dataclasses.replace(job, workers=1, exchange="shared")))
    assert alone.advance(step) == updates
    assert digest(alone.save()) == found


def test_an_example_that_ends_workers_is_found_and_left_out(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    job = job_on(tmp_path / "digits", tmp_path, mode=st.Epochs(10**6), lanes=4)
    key = plan(job).reader("train").where(40)
    pixels = torch.from_numpy(plan(job).reader("train").read(40, 41)["image"].copy())

    def lethal(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if (batch["image"] == pixels).flatten(1).all(1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return scaled(batch)

    data = dataclasses.replace(job.data, transform=lethal, on_bad_example="skip")
    with RayFleet(plan(dataclasses.replace(job, data=data))) as fleet:
        updates = train(fleet, 60)
        assert {place: skip.example for place, skip in fleet.skipped().items()} == {("train", 40): key}
        found = digest(fleet.snapshot())
    plain = PlainFleet(dataclasses.replace(plan(dataclasses.replace(job, workers=1)), left_out={40: Skip("", "")}))
    assert plain.advance(60) == updates and digest(plain.snapshot()) == found
    told = f"{re.escape(key)}: expected an example that can be used, found one that ends every worker"
    job = dataclasses.replace(job, workers=1, data=dataclasses.replace(data, on_bad_example="stop"))
    with RayFleet(plan(job)) as fleet, pytest.raises(ShardError, match=told):
        fleet._leave_out_fatal(range(10))


def train(fleet: RayFleet, steps: int) -> list[Update]:
    """Advances from the start as the controller does, also where all are lost."""
    while True:
        try:
            return fleet.advance(steps)
        except WorkerLost:
            fleet.restart(None)
