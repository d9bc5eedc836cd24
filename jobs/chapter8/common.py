"""What the jobs of this folder share: small data out of MNIST, a model, curves of a run, and how a job ends.

Every job has a function ``main() -> Finding`` and runs by itself: ``python jobs/chapter8/a_standard_error.py``.
It writes its figure and its verdict into ``chapter8/``; ``make chapter8`` runs all and writes one page.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import t as student

import streamtrain as st
from streamtrain.packing import pack
from streamtrain.values import Moments

OUT = Path("chapter8")
MNIST = Path("data/mnist.npz")


@dataclasses.dataclass(frozen=True)
class Finding:
    """How a job ends: what the chapter states, what was found, and whether that is it."""

    section: str
    claim: str
    found: str
    reached: bool


def finish(name: str, figure: Figure, finding: Finding) -> None:
    """Writes the figure and the verdict, and prints the latter."""
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / f"{name}.png", dpi=100)
    (OUT / f"{name}.json").write_text(json.dumps(dataclasses.asdict(finding), indent=1, default=bool))
    print(f"{name}: {'as the chapter states' if finding.reached else 'NOT as the chapter states'}: {finding.found}")


def figure(panels: int = 1) -> tuple[Figure, list[Any]]:
    """A figure of panels side by side."""
    made = Figure(figsize=(4.8 * panels, 3.6), layout="constrained")
    axes = list(np.ravel(made.subplots(1, panels)))
    for each in axes:
        each.grid(alpha=0.3)
    return made, axes


def arrays(examples: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels int64, out of MNIST in a fixed random order."""
    loaded = np.load(MNIST)
    chosen = np.random.default_rng(0).permutation(len(loaded["label"]))[start : start + examples]
    return loaded["image"][chosen], loaded["label"][chosen].astype(np.int64)


SEEDS = (11, 12, 13, 14, 15)
"""Of jobs that repeat a run: which examples it trains on, its first parameters. Chosen before any of them was run."""


def packed(name: str, examples: int, validation: float = 0.25, seed: int = 1) -> Path:
    """A packed data set of so many of MNIST's images, made once; ``seed`` draws its order, and so its splits."""
    folder = Path("data/chapter8") / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        images, labels = arrays(examples)
        np.savez(folder.with_suffix(".npz"), image=images, label=labels)
        splits = (1 - validation, validation, 0.0)
        pack(str(folder.with_suffix(".npz")), folder, st.PackOptions(splits=splits, seed=seed))
    return folder


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels from 0 … 255 to 0 … 1."""
    return {**batch, "image": batch["image"].float() / 255}


def perceptron() -> torch.nn.Module:
    """784-64-10, ReLU: 50,890 parameters."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def job(data: Path, model: Callable[[], torch.nn.Module] = perceptron, **settings: Any) -> st.Job:
    """A job on such data; tracked in ``chapter8/mlflow.db``."""
    tracking = st.Tracking(uri=f"sqlite:///{OUT.absolute()}/mlflow.db", experiment="chapter8", folder=str(OUT / "runs"))
    tracking = dataclasses.replace(tracking, log_model=False)
    return st.Job(st.Data(str(data), transform=scaled), model, tracking=tracking, **settings)


def mean_error(points: Sequence[st.Evaluation]) -> float:
    """Held-out error, the mean over some measurements."""
    return float(np.mean([point.generalization.error.mean for point in points]))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over repeated runs, and what ±1 standard error is of so few: wider, by Student's t."""
    moments = Moments.of(np.array(values))
    return moments.mean, moments.standard_error


def clear_sign(values: Sequence[float]) -> int:
    """1 or −1 where the mean over repeated runs is told from 0 as two standard errors of a normal would, else 0."""
    moments = Moments.of(np.array(values))
    bound = float(student.isf(0.02275, moments.count - 1)) * (moments.variance / moments.count) ** 0.5
    return int(np.sign(moments.mean)) if abs(moments.mean) > bound else 0


def curve(result: st.Result, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, out of the run's journal."""
    OUT.mkdir(exist_ok=True)
    entries = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
    points = [r for entry in entries for r in entry.get("readings", ()) if r[0] == name]
    return np.array([step for _, _, step, _ in points]), np.array([value for _, value, _, _ in points])
