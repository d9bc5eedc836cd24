"""Promises 4 and 5, with real workers: the same as a plain PyTorch loop, and the same bits for any number of them."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

import streamtrain as st
from streamtrain.order import Order
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet

STEPS = 200
LANES = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def job(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> st.Job:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pack_digits(folder, wide=True)
    demo = st.load_job(ROOT / "jobs" / "mnist.py")
    return dataclasses.replace(
        demo,
        data=dataclasses.replace(demo.data, url=str(folder)),
        optimizer=st.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3),
        clip=st.Clip(norm=0.5),
        schedule=st.Schedule("cosine", 10),
        batch_size=64,
        lanes=LANES,
    )


def textbook(job: st.Job, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], int, int]:
    """A plain loop over the same minibatches, read by WebDataset; how many were clipped, and short."""
    folder = Path(job.data.url)
    shards = sorted(str(file) for file in (folder / "train").glob("*.tar"))
    read = list(
        webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode().to_tuple("image.npy", "label.cls")
    )
    images = (torch.from_numpy(np.stack([image for image, _ in read])).float() / 255).to(dtype)
    labels = torch.tensor([label for _, label in read])
    torch.manual_seed(job.seed)
    model = job.model().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    order = Order(len(read), LANES, job.batch_size)
    total, clipped, short = plan(job).total_steps, 0, 0
    for step in range(STEPS):
        minibatch = order.minibatch(order.position(step))
        rows = [row for part in minibatch.parts for row in range(part.start, part.stop)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)) > 0.5
        short += len(rows) < job.batch_size
        optimizer.param_groups[0]["lr"] = 0.05 * _factor(step, total)
        optimizer.step()
    return model.state_dict(), clipped, short


def _factor(step: int, total: int) -> float:
    return (step + 1) / 10 if step < 10 else (1 + np.cos(np.pi * (step - 10) / (total - 11))) / 2


def trained(job: st.Job, workers: int) -> dict[str, torch.Tensor]:
    plans = plan(dataclasses.replace(job, workers=workers))
    with PlainFleet(plans) if workers == 1 else RayFleet(plans) as fleet:
        updates = fleet.advance(STEPS // 2) + fleet.advance(STEPS)
        assert [update.step for update in updates] == list(range(STEPS))
        return fleet.snapshot()


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_promise_4_and_5_textbook_sgd_on_1_2_and_4_workers(job: st.Job, precision: Any, tolerance: float) -> None:
    job = dataclasses.replace(job, precision=precision)
    expected, clipped, short = textbook(job, getattr(torch, precision))
    assert clipped > 20 and short >= 8, "clipping must be active and last minibatches short"
    hashes = set()
    for workers in (1, 2, 4) if precision == "float64" else (2,):
        parameters = trained(job, workers)
        for name, theirs in expected.items():
            difference = (parameters[name] - theirs).norm() / theirs.norm()
            assert difference <= tolerance, (workers, name)
        hashes.add(hashlib.sha256(b"".join(p.numpy().tobytes() for p in parameters.values())).hexdigest())
    assert len(hashes) == 1
