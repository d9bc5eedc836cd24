"""pack, inspect and train as commands, on a small data set: what a user types and what a script reads."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command import streamtrain
from tests.support.datasets import save_digits

JOB = """
import torch
import streamtrain as st

def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float() / 255}

job = st.Job(st.Data("packed", transform=scaled), model, mode=st.Epochs(max_passes=2), batch_size=32)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(empty_store, folder / "mlflow.db")
    save_digits(folder / "digits.npz")
    (folder / "job.py").write_text(JOB)
    packed = json.loads(
        command(folder, "pack", "digits.npz", "packed", "--seed", "5", "--shard-examples", "400", "--json")
    )
    assert packed["examples"] == {"train": 1438, "validation": 180, "test": 179} and packed["shards"] == 6
    return folder


def command(folder: Path, *words: str) -> str:
    done = streamtrain(*words, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inspect(folder: Path) -> None:
    shown = command(folder, "inspect", "packed", "--verify")
    for words in (
        "stored order: uniform, seed 5",
        "checksums verified",
        "8×8",
        "0 … 9",
        "1,438",
        "example 0000 of train",
    ):
        assert words in shown, words
    found = json.loads(command(folder, "inspect", "packed", "--json", "--example", "0777", "--lanes", "2"))
    assert found["example"]["key"] == "0777" and found["way"]["lane"] == 1
    assert sum(found["splits"]["train"]["class_counts"].values()) == 1438


def test_train_with_flags_prints_json(folder: Path) -> None:
    mode = "online"  # the demo runs both
    flags = ["--mode", mode, "--optimizer.lr", "0.5", "--optimizer.momentum", "0.9", "--tracking.experiment", mode]
    result = json.loads(command(folder, "train", "job.py", *flags, "--json"))
    assert result["mode"] == mode and result["examples_used"] == 1438
    assert result["generalization_risk"]["error"] < 0.3 and result["generalization_risk"]["examples"] == 180
    gap = result["generalization_risk"]["loss"] - result["empirical_risk"]["loss"]
    assert result["gap"]["loss"] == pytest.approx(gap) and result["gap"]["loss_standard_error"] > 0
    assert result["mlflow_run_id"] and (Path(result["folder"]) / "parameters.safetensors").exists()
    assert result["progressive_risk"]["examples"] == 1438
    assert len(result["evaluations"]) == (9 if mode == "online" else 2)
