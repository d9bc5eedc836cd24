"""Kills processes of a run at random moments, and compares its end with that of an undisturbed run.

python -m tests.support.chaos [--kills 300] [--seed 7]        # or: make chaos KILLS=300

As a command it also lets fail what the run stands on (`chaos_services`), and prints how long it took each time until
the run went on. Of processes, the store and the disk that is until the journal has further points of the curves, which
come about once a second in an undisturbed run; of MLflow's server, until it has taken further ones.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.jobfile import load_job
from tests.support import chaos_services
from tests.support.chaos_services import Recoveries, Services, services
from tests.support.command import ROOT, streamtrain
from tests.support.datasets import digits
from tests.support.fleet import Notebook, run
from tests.support.leftovers import Leftovers

JOB = """
import dataclasses, os, time
import numpy as np
import torch
import streamtrain as st

@dataclasses.dataclass(frozen=True)
class SoftSign(st.Optimizer):
    # nothing in the library knows it: no step is longer than the rate, in any element
    decay: float = 0.9

    def vectors(self):
        return ("trace",)

    def move(self, rate, gradient, old, new, updates):
        torch.lerp(gradient, old["trace"], self.decay, out=new["trace"])
        corrected = new["trace"] / (1 - self.decay ** (updates + 1))
        direction = corrected / (corrected.abs() + 0.1)
        torch.add(old["parameters"], direction, alpha=-rate, out=new["parameters"])

def scaled(batch):
    if os.path.exists({pace!r}):  # kills need a run that lasts
        time.sleep({seconds})
    return {{**batch, "image": batch["image"].float() / 255}}

def shifted(example, rng):
    return {{**example, "image": np.roll(example["image"], int(rng.integers(0, 3)), 1)}}

def erased(batch, generator):
    kept = torch.rand(batch["image"].shape[0], 8, 8, generator=generator) > 0.1
    return {{**batch, "image": batch["image"] * kept}}

job = st.Job(
    st.Data({data}, transform=scaled, augment=shifted, augment_batch=erased, streamers={streamers}{cache}),
    lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32),
                                torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10)),
    mode=st.Epochs(max_passes={passes}, patience=10**6),
    optimizer={optimizer},
    schedule=lambda step: 1 / (1 + 0.001 * step),
    clip=st.Clip(norm=1.0),
    batch_size=st.BatchSize({{0: 20, 2000: 40, 3000: 80, 4500: 20}}),
    evaluate={evaluate},
    workers={workers},
    lanes=4,
    checkpoints=st.Checkpoints(seconds=1.0),
    tracking=st.Tracking(uri={uri!r}, folder={runs!r}, log_model=False, layer_curves=True),
)
"""
OPTIMIZERS = ("SoftSign(lr=0.01)", "st.AdamW(lr=0.003, weight_decay=0.1)")
"""Of even seeds and of odd ones."""
BESIDE = "st.Evaluate(every=1000, examples=40, beside=True)"
STEPS_A_PASS, PASSES_A_KILL = 24, 8
LANE_SECONDS = 0.004
"""Each lane's part takes so long at least while there is more to kill: a kill in about two seconds."""
KINDS = {"worker": 4, "streamer": 4, "measurer": 1, "driver": 1}
"""How many of each are among ten victims; a driver takes longest to come back."""
ACTORS = {"worker": "ray::Worker.", "streamer": "ray::WorkersStreamer", "measurer": "ray::Measurer"}
CPUS = 4
"""That the driver takes the machine to have: room for two workers and a process beside them."""
DRIVER = f"""
import sys
from streamtrain.prepare.surroundings import ray_room
ray_room.usable_cpus = lambda: {CPUS}
from streamtrain.cli.command import main
sys.argv[0] = "streamtrain"
main()
"""
NOT_ALL_TOLD = st.TrackingError.exit_code
"""A run ends so where MLflow has not taken everything in time: its server was away a moment before."""
TIMED = ("throughput/", "step_time/", "recovery/", "loader/", "system/", "evaluation/")
"""How curves begin that depend on time."""
Curves = dict[str, list[tuple[int, float]]]


@dataclass
class Chaos:
    """One run, and who kills it.

    Attributes:
        streamers: of each worker.
        services: that the run stands on, which fail too.
        killed: what was killed, in order.
        starts: how often the driver was started.
        recoveries: how long it took until the run went on.
    """

    folder: Path
    seed: int
    kills: int
    streamers: int = 1
    services: Services | None = None
    killed: list[str] = field(default_factory=list)
    starts: int = 0
    recoveries: Recoveries = field(default_factory=Recoveries)

    def __post_init__(self) -> None:
        self.passes = PASSES_A_KILL * (self.kills + 1)
        (self.folder / "tmp").mkdir()
        self.leftovers = Leftovers(self.folder / "tmp")
        self.ray = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets need a short path

    @property
    def runs(self) -> Path:
        """Folder of the run's folder."""
        return self.folder / "runs" if self.services is None else self.services.runs

    @property
    def database(self) -> Path:
        """MLflow's."""
        return self.folder / "mlflow.db" if self.services is None else self.services.database

    @property
    def _cache(self) -> str:
        """Of what is fetched, as code."""
        if self.services is None:
            return ""
        return f", cache={str(self.folder / 'cache')!r}, cache_bytes={chaos_services.CACHE_BYTES}"

    def job(self, data: str, lane_seconds: float = LANE_SECONDS, evaluate: str = "st.Evaluate()") -> Path:
        """Writes the job's file; ``data`` and ``evaluate`` are code."""
        (self.folder / "job.py").write_text(
            JOB.format(
                data=data,
                evaluate=evaluate,
                streamers=self.streamers,
                optimizer=OPTIMIZERS[self.seed % 2],
                passes=self.passes,
                workers=2,
                uri=f"sqlite:///{self.database}" if self.services is None else self.services.mlflow.url,
                cache=self._cache,
                runs=str(self.runs),
                pace=str(self.folder / "pace"),
                seconds=lane_seconds,
            ),
        )
        return self.folder / "job.py"

    def run(self, job: Path) -> dict[str, object]:
        """The run's result, after all kills."""
        chance = random.Random(self.seed)
        began = time.monotonic()
        kinds = KINDS if self.services is None else KINDS | chaos_services.KINDS
        victims = [kind for kind, count in kinds.items() for _ in range(count * -(-self.kills // sum(kinds.values())))]
        chance.shuffle(victims)
        (self.folder / "pace").touch()
        while True:
            with self._driver(job) as driver:
                while driver.poll() is None and len(self.killed) < self.kills:
                    number = len(self.killed)
                    step = (number + chance.random()) * PASSES_A_KILL * STEPS_A_PASS
                    if not self._wait_for(driver, step):
                        break
                    time.sleep(chance.uniform(0, 1))  # the moment is the point, not a wait for something
                    if self._kill(victims[number], driver, chance):
                        self.killed.append(victims[number])
                        print(f"{time.monotonic() - began:6.1f} s, step {self.step:,}: {victims[number]}")
                if len(self.killed) == self.kills:
                    (self.folder / "pace").unlink(missing_ok=True)
                code = driver.wait(timeout=300)
            print(f"{time.monotonic() - began:6.1f} s: ended with {code}")
            if code == 0 or (code == NOT_ALL_TOLD and self.services is not None):  # `_check` makes up for that
                result: dict[str, object] = json.loads((self.folder / "out.txt").read_text())
                return result
            if code != -signal.SIGKILL:
                raise AssertionError(f"the driver ended with {code}: {(self.folder / 'err.txt').read_text()[-3000:]}")

    @contextlib.contextmanager
    def _driver(self, job: Path) -> Iterator["subprocess.Popen[bytes]"]:
        self.starts += 1
        command = [sys.executable, "-c", DRIVER, "train", str(job), "--json", "--resume"]
        temporary = {"TMPDIR": str(self.leftovers.temporary), "RAY_TMPDIR": self.ray}
        environment = {**os.environ, **temporary, "PYTHONPATH": str(ROOT)}
        with (self.folder / "out.txt").open("wb") as out, (self.folder / "err.txt").open("ab") as err:
            driver = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=self.folder)
        with self.leftovers.watching(driver.pid):
            yield driver

    @property
    def step(self) -> int:
        """The last step in the journal."""
        for file in self.runs.glob("*/journal.jsonl"):
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - 2**16))
                found = re.findall(rb'"throughput/workers", [^,]*, (\d+),', opened.read())
            if found:
                return int(found[-1])
        return 0

    def _wait_for(self, driver: "subprocess.Popen[bytes]", step: float) -> bool:
        """Whether the run came to the step before it ended."""
        before = None
        while driver.poll() is None:
            self.recoveries.look()
            seen = self.step
            before = seen if before is None else before
            if seen >= step and seen != before:  # this process trains
                return True
            time.sleep(0.05)
        return False

    @property
    def _delivered(self) -> int:
        """Entries of the journal that MLflow has."""
        found = [int(file.read_text()) for file in self.runs.glob("*/delivered")]
        return found[0] if found else 0

    def _kill(self, kind: str, driver: "subprocess.Popen[bytes]", chance: random.Random) -> bool:
        step, delivered = self.step, self._delivered
        goes_on = (lambda: self._delivered > delivered) if kind == "mlflow" else (lambda: self.step > step)
        if self.services is not None and kind in chaos_services.KINDS:
            self.recoveries.failed(kind, goes_on)
            self.services.fail(kind, chance)
            return True
        victims = [driver] if kind == "driver" else self.leftovers.named(ACTORS[kind])
        if not victims:
            return False
        self.recoveries.failed(kind, goes_on)
        chance.choice(victims).kill()
        return True


def digest(runs: Path) -> str:
    """SHA-256 of the kept parameters of the only run in a folder."""
    (file,) = runs.glob("*/parameters.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def curves(readings: Iterable[tuple[str, int, float]]) -> Curves:
    """Every curve that does not depend on time, in order.

    Raises:
        AssertionError: some curve has two points at one step, also one that depends on time.
    """
    found: Curves = {}
    for name, step, value in sorted(readings):
        found.setdefault(name, []).append((step, value))
    for name, points in found.items():
        steps = [step for step, _ in points]
        assert len(set(steps)) == len(steps), f"{name} has a step twice"
    return {name: points for name, points in found.items() if not name.startswith(TIMED)}


def in_mlflow(database: Path) -> Curves:
    """What MLflow's own store has of its only run."""
    with contextlib.closing(sqlite3.connect(database)) as opened:
        assert opened.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        return curves(opened.execute("SELECT key, step, value FROM metrics"))


def packed_pictures(folder: Path, store: str = "") -> str:
    """Digits as PNG, which streamers decode: two data sets, and a mixture of them as code.

    Args:
        store: URL at which the folder is served: one data set is read from there, in smaller shards.
    """
    parts = 1 if store else 2
    for number, (image, label) in enumerate(zip(*digits(600), strict=True)):
        raw = folder / f"raw{number % 3 // 2 % parts}" / str(label)
        raw.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(raw / f"{number}.png")
    for each in range(parts):
        options = PackOptions(seed=1, shard_examples=20 if store else 60)
        pack(str(folder / f"raw{each}"), folder / f"packed{each}", options)
    if store:
        return repr(f"{store}/packed0")
    return f"st.Mixture({ {str(folder / 'packed0'): 0.65, str(folder / 'packed1'): 0.35} })"


OF_CLOCKS_AND_PLACES = ("mlflow_run_id", "folder", "examples_per_second", "measuring_fraction_of_time", "not_in_mlflow")
"""Of a result, what differs from run to run."""


def compared(folder: Path, kills: int, seed: int, streamers: int = 1) -> Chaos:
    """A run with kills, which must end as one worker without Ray does that nobody disturbs, and leave nothing behind.

    Raises:
        AssertionError: it does not.
    """
    (folder / "chaos").mkdir()
    chaos = Chaos(folder / "chaos", seed, kills, streamers)
    _check(folder, chaos, packed_pictures(folder))
    return chaos


def compared_with_services(folder: Path, kills: int, seed: int) -> Chaos:
    """The same, where also MLflow's server, the store and the disk fail."""
    (folder / "chaos").mkdir()
    with services(folder / "services", folder, kills) as standing:
        chaos = Chaos(folder / "chaos", seed, kills, 2, standing)
        _check(folder, chaos, packed_pictures(folder, standing.store.url))
    return chaos


def _check(folder: Path, chaos: Chaos, data: str) -> None:
    job = chaos.job(data, evaluate=BESIDE)
    found = chaos.run(job)
    kills = len(chaos.killed)
    assert kills == chaos.kills, f"the run ended after {kills} kills of {chaos.kills}: make it longer"
    notes = Notebook()
    (folder / "quiet").mkdir()
    expected, _ = run(dataclasses.replace(load_job(job), workers=1), folder / "quiet", notes)
    file = folder / "quiet" / "parameters.safetensors"
    assert digest(chaos.runs) == hashlib.sha256(file.read_bytes()).hexdigest(), "other parameters"
    for name, value in json.loads(json.dumps(expected.summary())).items():
        assert found[name] == value or name in OF_CLOCKS_AND_PLACES, name
    (folder_of_run,) = chaos.runs.iterdir()
    if chaos.services is not None:  # a server may have been away at the end
        synced = streamtrain("sync", str(folder_of_run))
        assert synced.returncode == 0, synced.stderr
    stored = in_mlflow(chaos.database)
    told = curves((reading.name, reading.step, reading.value) for reading in notes.readings)
    other = {name: (stored.get(name), told.get(name)) for name in sorted({*stored, *told})}
    assert stored == told, {name: each for name, each in other.items() if each[0] != each[1]}
    assert not list(folder_of_run.rglob("*.partial")), "unfinished files"
    chaos.leftovers.check()
    shutil.rmtree(chaos.ray)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as name:
        chaos = compared_with_services(Path(name), given.kills, given.seed)
    counts = {kind: chaos.killed.count(kind) for kind in sorted({*chaos.killed})}
    print(f"{given.kills} kills ({counts}), {chaos.starts} starts of the driver: the same bits, each measure once")
    print(chaos.recoveries.table())


if __name__ == "__main__":
    main()
