"""How long it takes until the first updates are made: whole processes, one after another, on a warm machine.

    python -m tests.benchmarks.start [--json] [--rounds 5]

The demo's job on MNIST's shape (random pixels), one worker, without MLflow. Each process is started by its command and
timed until it says that its first steps are made; the yardsticks are `import torch` alone, and Ray alone: `ray.init`
with the arguments that we give it. We also leave out a process and waits of Ray for which it has no argument, so Ray
alone as we start it is among the figures. Steps a second of both ways are those of the same runs' last passes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil

from streamtrain.packing import PackOptions, pack
from tests.benchmarks.models import images
from tests.benchmarks.rounds import Seconds, machine, ratio

JOB = Path(__file__).parents[2] / "jobs" / "mnist.py"
TORCH = "import torch; print('ready', flush=True)"
RAY = """
import logging, ray
ray.init("local", logging_level=logging.ERROR, include_dashboard=False, num_cpus=CPUS)
print("ready", flush=True)
"""
OURS = """
from streamtrain.run.fleet.cluster.starting import start_ray
start_ray()
print("ready", flush=True)
"""
TRAIN = ("-m", "streamtrain", "train", str(JOB), "--workers", "1", "--lanes", "2", "--tracking.no-enabled")
PASSES = ("--mode.max-passes", "6", "--mode.patience", "6")


def until(mark: str, *words: str, folder: Path) -> Seconds:
    """From a process's start until it prints a line with ``mark``; then it is stopped, with all that it started.

    Agents of a Ray that was stopped live up to a minute longer, and another start meanwhile takes 3 s more.
    """
    began = perf_counter()
    with subprocess.Popen(
        [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if mark in line:
                seconds = perf_counter() - began
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGTERM)
                process.stdout.read()
                _, alive = psutil.wait_procs(family, timeout=5)
                for left in alive:
                    left.kill()
                return seconds
    raise RuntimeError(f"{' '.join(words)} ended without {mark!r}:\n{''.join(seen)}")


def speed(*words: str, folder: Path) -> float:
    """Examples a second of a whole run, as it says at the end of its last pass."""
    command = [sys.executable, *TRAIN, *PASSES, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = re.findall(r"([\d,]+) examples/s", done.stdout + done.stderr)
    return float(found[-1].replace(",", ""))


def measure(rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        pixels, labels = images()
        (folder / "data").mkdir()
        np.savez(folder / "data.npz", image=pixels, label=labels)
        pack(str(folder / "data.npz"), folder / "data" / "mnist", PackOptions(splits=(0.8, 0.1, 0.1), seed=1))
        first = "first steps after"
        alone = RAY.replace("CPUS", str(os.cpu_count()))
        contestants: dict[str, Callable[[], Seconds]] = {
            "import torch": lambda: until("ready", "-c", TORCH, folder=folder),
            "inline": lambda: until(first, *TRAIN, "--inline", folder=folder),
            "ray alone": lambda: until("ready", "-c", alone, folder=folder),
            "ray alone, as we start it": lambda: until("ready", "-c", OURS, folder=folder),
            "over ray": lambda: until(first, *TRAIN, folder=folder),
        }
        for contestant in contestants.values():
            contestant()
        seconds: dict[str, list[Seconds]] = {name: [] for name in contestants}
        speeds: dict[str, list[float]] = {"inline": [], "over ray": []}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                seconds[name].append(contestant())
            speeds["inline"].append(speed("--inline", folder=folder))
            speeds["over ray"].append(speed(folder=folder))
    ratios = {
        "inline_vs_import_torch": ratio(seconds["inline"], seconds["import torch"]),
        "ray_vs_ray_alone": ratio(seconds["over ray"], seconds["ray alone"]),
        "inline_vs_ray_steps": ratio(speeds["inline"], speeds["over ray"]),
    }
    medians = {f"{name}, s": statistics.median(each) for name, each in seconds.items()}
    medians |= {f"{name}, examples/s": statistics.median(each) for name, each in speeds.items()}
    return {"ratios": ratios, "figures": medians, "rounds": rounds, "machine": machine()}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--json", action="store_true", help="print as JSON")
    words.add_argument("--rounds", type=int, default=5)
    asked = words.parse_args()
    found = measure(asked.rounds)
    print(json.dumps(found) if asked.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
