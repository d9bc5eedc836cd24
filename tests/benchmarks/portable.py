"""What the same bits on every host cost: `bits="portable"` against `bits="same"`, in turn, and audits against none.

    python -m tests.benchmarks.portable [--json] [--rounds 12] [--models demo mlp cnn transformer]

Each is a `RayFleet` of one worker that reads packed shards; a round is a second or so of one model, by each in turn.
Ratios are of examples/s, the median over the rounds: portable / same, and audited / same. A round of the latter has one
audit; its ratio is given as if there were one in 1,000 steps.
The demo's model is the MLP with the demo's minibatch of 64; the others have 256. Where the CPU has nothing beyond AVX2,
both do the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.benchmarks.models import LR, MOMENTUM, cnn, images, mlp

WIDTH, ROWS = 64, 28
AUDITED = 1000


class Transformer(torch.nn.Module):
    """An encoder of two layers over the rows of an image; 0.1 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.into = torch.nn.Linear(ROWS, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 2)
        self.head = torch.nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classes' scores."""
        output: torch.Tensor = self.head(self.layers(self.into(x.squeeze(1))).mean(1))
        return output


MODELS = {"demo": (mlp, 64, 400), "mlp": (mlp, 256, 150), "cnn": (cnn, 256, 6), "transformer": (Transformer, 256, 6)}
"""Model, minibatch, and steps of a turn."""
KINDS = ("same", "portable", "audited")


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().div_(255).unsqueeze(1)}


def fleet_of(folder: Path, name: str, kind: str) -> RayFleet:
    model, batch, steps = MODELS[name]
    special: dict[str, dict[str, Any]] = {"portable": {"bits": "portable"}, "audited": {"audit_every": steps}}
    job = st.Job(
        st.Data(str(folder), transform=scaled),
        model,
        mode=st.Epochs(max_passes=10**6),
        optimizer=st.SGD(lr=LR, momentum=MOMENTUM),
        clip=st.Clip(norm=1.0),
        batch_size=batch,
        lanes=2,
        **special.get(kind, {}),
    )
    return RayFleet(plan(job)).__enter__()


def rates(folder: Path, name: str, rounds: int) -> dict[str, list[float]]:
    """Examples a second of each kind, round by round, after one to warm up."""
    _, batch, steps = MODELS[name]
    fleets = {kind: fleet_of(folder, name, kind) for kind in KINDS}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        for number in range(1 + rounds):
            for kind in KINDS[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                fleets[kind].advance((number + 1) * steps)
                found[kind].append(steps * batch / (time.perf_counter() - began))
    finally:
        for fleet in fleets.values():
            fleet.__exit__(None, None, None)
    return {kind: each[1:] for kind, each in found.items()}


def ratio(found: dict[str, list[float]], kind: str) -> float:
    """Of the examples a second, the median over the rounds."""
    return statistics.median(one / other for one, other in zip(found[kind], found["same"], strict=True))


def measure(names: list[str], rounds: int) -> dict[str, object]:
    ratios: dict[str, float] = {}
    speeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        pixels, labels = images()
        np.savez(f"{root}/data.npz", image=pixels, label=labels)
        pack(f"{root}/data.npz", Path(root) / "data", PackOptions(seed=1))
        for name in names:
            found = rates(Path(root) / "data", name, rounds)
            portable, audited = (ratio(found, kind) for kind in ("portable", "audited"))
            ratios[f"{name}, portable"] = portable
            ratios[f"{name}, audited"] = 1 / (1 + (1 / audited - 1) * MODELS[name][2] / AUDITED)
            speeds[name] = statistics.median(found["same"])
    return {
        "ratios": ratios,
        "examples_per_second": speeds,
        "setting": f"one worker, two lanes, {rounds} rounds; audits every {AUDITED} steps",
        "machine": f"{torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    given = parser.parse_args()
    ray.init("local", num_cpus=2 * len(KINDS), include_dashboard=False, logging_level="ERROR")
    found = measure(given.models, given.rounds)
    ray.shutdown()
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
