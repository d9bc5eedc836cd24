"""Searches over settings, as a user starts them: Optuna prunes runs by a listener, Ray Tune hears of each pass."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets import pack_digits

JOBS = Path(__file__).parents[2] / "jobs" / "search"
JOB = """
import torch, streamtrain as st

def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float() / 255}

job = st.Job(st.Data("digits", transform=scaled), model, tracking=st.Tracking(enabled=False))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    pack_digits(folder / "digits", examples=480)
    (folder / "job.py").write_text(JOB)
    return folder


def searched(folder: Path, script: str, *words: str) -> str:
    """What the script printed."""
    command = [sys.executable, str(JOBS / script), "--job", "job.py", "--passes", "3", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_optuna_prunes_runs_that_lag(folder: Path) -> None:
    pytest.importorskip("optuna", reason="pip install 'streamtrain[search]'")
    printed = searched(folder, "optuna_pruning.py", "--trials", "10", "--inline")
    found = re.search(r"best of 10 \((\d+) pruned\): .*held-out loss ([\d.]+)", printed)
    assert found is not None, printed
    reasons = [json.loads(file.read_text())["stop_reason"] for file in folder.glob("runs/trial-*/result.json")]
    ended = [reason for reason in reasons if "Optuna prunes it" in reason]
    assert len(reasons) == 10 and 1 <= len(ended) == int(found.group(1)) < 10
    assert float(found.group(2)) < 2.0  # a model that has learned nothing has 2.3


def test_ray_tune_hears_of_each_pass(folder: Path) -> None:
    pytest.importorskip("tensorboardX", reason="pip install 'streamtrain[search]'")
    printed = searched(folder, "ray_tune.py", "--trials", "4")
    assert re.search(r"best of 4: \{.*'lr': .*held-out loss [\d.]+, gap", printed), printed
    lines = [file.read_text().splitlines() for file in folder.glob("tune/*/*/result.json")]
    passes = sorted(len(each) for each in lines)
    assert len(passes) == 4 and passes[-1] == 3  # the best one went on to the end
    for each in lines:
        heard = [json.loads(line) for line in each]
        assert [one["step"] for one in heard] == sorted({one["step"] for one in heard})
        assert all({"loss", "error", "gap"} <= one.keys() for one in heard)
