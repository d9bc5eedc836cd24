"""One real example through every station, with real values: raw file to a point in MLflow."""

import os
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.aggregate.exchange.join import Seat
from streamtrain.inspect.card import inspect_dataset
from streamtrain.measure.run_curves import risk_readings
from streamtrain.order import hosting_of
from streamtrain.packing import PackOptions
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.shards import stored_order
from streamtrain.track.mlflow import MlflowTracker
from streamtrain.track.tracker import RunCard
from streamtrain.values import LanePart, Position, Risk
from tests.support.datasets import digits, pack_digits

RAW = 1000  # the example that we follow: row 1000 of the raw arrays


def test_one_example(tmp_path: Path) -> None:
    # raw: an image of a digit, and its label
    images, labels = digits()
    assert labels[RAW] == 1 and images[RAW].shape == (8, 8)

    # pack: its number in the stored order follows from the seed alone
    folder = tmp_path / "digits"
    manifest = pack_digits(folder, PackOptions(seed=8, shard_examples=500))
    number = int(np.flatnonzero(stored_order(seed=8, examples=1797) == RAW)[0])
    train = manifest.splits["train"].examples
    assert number < train == 1438

    # at rest: a row of a shard, under a key that is that number
    shard, row = divmod(number, 500)
    found = inspect_dataset(str(folder), key=f"{number:04d}", lanes=2, batch_size=32)
    assert (found["example"]["shard"], found["example"]["row"]) == (f"train/{shard:06d}.tar", row)
    assert found["way"]["source_example"] == RAW

    # order: its lane, its step, and its place in that lane's part of the minibatch
    job = st.Job(
        st.Data(str(folder), transform=scaled),
        model,
        optimizer=st.SGD(lr=0.1),
        clip=st.Clip(norm=0.5),
        lanes=2,
        batch_size=32,
    )
    plans = plan(job)
    lane, step = found["way"]["lane"], found["way"]["step"]
    part = plans.order.minibatch(Position(0, step)).parts[lane]
    within = number - part.start
    assert part == LanePart(lane, part.start, part.start + 16) and within == found["way"]["row_of_lane_part"]

    # stream: the row of the array is the raw image, bit for bit
    arrays = plans.reader("train").read(part.start, part.stop)
    assert np.array_equal(arrays["image"][within], images[RAW]) and arrays["label"][within] == labels[RAW]

    # gradient: a worker reaches that step; the example's loss is in its lane's contribution before the update
    worker = Worker(plans)
    worker.offer_memory(0)
    worker.join(Seat(0, hosting_of(plans.order.lanes, 1), 0, None, {0: os.getpid()}))
    worker.advance(step)
    before = worker.snapshot()
    twin = model()
    twin.load_state_dict(before)
    minibatch = plans.order.minibatch(Position(0, step)).parts
    read = [plans.reader("train").read(p.start, p.stop) for p in minibatch]
    batch = scaled({name: torch.from_numpy(np.concatenate([a[name] for a in read])) for name in read[0]})
    losses = torch.nn.functional.cross_entropy(twin(batch["image"]), batch["label"], reduction="none")
    assert losses[lane * 16 + within] > 0

    # update: the mean of all losses, the clipped gradient, one SGD step
    (update,) = worker.advance(step + 1)
    assert update.step == step and update.loss.count == 32
    assert update.loss.mean == pytest.approx(losses.mean().item(), rel=1e-5)
    losses.mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    assert update.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
    assert update.clip_scale == pytest.approx(min(1, 0.5 / norm.item()), rel=1e-4)
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    torch.testing.assert_close(worker.snapshot()["1.weight"], twin.state_dict()["1.weight"], rtol=1e-4, atol=1e-6)

    # position, reading, MLflow: a point that its users see
    assert plans.order.position(update.step + 1) == Position(0, step + 1)
    readings = risk_readings("minibatch", Risk(update.loss, update.error), update.step, 1.0)
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracker.begin(RunCard("journey", "tests", {}, {}, ()), tmp_path)
    tracker.log(readings)
    assert tracker.finish("finished", "the journey ends") is None
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (point,) = client.get_metric_history(str(tracker.run_id), "minibatch/loss")
    assert (point.step, point.value) == (step, update.loss.mean)


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}
