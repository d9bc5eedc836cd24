"""Kills processes of a run at random moments, and compares its end with that of an undisturbed run.

python -m tests.support.chaos [--kills 300] [--seed 7]        # or: make chaos KILLS=300
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from PIL import Image

from streamtrain.pack import PackOptions, pack
from tests.support.command import ROOT
from tests.support.datasets import digits

JOB = """
import torch
import streamtrain as st

job = st.Job(
    st.Data({data!r}, transform=lambda batch: {{**batch, "image": batch["image"].float() / 255}}),
    lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32),
                                torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10)),
    mode=st.Epochs(max_passes={passes}, patience=10**6),
    sgd=st.SGD(lr=0.05, momentum=0.9, clip_norm=1.0),
    batch_size=20,
    workers=2,
    lanes=4,
    checkpoints=st.Checkpoints(seconds=1.0),
    tracking=st.Tracking(uri={uri!r}, folder={runs!r}, log_model=False),
)
"""
KINDS = {"worker": 5, "streamer": 4, "driver": 1}
"""How many of each are among ten victims; a driver takes longest to come back."""
ACTORS = {"worker": "ray::Worker.", "streamer": "ray::WorkersStreamer"}


@dataclass
class Chaos:
    """One run, and who kills it.

    Attributes:
        killed: what was killed, in order.
        starts: how often the driver was started.
    """

    folder: Path
    seed: int
    killed: list[str] = field(default_factory=list)
    starts: int = 0

    def make(self, name: str, data: Path, passes: int) -> Path:
        """A job's file."""
        place = self.folder / name
        place.mkdir()
        uri = f"sqlite:///{place / 'mlflow.db'}"
        (place / "job.py").write_text(
            JOB.format(data=str(data), passes=passes, uri=uri, runs=str(place / "runs")),
        )
        return place / "job.py"

    def run(self, job: Path, kills: int) -> dict[str, object]:
        """The run's result, after so many kills."""
        chance = random.Random(self.seed)
        began = time.monotonic()
        victims = [kind for kind, count in KINDS.items() for _ in range(count * -(-kills // 10))]
        chance.shuffle(victims)
        while True:
            family, driver = self._start(job)
            while driver.poll() is None and len(self.killed) < kills:
                kind = victims[len(self.killed)]
                time.sleep(chance.uniform(0.5, 2.5))  # the moment is the point, not a wait for something
                if not self._kill(kind, driver, chance):
                    continue
                self.killed.append(kind)
                print(f"{time.monotonic() - began:6.1f} s: {kind}")
                if kind == "driver":
                    break
            code = driver.wait(timeout=300)
            _wait_for_the_end(list(family.values()))
            print(f"{time.monotonic() - began:6.1f} s: ended with {code}")
            if code == 0:
                result: dict[str, object] = json.loads((job.parent / "out.txt").read_text())
                return result
            if code != -signal.SIGKILL:
                raise AssertionError(f"the driver ended with {code}: {(job.parent / 'err.txt').read_text()[-3000:]}")

    def _start(self, job: Path) -> tuple[dict[int, psutil.Process], "subprocess.Popen[str]"]:
        """The driver, once it trains, and its workers and streamers so far, by number."""
        self.starts += 1
        command = [sys.executable, "-m", "streamtrain", "train", str(job), "--json", "--resume"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (job.parent / "out.txt").open("w") as out:
            driver = subprocess.Popen(
                command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment, cwd=job.parent
            )
        trains = threading.Event()

        def follow() -> None:
            with (job.parent / "err.txt").open("a") as errors:
                for line in driver.stderr or ():
                    errors.write(line)
                    errors.flush()
                    if line.startswith("pass"):
                        trains.set()
            trains.set()

        threading.Thread(target=follow, daemon=True).start()
        assert trains.wait(timeout=200)
        seen: dict[int, psutil.Process] = {}

        def look() -> None:
            while driver.poll() is None:
                try:
                    family = psutil.Process(driver.pid).children(recursive=True)
                    seen.update({c.pid: c for c in family if any(a in " ".join(c.cmdline()) for a in ACTORS.values())})
                except psutil.NoSuchProcess:
                    pass  # a child ended while it was looked at: the next look has the others
                time.sleep(0.2)

        threading.Thread(target=look, daemon=True).start()
        return seen, driver

    @staticmethod
    def _kill(kind: str, driver: "subprocess.Popen[str]", chance: random.Random) -> bool:
        if kind == "driver":
            driver.kill()
            return True
        try:
            family = psutil.Process(driver.pid).children(recursive=True)
            actors = [child for child in family if ACTORS[kind] in " ".join(child.cmdline())]
            if not actors:
                return False
            chance.choice(sorted(actors, key=lambda process: process.pid)).kill()
        except psutil.NoSuchProcess:
            return False
        return True


def _wait_for_the_end(family: list[psutil.Process], seconds: float = 120) -> None:
    """Of workers and streamers; Ray's own agents look for their raylet once a minute."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    assert not alive, f"left behind: {[' '.join(process.cmdline())[:80] for process in alive]}"


def digest(runs: Path) -> str:
    """SHA-256 of the kept parameters of the only run in a folder."""
    (file,) = runs.glob("*/parameters.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def curves(runs: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve in a run's journal that does not depend on time."""
    (file,) = runs.glob("*/journal.jsonl")
    timed = ("throughput/", "loader/", "system/", "evaluation/")
    found: dict[str, list[tuple[int, float]]] = {}
    for line in file.read_text().splitlines():
        for name, value, step, _ in json.loads(line).get("readings", ()):
            if not name.startswith(timed):
                found.setdefault(name, []).append((step, value))
    return found


def packed_pictures(folder: Path) -> Path:
    """Digits as PNG, which streamers decode."""
    for number, (image, label) in enumerate(zip(*digits(600), strict=True)):
        (folder / "raw" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "raw" / str(label) / f"{number}.png")
    pack(str(folder / "raw"), folder / "packed", PackOptions(seed=1, shard_examples=60))
    return folder / "packed"


def compared(folder: Path, kills: int, seed: int, passes: int) -> Chaos:
    """An undisturbed run and one with kills, which must end the same.

    Raises:
        AssertionError: they do not.
    """
    data = packed_pictures(folder)
    quiet, chaos = Chaos(folder, seed), Chaos(folder, seed)
    expected = quiet.run(quiet.make("quiet", data, passes), 0)
    found = chaos.run(chaos.make("chaos", data, passes), kills)
    assert len(chaos.killed) == kills, f"the run ended after {len(chaos.killed)} kills of {kills}: make it longer"
    assert digest(folder / "chaos" / "runs") == digest(folder / "quiet" / "runs"), "other parameters"
    for name in ("steps", "examples_used", "generalization_risk", "empirical_risk", "progressive_risk", "test_risk"):
        assert found[name] == expected[name], name
    assert curves(folder / "chaos" / "runs") == curves(folder / "quiet" / "runs"), "other curves"
    return chaos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as name:
        chaos = compared(Path(name), given.kills, given.seed, passes=7 * given.kills)
    counts = {kind: chaos.killed.count(kind) for kind in KINDS}
    print(f"{given.kills} kills ({counts}), {chaos.starts} starts of the driver: the same bits, each measure once")


if __name__ == "__main__":
    main()
