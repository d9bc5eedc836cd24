"""Promise 17 through a real SIGTERM and `--resume`: models that hold more than weights, over Ray."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import ROOT, streamtrain

MODELS = '''
import torch
from torch import nn

CLASSES = 5

class Frozen(nn.Module):
    """A body in evaluation with frozen statistics and dropout, a table in half precision, and tied weights."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.body.requires_grad_(False).eval()
        self.table = nn.Parameter((torch.randn(16, 16) / 4).half(), requires_grad=False)
        self.norm, self.one, self.other = nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.norm(self.body(x.flatten(1)) @ self.table.float())
        return self.head(self.other(torch.relu(self.one(x))))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(16, 12, 2, batch_first=True, dropout=0.3), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])

class Stateful(nn.Module):
    """Buffers of several types that change while it trains, and a `train` of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(16, dtype=torch.float64))
        self.register_buffer("mask", torch.arange(16) % 3 > 0)
        self.register_buffer("scale", torch.full((16,), 1 / 3, dtype=torch.bfloat16))
        self.register_buffer("large", torch.tensor([2**62 + 1], dtype=torch.int64))

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x.flatten(1))))
        if self.training:
            self.calls += 1
            self.mean.lerp_(x.detach().double().mean(0), 0.1)
        return self.head(x * self.mask * self.scale.float() * (1 + self.mean.float()))

class All(nn.Module):
    """The three side by side, so that one run tries what each of them holds."""

    def __init__(self):
        super().__init__()
        self.frozen, self.recurrent, self.stateful = Frozen(), Recurrent(), Stateful()

    def forward(self, x):
        return self.frozen(x) + self.recurrent(x) + self.stateful(x)
'''
JOB = """
import streamtrain as st
from models import All

job = st.Job(
    st.Data("packed", inputs=("x",)), All, mode=st.Epochs(max_passes=12, patience=12), batch_size=16, lanes=4,
    seed=3, tracking=st.Tracking(enabled=False),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    generator = np.random.default_rng(5)
    x = generator.normal(size=(600, 4, 16)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, label=(x.mean((1, 2)) * 20).round().astype(np.int64) % 5)
    assert streamtrain("pack", "d.npz", "packed", "--seed", "1", folder=folder).returncode == 0
    (folder / "models.py").write_text(MODELS)
    (folder / "job.py").write_text(JOB)
    return folder


def sum_of(folder: Path, run: str) -> str:
    return hashlib.sha256((folder / "runs" / run / "parameters.safetensors").read_bytes()).hexdigest()


def test_promise_17_stopped_by_sigterm_and_resumed(folder: Path) -> None:
    stopped = subprocess.Popen(
        [sys.executable, "-m", "streamtrain", "train", "job.py", "--workers", "2"],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert stopped.stderr is not None
    try:
        said = []
        for line in stopped.stderr:
            said.append(line)
            if line.startswith("first steps after"):
                stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(120) == 6, "".join(said)
    finally:
        stopped.kill()
        stopped.communicate()
    (told,) = re.findall(r"stopped by SIGTERM after step ([\d,]+); a checkpoint is written", "".join(said))
    assert 0 < int(told.replace(",", "")) < 12 * 30
    (run,) = [each.name for each in (folder / "runs").iterdir()]
    resumed = streamtrain("train", "job.py", "--inline", "--resume", folder=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{run}: step {told}" in resumed.stderr
    whole = streamtrain("train", "job.py", "--inline", "--tracking.run-name", "whole", folder=folder)
    assert whole.returncode == 0, whole.stderr
    (other,) = [each.name for each in (folder / "runs").iterdir() if each.name.startswith("whole")]
    assert sum_of(folder, run) == sum_of(folder, other), "the bits depend on whether the run was stopped"
