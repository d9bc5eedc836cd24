"""Online on real Ray over data that another process appends to while the run lasts."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.run.watching import following
from tests.support.datasets import pack_digits, save_digits

pytestmark = pytest.mark.usefixtures("local_ray")


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


def brightened(example: dict[str, object]) -> dict[str, object]:
    """Applied to single examples, so that a streamer does it ahead."""
    image = np.asarray(example["image"])
    return {**example, "image": np.minimum(image, 254) + np.uint8(1)}


def appending(folder: Path, examples: int) -> subprocess.Popen[str]:
    """Another process that appends the first digits to a data set, once more."""
    source = save_digits(folder.parent / "more.npz", examples)
    command = [sys.executable, "-m", "streamtrain", "pack", str(source), str(folder), "--append"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digest(parameters: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


@pytest.mark.parametrize("aggregation", [st.Synchronous(), st.Stale(1)], ids=["sync", "stale"])
def test_promise_7_a_run_follows_what_another_process_appends(
    aggregation: st.Synchronous | st.Stale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_digits(tmp_path / "digits", st.PackOptions(seed=3, shard_examples=300), examples=900)
    job = st.Job(
        st.Data(str(tmp_path / "digits"), transform=scaled, map=brightened),
        model,
        mode=st.Online(follow=True, idle_timeout=0.0, window=300),
        batch_size=30,
        lanes=2,
        workers=2,
        aggregation=aggregation,
        tracking=st.Tracking(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", folder=str(tmp_path / "runs"), log_model=False),
    )
    processes = iter([appending(tmp_path / "digits", 500)])
    wait, form = following.wait_for_growth, RayFleet._form
    formed: list[int] = []

    def once_it_is_there(*arguments: object) -> object:
        for process in processes:
            said, _ = process.communicate()
            assert process.returncode == 0, said
        return wait(*arguments)  # type: ignore[arg-type]

    def noted(fleet: RayFleet, members: object, step: int, holder: object) -> None:
        formed.append(step)
        form(fleet, members, step, holder)  # type: ignore[arg-type]

    monkeypatch.setattr("streamtrain.run.controller.wait_for_growth", once_it_is_there)
    monkeypatch.setattr(RayFleet, "_form", noted)
    followed = st.train(job)
    assert followed.examples_used == 720 + 400
    assert formed == [0], "everybody stays in the seat taken at the start"
    if isinstance(aggregation, st.Stale):
        return
    at_once = st.train(job, inline=True)
    assert at_once.examples_used == followed.examples_used
    assert digest(at_once.parameters) == digest(followed.parameters), "as if all had been there from the start"
