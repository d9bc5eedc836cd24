"""From JPEG shards to updates of a small convolutional network: ours, and Ray Train with WebDataset and DDP."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from torch import nn

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.benchmarks.of_jobs.pictures import write_pictures

SIDE, BATCH, STEPS, WARM_UP = 64, 64, 30, 6
"""Of a picture as it is trained on, of a minibatch, of a run, and of a run's first steps that do not count."""
LR, MOMENTUM = 0.01, 0.9


def model() -> nn.Module:
    """Two convolutions and a linear layer: 23,714 parameters."""
    layers = (nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 8 * 8, 9))


def scaled(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Colours first, from 0 to 1."""
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2).float().div(255)}


def pack_pictures(root: Path) -> Path:
    """The data set that both read; each finds the same pictures in it."""
    write_pictures(root / "pictures")
    st.pack(root / "pictures", root / "packed", st.PackOptions(splits=(0.95, 0.05, 0), seed=1, shard_examples=150))
    ours = st.open(root / "packed", image_size=(SIDE, SIDE))[0]
    (theirs,) = (next(iter(of_shards(shards(root)[:1]))),)
    assert int(ours["label"]) == int(theirs[1])
    assert abs(ours["image"].astype(int) - np.asarray(theirs[0]).astype(int)).mean() < 8, "another picture"
    return root / "packed"


def shards(root: Path) -> list[str]:
    """In order."""
    return [str(file) for file in sorted((root / "packed" / "train").glob("*.tar"))]


def of_shards(files: list[str]) -> Any:
    """The peer's pipeline: decoded by Pillow and made small."""
    import webdataset

    def small(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    data = webdataset.WebDataset(files, shardshuffle=False, empty_check=False, nodesplitter=lambda each: each)
    return data.decode("pil").to_tuple("image.jpg", "label.cls").map_tuple(small, int)


def ours_seconds(root: Path) -> float:
    """Seconds a step, while nothing else runs."""
    data = st.Data(str(root / "packed"), transform=scaled, image_size=(SIDE, SIDE))
    job = st.Job(
        data,
        model,
        mode=st.Epochs(max_passes=10**6),
        optimizer=st.SGD(lr=LR, momentum=MOMENTUM),
        batch_size=BATCH,
        workers=2,
    )
    with RayFleet(plan(job)) as fleet:
        fleet.advance(WARM_UP)
        began = time.perf_counter()
        fleet.advance(STEPS)
        return (time.perf_counter() - began) / (STEPS - WARM_UP)


def theirs_seconds(root: Path) -> float:
    """Seconds a step of Ray Train; its start is left out."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as storage:
        answer = Path(storage) / "seconds"  # Ray Train keeps no metrics without a checkpoint
        TorchTrainer(
            their_loop,
            train_loop_config={"shards": shards(root), "answer": str(answer)},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=storage),
        ).fit()
        return float(answer.read_text())


def their_loop(config: dict[str, Any]) -> None:
    """Ray Train's own recipe: `prepare_model`, and shards split over the workers."""
    from ray import train
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    rank = train.get_context().get_world_rank()
    prepared = prepare_model(model())
    optimizer = torch.optim.SGD(prepared.parameters(), lr=LR, momentum=MOMENTUM)
    batches = iter(of_shards(config["shards"][rank::2]).batched(BATCH // 2, partial=False).repeat())
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        images, labels = next(batches)
        x = scaled({"image": torch.as_tensor(np.stack(images))})["image"]
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepared(x), torch.as_tensor(labels)).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        Path(config["answer"]).write_text(str(statistics.mean(seconds[WARM_UP:])))
    train.report({})


def rates(root: Path, rounds: int) -> tuple[float, float]:
    """Examples a second, ours and theirs: medians of rounds in turn."""
    pack_pictures(root)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray's own spelling
    ray.init("local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        found = [(ours_seconds(root), theirs_seconds(root)) for _ in range(rounds)]
    finally:
        ray.shutdown()
    ours, theirs = zip(*found, strict=True)
    return BATCH / statistics.median(ours), BATCH / statistics.median(theirs)
