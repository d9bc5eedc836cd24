"""A job file, from this machine to a Ray cluster that wants a token: what goes well, and each way to fail."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import PATIENCE, Head, ray_head
from tests.support.command import ROOT
from tests.support.datasets import pack_digits
from tests.support.wheel import build_wheel, install_in_folder

NEIGHBOUR = """
import torch

def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def broken():
    raise RuntimeError("no such layer")
"""
JOB = """
import os
import streamtrain as st
from neighbour import {model} as model

if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # in the cluster
    print("this streamtrain is", st.__file__)

def scaled(batch):
    return {{**batch, "image": batch["image"].float() / 16}}

job = st.Job(
    st.Data({data!r}, transform=scaled), model, mode=st.Epochs(max_passes={passes}, patience={passes}), batch_size=50,
    checkpoints=st.Checkpoints(seconds=0.1), tracking=st.Tracking(enabled=False, folder={runs!r}),
)

if __name__ == "__main__":
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


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A folder in which this package is installed from its wheel, as users have it."""
    install_in_folder(build_wheel(tmp_path), tmp_path / "site")
    return tmp_path / "site"


def test_a_job_is_shipped_with_what_a_wheel_installed_followed_and_listed(head: Head, job: Path, wheel: Path) -> None:
    (wheel / "streamtrain" / "of_the_wheel.py").touch()
    done = head.streamtrain("submit", str(job), "--follow", "--workers", "2", "--optimizer.lr", "0.05", source=wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    submission, *shown = done.stdout.splitlines()
    (package,) = head.packages(done.stdout)
    assert package.is_relative_to(head.folder) and (package / "of_the_wheel.py").exists()
    assert any("2 worker(s)" in line for line in shown), shown
    assert any(line.startswith("pass    2  loss: train ") for line in shown), shown
    assert "SUCCEEDED" in done.stderr
    (listed,) = json.loads(head.streamtrain("status", submission, "--json").stdout)
    assert (listed["state"], listed["exit_code"]) == ("SUCCEEDED", 0)
    assert listed["entrypoint"] == "python -m streamtrain train digits.py --workers 2 --optimizer.lr 0.05"
    assert submission in head.streamtrain("status").stdout
    assert head.streamtrain("logs", submission).stdout.splitlines()[-1] == shown[-1]


def test_a_failure_of_the_users_code_is_one_line_and_its_exit_code(head: Head, job: Path) -> None:
    """With the streamtrain that the cluster has."""
    write(job.parent.parent, "broken")
    done = head.streamtrain("submit", str(job), "--follow", "--installed")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RuntimeError: no such layer" in done.stdout and "FAILED" in done.stderr
    assert "Traceback" not in done.stdout and head.packages(done.stdout) == [ROOT / "streamtrain"]
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


def test_prometheus_reads_a_running_job_which_leaves_a_checkpoint_when_it_is_stopped(head: Head, job: Path) -> None:
    write(job.parent.parent, passes=100_000)
    submitted = head.streamtrain("submit", str(job))
    assert submitted.returncode == 0, submitted.stderr
    submission = submitted.stdout.strip()

    def wait_until_nothing_misses(missing: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while missed := missing():
            assert time.monotonic() < deadline, f"{missed}\n{head.streamtrain('logs', submission).stdout}"
            time.sleep(0.2)

    folder = job.parent.parent / "runs"
    wait_until_nothing_misses(lambda: "no checkpoint" if not list(folder.glob("*/checkpoints/*.json")) else None)

    wait_until_nothing_misses(lambda: drawn() - OF_LOSSES - scraped(head.metrics()))
    assert scraped(head.metrics()) <= drawn(), "the dashboard has all"
    assert head.streamtrain("stop", submission).stdout.strip() == f"{submission}: asked to stop"
    followed = head.streamtrain("logs", submission, "--follow")
    assert followed.returncode != 0 and "STOPPED" in followed.stderr
    assert "a checkpoint is written: go on with --resume" in followed.stdout
    assert head.streamtrain("stop", submission).stdout.strip() == f"{submission}: had ended"


OF_LOSSES = {"ray_streamtrain_recovery_count", "ray_streamtrain_recovery_seconds"}
"""Of a run that has recovered."""


def scraped(text: str) -> set[str]:
    """Our metrics that have a value for the run."""
    return set(re.findall(r'^(ray_streamtrain_\w+)\{.*run="digits-epochs".*\} -?[0-9]', text, re.MULTILINE))


def drawn() -> set[str]:
    """Those that the dashboard asks for."""
    return set(re.findall(r"ray_streamtrain_\w+", (ROOT / "cluster" / "grafana.json").read_text()))


def test_no_capacity_says_what_is_missing(head: Head, job: Path) -> None:
    done = head.streamtrain("submit", str(job), "--follow", "--workers", "20", "--batch-size", "40")
    assert done.returncode == 2
    assert "workers: expected at most 2" in done.stdout


def test_wrong_tokens_addresses_ids_and_settings_are_one_line(head: Head, job: Path) -> None:
    wrong = head.streamtrain("status", RAY_AUTH_TOKEN="0" * 32)
    assert wrong.returncode == 2 and "expected the cluster's token, found another one; set RAY" in wrong.stderr
    none = head.streamtrain("status", RAY_AUTH_MODE=None, RAY_AUTH_TOKEN_PATH=None)
    assert none.returncode == 2 and "expected the cluster's token, found none; set RAY_AUTH_MODE" in none.stderr
    nobody = dataclasses.replace(head, address="http://127.0.0.1:9").streamtrain("submit", str(job))
    assert nobody.returncode == 2 and "expected a Ray cluster's job API, found no answer" in nobody.stderr
    unknown = head.streamtrain("logs", "raysubmit_nothing")
    assert unknown.returncode == 2 and "raysubmit_nothing: expected a job of the cluster" in unknown.stderr
    setting = head.streamtrain("submit", str(job), "--optimizer.lr", "much")
    assert setting.returncode == 2 and "optimizer.lr" in setting.stderr
    for said in (wrong, none, nobody, unknown, setting):
        assert len(said.stderr.strip().splitlines()) == 1, said.stderr
