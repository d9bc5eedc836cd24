"""Whole runs on real Ray: images through streamers, other people's shards, BatchNorm and dropout, every exchange."""

import dataclasses
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
import webdataset
from PIL import Image

import streamtrain as st
from streamtrain.errors import ShardError
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.members import Member
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.run.fleet.actors.recruiting import Recruiter
from streamtrain.run.fleet.cluster.placing import check_resources
from streamtrain.run.fleet.cluster.room import Bundle
from tests.support.datasets import digits, pack_digits
from tests.support.fleet import PlainFleet
from tests.support.small_job import job_on, model

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.mark.figures
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
        results.append(st.train(job, inline=source != "png", quiet=True))
    png, arrays = results
    assert all(torch.equal(arrays.parameters[name], tensor) for name, tensor in png.parameters.items())
    assert png.evaluations == arrays.evaluations and png.chosen.generalization.error.mean < 0.3
    assert png.parameters["2.num_batches_tracked"] == png.chosen.step
    assert (png.folder / "risk_loss.png").stat().st_size > 10_000


def test_the_same_bits_with_batch_norm_and_dropout_on_1_2_and_4_workers(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    job = job_on(tmp_path / "digits", tmp_path, lanes=4)
    alone = PlainFleet(plan(dataclasses.replace(job, workers=1)))
    found = [(alone.advance(60), alone.snapshot())]
    for workers in (2, 4):
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
        found.append(st.train(job, inline=not job.pooled, quiet=True))
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
    cpus = int(ray.cluster_resources()["CPU"])
    job = dataclasses.replace(job_on(tmp_path / "digits", tmp_path), workers=cpus + 1, batch_size=6 * cpus + 6)
    with pytest.raises(
        st.ConfigError,
        match=rf"workers: expected at most {cpus} \(1 CPU\(s\) a worker on 1 node\(s\)\), found {cpus + 1}",
    ):
        check_resources(plan(job))
    with pytest.raises(st.ConfigError, match=r"workers: expected at most 0 \(1 GPU\(s\) a worker"):
        check_resources(plan(dataclasses.replace(job, device="cuda")))
