"""A job file, from this machine to a Ray cluster that wants a token: what goes well, and each way to fail."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import PATIENCE, Head, ray_head
from tests.support.datasets import pack_digits

NEIGHBOUR = """
import torch

def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def broken():
    raise RuntimeError("no such layer")
"""
JOB = """
import streamtrain as st
from neighbour import {model} as model

def scaled(batch):
    return {{**batch, "image": batch["image"].float() / 16}}

job = st.Job(
    st.Data({data!r}, transform=scaled), model, mode=st.Epochs(max_passes={passes}, patience={passes}), batch_size=50,
    checkpoints=st.Checkpoints(seconds=0.1), tracking=st.Tracking(enabled=False, folder={runs!r}),
)

if __name__ == "__main__":
    import os
    print("told", os.environ.get("MLFLOW_TRACKING_URI"))
    st.train(job)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as head:
        yield head


@pytest.fixture
def job(tmp_path: Path) -> Path:
    pack_digits(tmp_path / "digits")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "neighbour.py").write_text(NEIGHBOUR)
    return write(tmp_path)


def write(folder: Path, model: str = "model", passes: int = 2) -> Path:
    file = folder / "jobs" / "digits.py"
    data, runs = str(folder / "digits"), str(folder / "runs")
    file.write_text(JOB.format(data=data, runs=runs, model=model, passes=passes))
    return file


def test_a_job_is_shipped_followed_and_listed(head: Head, job: Path) -> None:
    done = head.streamtrain("submit", str(job), "--follow", "--workers", "2", "--sgd.lr", "0.05")
    assert done.returncode == 0, done.stdout + done.stderr
    submission, *shown = done.stdout.splitlines()
    assert any("2 worker(s)" in line for line in shown), shown
    assert any(line.startswith("pass    2  loss: train ") for line in shown), shown
    assert "SUCCEEDED" in done.stderr
    (listed,) = json.loads(head.streamtrain("status", submission, "--json").stdout)
    assert (listed["state"], listed["exit_code"]) == ("SUCCEEDED", 0)
    assert listed["entrypoint"] == "python -m streamtrain train digits.py --workers 2 --sgd.lr 0.05"
    assert submission in head.streamtrain("status").stdout
    assert head.streamtrain("logs", submission).stdout.splitlines()[-1] == shown[-1]


def test_a_failure_of_the_users_code_is_one_line_and_its_exit_code(head: Head, job: Path) -> None:
    write(job.parent.parent, "broken")
    done = head.streamtrain("submit", str(job), "--follow")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RuntimeError: no such layer" in done.stdout and "FAILED" in done.stderr
    assert "Traceback" not in done.stdout
    (listed,) = json.loads(head.streamtrain("status", done.stdout.split()[0], "--json").stdout)
    assert listed["message"].startswith(
        "Job entrypoint command failed with exit code 2: streamtrain train: model failed"
    )


def test_rays_own_command_takes_a_job_file(head: Head, job: Path) -> None:
    ships = json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}})
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.address]
    words = ["--working-dir", str(job.parent), "--runtime-env-json", ships, "--", "python", job.name]
    done = subprocess.run([*ray, *words], env=head.environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "told http://mlflow:5000" in done.stdout and "pass    2  loss: train " in done.stdout


def test_a_stopped_job_leaves_a_checkpoint(head: Head, job: Path) -> None:
    write(job.parent.parent, passes=100_000)
    submission = head.streamtrain("submit", str(job)).stdout.strip()
    deadline = time.monotonic() + PATIENCE
    while not list((job.parent.parent / "runs").glob("*/checkpoints/*.json")):
        assert time.monotonic() < deadline, head.streamtrain("logs", submission).stdout
        time.sleep(0.2)
    assert head.streamtrain("stop", submission).stdout.strip() == f"{submission}: asked to stop"
    followed = head.streamtrain("logs", submission, "--follow")
    assert followed.returncode != 0 and "STOPPED" in followed.stderr
    assert "a checkpoint is written: go on with --resume" in followed.stdout
    assert head.streamtrain("stop", submission).stdout.strip() == f"{submission}: had ended"


def test_no_capacity_says_what_is_missing(head: Head, job: Path) -> None:
    done = head.streamtrain("submit", str(job), "--follow", "--workers", "20", "--batch-size", "40")
    assert done.returncode == 2
    assert "workers: expected at most 2" in done.stdout


def test_wrong_tokens_addresses_ids_and_settings_are_one_line(head: Head, job: Path) -> None:
    wrong = head.streamtrain("status", RAY_AUTH_TOKEN="0" * 32)
    assert wrong.returncode == 2 and "expected the cluster's token, found another one; set RAY" in wrong.stderr
    none = head.streamtrain("status", RAY_AUTH_MODE=None, RAY_AUTH_TOKEN_PATH=None)
    assert none.returncode == 2 and "expected the cluster's token, found none; set RAY_AUTH_MODE" in none.stderr
    nobody = Head("http://127.0.0.1:9", head.environment).streamtrain("submit", str(job))
    assert nobody.returncode == 2 and "expected a Ray cluster's job API, found no answer" in nobody.stderr
    unknown = head.streamtrain("logs", "raysubmit_nothing")
    assert unknown.returncode == 2 and "raysubmit_nothing: expected a job of the cluster" in unknown.stderr
    setting = head.streamtrain("submit", str(job), "--sgd.lr", "much")
    assert setting.returncode == 2 and "sgd.lr" in setting.stderr
    for said in (wrong, none, nobody, unknown, setting):
        assert len(said.stderr.strip().splitlines()) == 1, said.stderr
