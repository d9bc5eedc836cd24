"""What the always-on diagnostics cost: the same training with them on and off, in turn, in one run.

    python -m tests.benchmarks.overhead [--json] [--rounds 600]

MLP of 0.27 million parameters, minibatch 256, MNIST's shape (random pixels: the arithmetic is the same), on a fleet of
Ray workers that take norms in every second of short turns, so that a busy machine is as busy for both, and memory lies
the same. A turn's time has in it what the controller does with the updates, curves and journal. Reported is the median
over the rounds of 1 − rate on / rate off, and its standard error.
"""

import argparse
import dataclasses
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
from streamtrain.measure.diagnostics import Diagnostics
from streamtrain.measure.diagnostics.step_curves import MinibatchCurves
from streamtrain.measure.run_curves import minibatch_readings, update_readings
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.track.journal import Journal

EXAMPLES, BATCH, WORKERS, STEPS, WARM_UP = 20_000, 256, 2, 20, 60


def model() -> torch.nn.Module:
    """784-256-256-10, ReLU: 0.27 million parameters."""
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(784, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    )


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


class Turns:
    """A fleet whose diagnostics can be switched, and what the controller does with its updates."""

    def __init__(self, fleet: RayFleet, every: int, folder: Path) -> None:
        self._fleet, self._every, self._journal = fleet, every, Journal(folder)
        self._curves, self._diagnostics = MinibatchCurves(every), Diagnostics.at_every(every)
        self._step = 0

    def turn(self, steps: int, *, on: bool) -> float:
        """Examples a second over so many steps."""
        ray.get([m.worker.__ray_call__.remote(take_norms, self._every if on else 0) for m in self._fleet._members])
        started = time.perf_counter()
        self._step += steps
        updates = self._fleet.advance(self._step)
        for update in updates:
            readings = minibatch_readings(self._curves.add(update), 0.0)
            readings += update_readings(self._diagnostics.add(update), update, 0.0)
            if readings:
                self._journal.append("readings", readings=[dataclasses.astuple(reading) for reading in readings])
        return sum(update.loss.count for update in updates) / (time.perf_counter() - started)


def take_norms(worker: Any, every: int) -> None:
    """Runs in a worker's process."""
    worker._exchange._aggregator.norms.every = every


def measure(rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = np.random.default_rng(0)
        images = generator.integers(0, 255, (EXAMPLES, 28, 28), np.uint8)
        np.savez(folder / "data.npz", image=images, label=generator.integers(0, 10, EXAMPLES, np.int64))
        pack(str(folder / "data.npz"), folder / "data", PackOptions(seed=1))
        job = st.Job(
            st.Data(str(folder / "data"), transform=scaled),
            model,
            mode=st.Epochs(max_passes=10**6),
            optimizer=st.SGD(lr=0.01, momentum=0.9),
            clip=st.Clip(norm=1.0),
            batch_size=BATCH,
            workers=WORKERS,
        )
        every = job.tracking.log_every
        with RayFleet(plan(job)) as fleet:
            turns = Turns(fleet, every, folder)
            turns.turn(WARM_UP, on=True)
            rates: dict[bool, list[float]] = {True: [], False: []}
            for number in range(rounds):
                for on in (True, False) if number % 2 else (False, True):
                    rates[on].append(turns.turn(STEPS, on=on))
    losses = [1 - with_ / without for with_, without in zip(rates[True], rates[False], strict=True)]
    middle, around = rounds / 2, rounds**0.5 / 2
    ordered = sorted(losses)
    spread = (ordered[min(rounds - 1, int(middle + around))] - ordered[int(middle - around)]) / 2
    return {
        "ratios": {"diagnostics_throughput_loss": statistics.median(losses)},
        "standard_error": spread,  # of the median, whatever the losses' distribution
        "examples_per_second": {"on": statistics.median(rates[True]), "off": statistics.median(rates[False])},
        "setting": f"MLP 0.27M, minibatch {BATCH}, {WORKERS} workers, norms every {every} steps, {rounds} rounds",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=600)
    given = parser.parse_args()
    ray.init("local", num_cpus=2 * WORKERS, include_dashboard=False, logging_level="ERROR")
    found = measure(given.rounds)
    ray.shutdown()
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
