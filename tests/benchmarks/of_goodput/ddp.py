"""DDP as it is usually kept going: torchrun starts all processes again, each from the last checkpoint.

As a script it is one of these processes: `DATA FOLDER STEPS SAVE_EVERY EXAMPLE_SECONDS`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from tests.benchmarks.of_goodput.faults import (
    BATCH,
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

POINT_EVERY = 10
"""Steps, as ours."""


def network() -> torch.nn.Module:
    """Ours' model."""
    layer, relu = torch.nn.Linear, torch.nn.ReLU
    return torch.nn.Sequential(torch.nn.Flatten(), layer(784, 256), relu(), layer(256, 256), relu(), layer(256, 10))


def train(data: str, folder: Path, steps: int, save_every: float, example_seconds: float) -> None:
    """One process: from the last checkpoint, or the beginning, to the end."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), BATCH // WORKERS
    torch.manual_seed(0)
    ddp = torch.nn.parallel.DistributedDataParallel(network())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=LR, momentum=MOMENTUM)
    with np.load(data) as loaded:
        images, labels = torch.from_numpy(loaded["image"][rank::WORKERS]), torch.from_numpy(loaded["label"])
    labels = labels[rank::WORKERS]
    step, kept = 0, folder / "checkpoint.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        ddp.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    saved = time.monotonic()
    with (folder / "points").open("a", buffering=1) as points:
        while step < steps:
            start = step * size % (len(labels) - size)
            time.sleep(example_seconds * size)
            batch = images[start : start + size].float() / 255
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(ddp(batch), labels[start : start + size]).backward()
            optimizer.step()
            step += 1
            if rank == 0 and (step % POINT_EVERY == 0 or step == steps):
                points.write(f"{step} {time.time()}\n")
            if rank == 0 and time.monotonic() - saved > save_every:
                state = {"model": ddp.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, folder / "checkpoint.partial")
                (folder / "checkpoint.partial").replace(kept)
                saved = time.monotonic()
    torch.distributed.destroy_process_group()


@dataclass
class Ddp:
    """Four processes under torchrun, in a folder of their own."""

    folder: Path
    setting: Setting
    data: Path
    save_every: float
    _agent: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Starts torchrun, or starts it again."""
        run = ["--standalone", f"--nproc-per-node={WORKERS}", "--max-restarts=10000", "--monitor-interval=0.1"]
        words = [self.data, self.folder, self.setting.steps, self.save_every, self.setting.example_seconds]
        command = [sys.executable, "-m", "torch.distributed.run", *run, "-m", __name__, *map(str, words)]
        own_store = {
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"
        }  # else no restart connects: findings/torchrun_restarts_connect_through_a_stale_store.sh
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | own_store
        with (self.folder / "err.txt").open("ab") as err:
            self._agent = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=err, stderr=err)

    def run(self, kind: str = "") -> tuple[Points, list[float]]:
        """The whole run: steps that stayed and their times, and the times of faults."""
        self.folder.mkdir()
        strikes: dict[str, Callable[[], None]] = {
            "": lambda: None,
            "worker": lambda: kill(self._workers(), 1),
            "half": lambda: kill(self._workers(), WORKERS // 2),
            "driver": self._kill_agent,
        }
        self.start()
        try:
            deadline = time.monotonic() + PATIENCE
            while not (self.folder / "points").exists() or not (self.folder / "points").read_text():
                assert not self._ended() and time.monotonic() < deadline, self._told()
                time.sleep(0.05)
            faults = disturb(time.time(), self.setting.every, self._ended, strikes[kind])
            assert self._process.returncode == 0, self._told()
        finally:
            for process in [*self._workers(), self._process]:
                process.kill()
            self._process.wait()
        return self._points(), faults

    @property
    def _process(self) -> "subprocess.Popen[bytes]":
        assert self._agent is not None
        return self._agent

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _told(self) -> str:
        return (self.folder / "err.txt").read_text()[-3000:]

    def _workers(self) -> list[psutil.Process]:
        if self._ended():
            return []
        children = psutil.Process(self._process.pid).children()
        return [each for each in children if each.status() != psutil.STATUS_ZOMBIE]

    def _kill_agent(self) -> None:
        """And its processes, as a host's end would: by themselves they would go on to a timeout of gloo."""
        for process in [*self._workers(), self._process]:
            process.kill()
        self._process.wait()
        self.start()

    def _points(self) -> Points:
        """Of steps that were made again the last time, but of the first ones: then training began."""
        lines = [line.split() for line in (self.folder / "points").read_text().splitlines()]
        found = {int(step): float(when) for step, when in lines}
        found[int(lines[0][0])] = float(lines[0][1])
        steps = sorted(found)
        assert steps[-1] == self.setting.steps, f"{steps[-1]} steps of {self.setting.steps}"
        return [(step, found[step]) for step in steps]


if __name__ == "__main__":
    _, given_data, given_folder, *numbers = sys.argv
    train(given_data, Path(given_folder), int(numbers[0]), float(numbers[1]), float(numbers[2]))
