"""Training while a process beside it measures, against training that is measured at its end alone; part of `evaluate`.

One worker, so that a core is spare for the other process where there are two. The job is the small MLP on 28×28 pixels,
over Ray, one pass after another; it is measured every `EVERY` examples on `PART` held-out and as many training ones.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from tests.benchmarks.models import MODELS, images
from tests.benchmarks.rounds import Seconds, alternate, ratio

PASSES, EVERY, PART = 8, 10_000, 2_000


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels from 0 … 255 to 0 … 1."""
    return {**batch, "image": batch["image"].float().div(255).unsqueeze(1)}


class Trained:
    """Whole runs; a round's seconds are those of training and of waiting for measurements, without starting."""

    def __init__(self, job: st.Job) -> None:
        self._job = job
        self.parameters: dict[str, torch.Tensor] = {}

    def __call__(self) -> Seconds:
        result = st.train(self._job, name="beside", quiet=True)
        self.parameters = result.parameters
        return result.examples_used / result.examples_per_second / (1 - result.measuring)


def measure_beside(rounds: int, scratch: Path | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios and figures, by name."""
    import ray

    pixels, labels = images()
    with tempfile.TemporaryDirectory(dir=scratch) as kept:
        folder = Path(kept)
        np.savez(folder / "data.npz", image=pixels, label=labels)
        pack(str(folder / "data.npz"), folder / "data", PackOptions(splits=(0.8, 0.1, 0.1), seed=1))
        if not ray.is_initialized():
            ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
        job = st.Job(
            st.Data(str(folder / "data"), transform=scaled),
            MODELS["mlp"],
            mode=st.Epochs(max_passes=PASSES, patience=10 * PASSES),
            batch_size=128,
            evaluate=st.Evaluate(every=10**9, examples=PART),
            tracking=st.Tracking(enabled=False, folder=str(folder / "runs")),
        )
        contestants = {
            "none": Trained(job),
            "beside": Trained(dataclasses.replace(job, evaluate=st.Evaluate(every=EVERY, examples=PART, beside=True))),
            "waiting": Trained(dataclasses.replace(job, evaluate=st.Evaluate(every=EVERY, examples=PART))),
        }
        seconds = alternate(contestants, rounds)
        ray.shutdown()
    same = contestants["beside"].parameters
    assert all(torch.equal(same[name], each) for name, each in contestants["waiting"].parameters.items())
    used = PASSES * int(0.8 * len(labels))
    figures = {f"mlp, {who}, examples/s": used / sorted(each)[len(each) // 2] for who, each in seconds.items()}
    ratios = {"beside_vs_none": ratio(seconds["none"], seconds["beside"])}
    return ratios | {"waiting_vs_none": ratio(seconds["none"], seconds["waiting"])}, figures
