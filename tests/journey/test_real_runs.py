"""Whole runs on real Ray: images through streamers, other people's shards, BatchNorm and dropout, a killed worker."""

import dataclasses
import hashlib
import os
import re
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
import webdataset
from PIL import Image

import streamtrain as st
from streamtrain.errors import ShardError, WorkerLost
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.actors.members import Member
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.run.fleet.actors.recruiting import Recruiter
from streamtrain.run.fleet.cluster.placing import check_resources
from streamtrain.run.fleet.cluster.room import Bundle
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from streamtrain.values import Skip, Update
from tests.support.datasets import digits, pack_digits
from tests.support.fleet import PlainFleet


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def digest(parameters: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


def model() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 64),
        torch.nn.BatchNorm1d(64),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(64, 10),
    )


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


def job_on(folder: Path, runs: Path, **settings: object) -> st.Job:
    return st.Job(
        st.Data(str(folder), transform=scaled),
        model,
        mode=settings.pop("mode", st.Epochs(max_passes=3)),  # type: ignore[arg-type]
        optimizer=st.SGD(lr=0.2, momentum=0.9),
        batch_size=48,
        workers=2,
        tracking=st.Tracking(uri=f"sqlite:///{runs / 'mlflow.db'}", folder=str(runs / "runs")),
        **settings,  # type: ignore[arg-type]
    )


def test_images_through_streamers_give_what_arrays_in_the_worker_give(tmp_path: Path) -> None:
    """The same pixels as PNG files and as arrays: the same bits at the end, with BatchNorm and dropout."""
    images, labels = digits(400)
    for number in range(10):
        (tmp_path / "png" / str(number)).mkdir(parents=True)
    order = sorted(range(400), key=lambda i: (labels[i], f"{i:04d}"))
    for index in order:
        Image.fromarray(images[index]).save(tmp_path / "png" / str(labels[index]) / f"{index:04d}.png")
    np.savez(tmp_path / "arrays.npz", image=images[order], label=labels[order])
    results = []
    for source in ("png", "arrays.npz"):
        folder = tmp_path / f"packed-{source}"
        pack(str(tmp_path / source), folder, PackOptions(seed=2))
        job = job_on(folder, tmp_path)
        assert plan(job).streamed == (source == "png")
        results.append(st.train(job, quiet=True))
    png, arrays = results
    assert all(torch.equal(arrays.parameters[name], tensor) for name, tensor in png.parameters.items())
    assert png.evaluations == arrays.evaluations and png.chosen.generalization.error.mean < 0.3
    assert png.parameters["2.num_batches_tracked"] == png.chosen.step
    assert (png.folder / "risk_loss.png").stat().st_size > 10_000


def test_the_same_bits_with_batch_norm_and_dropout_on_1_2_and_4_workers(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    job = job_on(tmp_path / "digits", tmp_path, lanes=4)
    found = []
    for workers in (1, 2, 4):
        with RayFleet(plan(dataclasses.replace(job, workers=workers))) as fleet:
            updates = fleet.advance(60)
            found.append((updates, fleet.snapshot()))
    for updates, parameters in found[1:]:
        assert updates == found[0][0]
        assert all(torch.equal(found[0][1][name], tensor) for name, tensor in parameters.items())


def late_model() -> torch.nn.Module:
    time.sleep(4)
    return model()


def test_the_collective_exchange_gives_what_the_shared_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a worker starts slowly, which is not taken for a lost one."""

    class OneIsLate(Recruiter):
        def _member(self, bundle: Bundle) -> Member:
            job = dataclasses.replace(self.plan.job, model=late_model if bundle.number == 1 else model)
            self.plan = dataclasses.replace(self.plan, job=job)
            return super()._member(bundle)

    monkeypatch.setattr("streamtrain.run.fleet.actors.ray_fleet.Recruiter", OneIsLate)
    pack_digits(tmp_path / "digits")
    found = []
    for exchange in ("shared", "collective"):
        with RayFleet(plan(job_on(tmp_path / "digits", tmp_path, lanes=4, exchange=exchange))) as fleet:
            updates = fleet.advance(40)
            fleet.restore(fleet.snapshot())
            risks = fleet.evaluate("validation", [(0, 90), (90, 180)])
            found.append((updates, risks, fleet.snapshot()))
    (updates, risks, parameters), theirs = found
    assert (updates, risks) == theirs[:2]
    assert all(torch.equal(parameters[name], tensor) for name, tensor in theirs[2].items())


def test_a_pool_without_staleness_gives_the_same_bits(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    found = []
    for aggregation in (st.Synchronous(), st.Stale(bound=0)):
        job = job_on(tmp_path / "digits", tmp_path, lanes=4, aggregation=aggregation, mode=st.Online())
        found.append(st.train(job, quiet=True))
    assert found[0].evaluations == found[1].evaluations
    assert all(torch.equal(found[0].parameters[name], tensor) for name, tensor in found[1].parameters.items())


@pytest.mark.parametrize("writer", ["ShardWriter", "GNU tar"])
def test_training_on_shards_that_others_wrote(writer: str, tmp_path: Path) -> None:
    images, labels = digits(600)
    for split, rows in (("train", range(400)), ("validation", range(400, 600))):
        folder = tmp_path / "foreign" / split
        folder.mkdir(parents=True)
        if writer == "ShardWriter":
            with webdataset.ShardWriter(str(folder / "%03d.tar"), maxcount=150, verbose=0) as shards:
                for row in rows:
                    shards.write({"__key__": f"{row:06d}", "image.npy": images[row], "label.cls": int(labels[row])})
        else:
            (tmp_path / split).mkdir()
            for row in rows:
                np.save(tmp_path / split / f"{row:06d}.image.npy", images[row])
                (tmp_path / split / f"{row:06d}.label.cls").write_text(f"{labels[row]}\n")
            command = ["tar", "--sort=name", "-cf", folder / "000.tar", "-C", tmp_path / split, "."]
            subprocess.run(command, check=True)
    result = st.train(job_on(tmp_path / "foreign", tmp_path), quiet=True)
    assert result.examples_used == 1200 and result.chosen.generalization.error.mean < 0.3


def killed_soon(process: int) -> threading.Timer:
    kill = threading.Timer(0.1, os.kill, (process, signal.SIGKILL))
    kill.start()
    return kill


@pytest.mark.parametrize("exchange", ["shared", "collective"])
def test_promise_5_others_go_on_without_a_killed_worker_and_the_bits_stay(exchange: str, tmp_path: Path) -> None:
    """The one dies who made what the others meet in."""
    pack_digits(tmp_path / "digits")
    job = job_on(tmp_path / "digits", tmp_path, mode=st.Epochs(10**6), lanes=4, exchange=exchange)
    plans, steps = plan(job), 1200
    with RayFleet(plans) as fleet:
        fleet.advance(5)
        kill = killed_soon(fleet._all("process_number")[0])
        made = fleet.advance(steps)
        kill.join()
        assert [update.step for update in made] == list(range(5, steps)), "each once"
        (recovery,) = fleet.recovered()
        assert recovery.workers == 1 and "\n" not in recovery.lost
        while fleet.workers < 2:  # until somebody has the free seat
            fleet._welcome()
        assert fleet.workers == 2
        fleet.advance(steps + 50)
        saved, found = fleet.save(), digest(fleet.snapshot())
        fleet.restart((saved, steps + 50))
        assert digest(fleet.snapshot()) == found
    with RayFleet(plans) as fleet:
        fleet.advance(steps + 50)
        assert digest(fleet.snapshot()) == found


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


@pytest.mark.parametrize("exchange", ["shared", "collective"])
def test_promise_5_workers_join_when_there_is_room_and_leave_and_the_bits_stay(exchange: str, tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    job = job_on(tmp_path / "digits", tmp_path, mode=st.Epochs(10**6), lanes=4, exchange=exchange)
    occupants = [Occupant.remote() for _ in range(3)]
    ray.get([each.__ray_ready__.remote() for each in occupants])
    sizes, step, updates = [], 10, []
    with RayFleet(plan(dataclasses.replace(job, workers=(1, 3)))) as fleet:
        updates += fleet.advance(step)
        sizes.append(fleet.workers)
        for occupant in occupants[:2]:
            ray.kill(occupant)
            while fleet.workers == sizes[-1]:
                step += 10
                updates += fleet.advance(step)
            sizes.append(fleet.workers)
        found = digest(fleet.save())
    ray.kill(occupants[2])
    assert sizes == [1, 2, 3] and [update.step for update in updates] == list(range(step)), "each once"
    with RayFleet(plan(dataclasses.replace(job, workers=4, exchange="shared"))) as fleet:
        assert fleet.advance(step) == updates
        assert digest(fleet.save()) == found


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


def test_a_damaged_example_stops_the_run_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        with tarfile.open(folder / split / "000.tar", "w") as archive:
            for row in range(100):
                stream = BytesIO()
                Image.fromarray(np.full((8, 8), row, np.uint8)).save(stream, "png")
                data = stream.getvalue() if (split, row) != ("train", 77) else b"\x89PNG cut short"
                for extension, content in (("image.png", data), ("label.cls", b"%d" % (row % 10))):
                    info = tarfile.TarInfo(f"{row:03d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, BytesIO(content))
    with pytest.raises(
        ShardError, match=r"train/000\.tar, example '077', field 'image': expected a readable \.image\.png"
    ):
        st.train(job_on(folder, tmp_path), quiet=True)


def test_more_workers_than_the_cluster_has_cpus(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    job = dataclasses.replace(job_on(tmp_path / "digits", tmp_path), workers=5, batch_size=50)
    with pytest.raises(
        st.ConfigError, match=r"workers: expected at most 4 \(1 CPU\(s\) a worker on 1 node\(s\)\), found 5"
    ):
        check_resources(plan(job))
    with pytest.raises(st.ConfigError, match=r"workers: expected at most 0 \(1 GPU\(s\) a worker"):
        check_resources(plan(dataclasses.replace(job, device="cuda")))
