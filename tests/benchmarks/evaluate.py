"""Measuring a held-out set, as a run does, beside a plain loop without gradients over the same examples.

    python -m tests.benchmarks.evaluate [--json] [--rounds 8] [--models mlp cnn]

And whole runs that are measured beside training, `beside.py`.

Ours reads shards, and gives loss and error of each slice with their squares, for standard errors and pairing. The plain
loop has its tensors in memory as uint8, takes 256 at a time and sums loss and error. One process and one thread each.
Both must find the same loss and the same number of errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import streamtrain as st
from streamtrain.measure.risk import pooled
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from streamtrain.run.fleet.inline import InlineFleet, alone
from streamtrain.run.watching.measuring.looked_at import slices_of
from streamtrain.values import Lane
from tests.benchmarks.beside import measure_beside
from tests.benchmarks.models import EXAMPLES, MODELS, images
from tests.benchmarks.rounds import Seconds, alternate, machine, ratio

HELD_OUT, BATCH = EXAMPLES // 2, 256
PARTS = {"mlp": HELD_OUT, "mlp3m": HELD_OUT // 2, "cnn": HELD_OUT // 5}
"""Of the held-out examples, so that a round takes some tenths of a second."""


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels from 0 … 255 to 0 … 1."""
    return {**batch, "image": batch["image"].float().div(255).unsqueeze(1)}


class Ours:
    """The evaluation of a run in this process."""

    def __init__(self, folder: Path, name: str) -> None:
        data = st.Data(str(folder / "data"), transform=scaled)
        job = st.Job(
            data, MODELS[name], evaluate=st.Evaluate(examples=PARTS[name]), tracking=st.Tracking(enabled=False)
        )
        plans = plan(alone(job))
        self._plan = dataclasses.replace(plans, example_bytes=preflight(plans).example_bytes)
        self.fleet = InlineFleet(self._plan)
        held_out = [Lane(0, 0, self._plan.manifest.splits["validation"].examples)]
        self.slices = slices_of(self._plan, "validation", held_out, PARTS[name], job.seed)
        self.found = (0.0, 0.0)

    def __call__(self) -> Seconds:
        began = perf_counter()
        risk = pooled(self.fleet.evaluate("validation", self.slices), self._plan.manifest.order)
        seconds = perf_counter() - began
        self.found = risk.loss.mean, risk.error.mean
        return seconds


class Plain:
    """The loop that everybody writes, over the same examples in memory."""

    def __init__(self, ours: Ours, name: str, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._model = MODELS[name]()
        self._model.load_state_dict(ours.fleet.snapshot())
        self._pixels, self._labels = torch.from_numpy(pixels), torch.from_numpy(labels)
        self.found = (0.0, 0.0)

    def __call__(self) -> Seconds:
        began = perf_counter()
        loss = errors = 0.0
        self._model.eval()
        with torch.no_grad():
            for start in range(0, len(self._labels), BATCH):
                label = self._labels[start : start + BATCH]
                output = self._model(self._pixels[start : start + BATCH].float().div(255).unsqueeze(1))
                loss += torch.nn.functional.cross_entropy(output, label, reduction="sum").item()
                errors += int((output.argmax(1) != label).sum())
        self.found = loss / len(self._labels), errors / len(self._labels)
        return perf_counter() - began


def stored(folder: Path, slices: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The examples of these slices, in the stored order."""
    pixels, labels = [], []
    for batch in st.open(folder / "data", split="validation").batches(BATCH):
        pixels.append(batch["image"].numpy())
        labels.append(batch["label"].numpy())
    chosen = np.concatenate([np.arange(start, stop) for start, stop in slices])
    return np.concatenate(pixels)[chosen], np.concatenate(labels)[chosen]


def measure(names: list[str], rounds: int) -> dict[str, object]:
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        pixels, labels = images()
        np.savez(folder / "data.npz", image=pixels, label=labels)
        pack(str(folder / "data.npz"), folder / "data", PackOptions(splits=(0.5, 0.5, 0.0), seed=1))
        for name in names:
            ours = Ours(folder, name)
            plain = Plain(ours, name, *stored(folder, ours.slices))
            contestants: dict[str, Callable[[], Seconds]] = {"ours": ours, "plain": plain}
            torch.set_num_threads(1)
            seconds = alternate(contestants, rounds)
            apart = [abs(mine - its) for mine, its in zip(ours.found, plain.found, strict=True)]
            assert apart[0] < 1e-6 and apart[1] < 1e-9, (ours.found, plain.found)
            for who, each in seconds.items():
                figures[f"{name}, {who}, examples/s"] = PARTS[name] / sorted(each)[len(each) // 2]
            ratios[f"{name}_risk_examples_vs_plain"] = ratio(seconds["plain"], seconds["ours"])
    ratios["risk_examples_vs_plain"] = min(ratios.values())
    beside, of_runs = measure_beside(rounds)
    ratios |= beside
    figures |= of_runs
    return {"ratios": ratios, "figures": figures, "rounds": rounds, "machine": machine()}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--json", action="store_true", help="print as JSON")
    words.add_argument("--rounds", type=int, default=8)
    words.add_argument("--models", nargs="+", choices=MODELS, default=["mlp", "cnn"])
    asked = words.parse_args()
    found = measure(asked.models, asked.rounds)
    print(json.dumps(found) if asked.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
