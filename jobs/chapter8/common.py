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

import streamtrain as st
from streamtrain.pack import pack

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


def packed(name: str, examples: int, validation: float = 0.25) -> Path:
    """A packed data set of so many of MNIST's images, made once."""
    folder = Path("data/chapter8") / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        images, labels = arrays(examples)
        np.savez(folder.with_suffix(".npz"), image=images, label=labels)
        pack(str(folder.with_suffix(".npz")), folder, st.PackOptions(splits=(1 - validation, validation, 0.0), seed=1))
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


def change(before: Sequence[st.Evaluation], after: Sequence[st.Evaluation]) -> tuple[float, float]:
    """How the mean held-out error of some measurements differs from that of others, and its standard error.

    Paired over the parts of the held-out examples, since all were made on the same.
    """
    means = []
    for points in (before, after):
        assert all(point.held_out is not None for point in points)
        means.append(np.mean([point.held_out.means["error"] for point in points], axis=0))
    differences = means[1] - means[0]
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def curve(result: st.Result, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, out of the run's journal."""
    OUT.mkdir(exist_ok=True)
    entries = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
    points = [r for entry in entries for r in entry.get("readings", ()) if r[0] == name]
    return np.array([step for _, _, step, _ in points]), np.array([value for _, value, _, _ in points])
