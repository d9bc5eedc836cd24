"""Runs of streamtrain that lose workers, half of them, a host, or the driver, every so many seconds."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from streamtrain.packing import PackOptions, pack
from streamtrain.track.journal import entries_of
from tests.benchmarks.of_goodput.faults import (
    BATCH,
    EXAMPLES,
    LR,
    MOMENTUM,
    PATIENCE,
    WORKERS,
    Points,
    Setting,
    disturb,
    kill,
)
from tests.support.command import ROOT
from tests.support.ray_hosts import RayHosts, ray_hosts

JOB = """
import time
import torch
import streamtrain as st

def model():
    layer, relu = torch.nn.Linear, torch.nn.ReLU
    return torch.nn.Sequential(torch.nn.Flatten(), layer(784, 256), relu(), layer(256, 256), relu(), layer(256, 10))

def scaled(batch):
    time.sleep({seconds} * len(batch["label"]))
    return {{**batch, "image": batch["image"].float() / 255}}

job = st.Job(
    st.Data({data!r}, transform=scaled), model, mode=st.Epochs(max_passes=10**6, patience=10**6),
    max_steps={steps}, batch_size={batch}, optimizer=st.SGD(lr={lr}, momentum={momentum}),
    workers={workers}, lanes={lanes}, checkpoints=st.Checkpoints(seconds={save_every}),
    evaluate=st.Evaluate(every=10**9, examples=100),
    tracking=st.Tracking(uri={uri!r}, folder="runs", log_model=False, system_seconds=600.0),
)
"""
DRIVER = f"""
import sys
from streamtrain.prepare import surroundings
from streamtrain.prepare.surroundings import ray_room
surroundings.usable_cpus = ray_room.usable_cpus = lambda: {WORKERS}
from streamtrain.cli.command import main
sys.argv[0] = "streamtrain"
main()
"""
"""Takes the machine to have a core for each worker: they wait for what stands for accelerators."""
FOUND = "minibatch/loss"
"""The curve whose points tell how far a run is."""


def packed(folder: Path) -> Path:
    """Images and labels out of a generator."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (EXAMPLES, 28, 28), np.uint8)
    np.savez(folder / "data.npz", image=images, label=generator.integers(0, 10, EXAMPLES))
    pack(str(folder / "data.npz"), folder / "data", PackOptions(splits=(0.98, 0.02, 0.0), seed=1))
    return folder / "data"


@dataclass
class Run:
    """What a run was.

    Attributes:
        points: steps and their times.
        workers: how many there were from some time on, as told with steps.
        losses: each step's loss, of every so many steps.
        sha256: of the parameters at the end.
        faults: their times.
    """

    points: Points
    workers: list[tuple[float, float]]
    losses: dict[int, float]
    sha256: str
    faults: list[float] = field(default_factory=list)


@dataclass
class Ours:
    """A job in a folder of its own; its driver is started again where it was killed."""

    folder: Path
    setting: Setting
    hosts: RayHosts | None = None
    _driver: "subprocess.Popen[bytes] | None" = None

    def write(self, data: Path, save_every: float) -> None:
        """Writes the job's file."""
        self.folder.mkdir()
        text = JOB.format(
            seconds=self.setting.example_seconds,
            data=str(data),
            steps=self.setting.steps,
            batch=BATCH,
            lr=LR,
            momentum=MOMENTUM,
            workers=WORKERS,
            lanes=WORKERS,
            save_every=save_every,
            uri=f"sqlite:///{self.folder / 'mlflow.db'}",
        )
        (self.folder / "job.py").write_text(text)

    def start(self, *flags: str) -> None:
        """Starts the driver, or starts it again."""
        words = ["-c", DRIVER, "train", "job.py", "--json", *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *words]
        if self.hosts is not None:
            command, environment = self.hosts.command(0, *words), self.hosts.environment
        with (self.folder / "out.txt").open("wb") as out, (self.folder / "err.txt").open("ab") as err:
            self._driver = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=out, stderr=err)

    def run(self, kind: str = "", *flags: str) -> Run:
        """The whole run, with faults of a kind where the setting has any."""
        strikes: dict[str, Callable[[], None]] = {
            "": lambda: None,
            "worker": lambda: kill(self._workers(), 1),
            "half": lambda: kill(workers := self._workers(), len(workers) // 2),
            "driver": self._kill_driver,
            "host": self._kill_host,
        }
        self.start(*flags)
        try:
            deadline = time.monotonic() + PATIENCE
            while not self._steps_are_there():
                assert not self._ended() and time.monotonic() < deadline, self._told()
                time.sleep(0.05)
            faults = disturb(time.time(), self.setting.every, self._ended, strikes[kind])
            assert self._process.wait() == 0, self._told()
        finally:
            self._process.kill()
            self._process.wait()
        return self._found(faults)

    @property
    def _process(self) -> "subprocess.Popen[bytes]":
        assert self._driver is not None
        return self._driver

    def _ended(self) -> bool:
        """Whether nothing is left that a fault could undo."""
        return self._process.poll() is not None or any(self.folder.glob("runs/*/result.json"))

    def _told(self) -> str:
        return (self.folder / "err.txt").read_text()[-3000:]

    def _steps_are_there(self) -> bool:
        return any(FOUND.encode() in file.read_bytes() for file in self.folder.glob("runs/*/journal.jsonl"))

    def _workers(self) -> list[psutil.Process]:
        """The driver's workers, the youngest last."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Worker."):
                    found.append((process.create_time(), process))
        return [process for _, process in sorted(found, key=lambda each: each[0])]

    def _kill_driver(self) -> None:
        self._process.kill()
        self._process.wait()
        self.start("--resume")

    def _kill_host(self) -> None:
        assert self.hosts is not None
        self.hosts.end(1)
        self.hosts.start_ray(1)

    def _found(self, faults: list[float]) -> Run:
        (journal,) = self.folder.glob("runs/*/journal.jsonl")
        readings = [each for entry in entries_of(journal) for each in entry.get("readings", ())]
        losses: dict[int, float] = {}
        points: list[tuple[int, float]] = []
        for name, value, step, when in readings:
            if name == FOUND:
                assert step not in losses, f"step {step} has two points"
                losses[step] = value
                points.append((step, when))
        (kept,) = self.folder.glob("runs/*/parameters.safetensors")
        workers = [(when, value) for name, value, _, when in readings if name == "throughput/workers"]
        steps = json.loads((self.folder / "out.txt").read_text())["steps"]
        assert steps == self.setting.steps, f"{steps} steps of {self.setting.steps}"
        return Run(points, workers, losses, hashlib.sha256(kept.read_bytes()).hexdigest(), faults)


@contextlib.contextmanager
def two_hosts() -> Iterator[RayHosts]:
    """Half of the workers' cores on each."""
    with ray_hosts(cpus=WORKERS // 2) as hosts:
        hosts.start_ray(0)
        hosts.start_ray(1)
        yield hosts


def reference(folder: Path, data: Path, steps: int) -> Run:
    """The same job by one worker in this machine's one process, without Ray and without waiting, undisturbed."""
    ours = Ours(folder, Setting(0.0, steps))
    ours.write(data, save_every=60.0)
    return ours.run("", "--inline", "--workers", "1")
