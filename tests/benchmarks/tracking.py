"""Training while MLflow's server is up, killed, up again: how fast, and whether anything is lost or doubled.

    python -m tests.benchmarks.tracking [--json] [--cycles 3] [--seconds 6]

A real server with SQLite, a real run of two workers (MLP of 0.27 million parameters, minibatch 128, a point of the
curves every 10 steps). The server is killed with SIGKILL and started again, in turn; then the run is stopped while it
is dead, and resumed. Checked: MLflow has one run, and of every curve the points of the journal, each once.
`throughput_while_down` is the median rate of the stints while it was down over that while it was up.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from streamtrain.packing import PackOptions, pack
from streamtrain.track.journal import entries_of
from tests.support.servers import mlflow_service

EXAMPLES = 20_000
JOB = """
import torch
import streamtrain as st

def model():
    layer, relu = torch.nn.Linear, torch.nn.ReLU
    return torch.nn.Sequential(torch.nn.Flatten(), layer(784, 256), relu(), layer(256, 256), relu(), layer(256, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float() / 255}

job = st.Job(
    st.Data("data", transform=scaled), model, mode=st.Epochs(max_passes=10**4, patience=10**4),
    optimizer=st.SGD(lr=0.001), workers=2, evaluate=st.Evaluate(max_fraction_of_time=0.05),
)
"""


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def train(folder: Path, uri: str, *flags: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "streamtrain", "train", "job.py", "--tracking.uri", uri, *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def journal_of(folder: Path) -> Path:
    (found,) = folder.glob("runs/*/journal.jsonl")
    return found


def caught_up(folder: Path) -> bool:
    """Whether the server has all but the last few entries."""
    delivered = list(folder.glob("runs/*/delivered"))
    return bool(delivered) and len(list(entries_of(journal_of(folder)))) - int(delivered[0].read_text()) < 5


def measure(folder: Path, cycles: int, seconds: float) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (EXAMPLES, 28, 28), np.uint8)
    np.savez(folder / "data.npz", image=images, label=generator.integers(0, 10, EXAMPLES, np.int64))
    pack(str(folder / "data.npz"), folder / "data", PackOptions(seed=1))
    (folder / "job.py").write_text(JOB)
    server = mlflow_service(folder)
    server.start()
    running = train(folder, server.url)
    wait_for(lambda: running.poll() is None and caught_up(folder))
    phases: dict[str, list[tuple[float, float]]] = {"up": [], "down": []}
    for _ in range(cycles):
        phases["up"].append(phase(seconds))
        server.kill()
        phases["down"].append(phase(seconds))
        server.start()
        wait_for(lambda: caught_up(folder))
    server.kill()
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 6, "stopped with a checkpoint"
    server.start()
    last = max(step for name, _, step, _ in points(folder) if name == "minibatch/loss") // 125 + 2
    assert train(folder, server.url, "--resume", "--mode.max-passes", str(last)).wait() == 0
    lost_or_doubled, curves, count = compared(folder, server.url)
    server.kill()
    rates = {
        name: [
            value
            for metric, value, _, when in points(folder)
            if metric == "throughput/examples_per_second" and any(start + 1 < when < end for start, end in spans)
        ]
        for name, spans in phases.items()
    }
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "ratios": {"throughput_while_down": medians["down"] / medians["up"], "points_lost_or_doubled": lost_or_doubled},
        "examples_per_second": medians,
        "stints": {name: len(found) for name, found in rates.items()},
        "setting": f"{cycles} kills, {seconds:g} s up and down in turn, resumed; {count:,} points, {curves} curves",
    }


def phase(seconds: float) -> tuple[float, float]:
    started = time.time()
    time.sleep(seconds)
    return started, time.time()


def points(folder: Path) -> list[tuple[str, float, int, float]]:
    return [tuple(each) for entry in entries_of(journal_of(folder)) for each in entry.get("readings", ())]


def compared(folder: Path, uri: str) -> tuple[int, int, int]:
    """Points that MLflow has not, or twice; curves; points in all."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("streamtrain")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    expected: dict[str, list[tuple[int, float]]] = {}
    for name, value, step, _ in points(folder):
        expected.setdefault(name, []).append((step, value))
    wrong = 0
    for name, wanted in expected.items():
        found = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        wrong += len(set(wanted) ^ set(found)) + abs(len(found) - len(set(found)))
    return wrong, len(expected), sum(map(len, expected.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), given.cycles, given.seconds)
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
