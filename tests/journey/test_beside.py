"""Held-out risk measured beside training, over real Ray: the bits and choices of a run that waits."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.cluster.placing import check_resources
from streamtrain.run.outcome.result import Evaluation
from tests.support.datasets import pack_digits
from tests.support.small_job import digest, job_on

ARMED = Path("armed")
"""While it is there, the next process that measures a held-out set is lost."""
EARLY = st.Epochs(max_passes=4, patience_examples=900)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder)
    return folder


def job_of(data: Path, runs: Path, **settings: Any) -> st.Job:
    settings = {"evaluate": st.Evaluate(every=300, examples=100), "mode": EARLY, "lanes": 2, **settings}
    return dataclasses.replace(job_on(data, runs, **settings), tracking=st.Tracking(enabled=False))


def beside(job: st.Job, **settings: Any) -> st.Job:
    return dataclasses.replace(job, evaluate=dataclasses.replace(job.evaluate, beside=True), **settings)


def seen(result: st.Result) -> list[str]:
    return [repr(each.__dict__) for each in result.evaluations]


@pytest.mark.parametrize("mode", [EARLY, st.Online()], ids=["epochs", "online"])
def test_promise_5_beside_training_the_bits_are_those_of_a_run_that_waits(
    data: Path, mode: st.Epochs | st.Online, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(data, tmp_path, mode=mode)
    waiting = st.train(job, inline=True, quiet=True)
    for workers in (1, 2) if isinstance(mode, st.Epochs) else (2,):
        found = st.train(beside(job, workers=workers), quiet=True)
        assert digest(found.parameters) == digest(waiting.parameters)
        assert seen(found) == seen(waiting) and len(seen(found)) > 3
        assert (found.chosen.step, found.stop_reason) == (waiting.chosen.step, waiting.stop_reason)


def deadly(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A metric: held-out examples are measured where it is called."""
    if ARMED.exists():
        ARMED.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return (output.argmax(1) == target).float()


def arm(_: Evaluation) -> None:
    if not Path("armed once").exists():
        Path("armed once").touch()
        ARMED.touch()


def test_who_measures_beside_is_lost_and_it_is_measured_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path)

    def metric(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        os.chdir(folder)  # a process of the cluster may have begun elsewhere
        return deadly(output, target)

    job = job_of(data, tmp_path, mode=st.Epochs(max_passes=1), metrics={"right": metric})
    waiting = st.train(job, inline=True, quiet=True)
    found = st.train(beside(job, listeners=(arm,)), quiet=True)
    assert Path("armed once").exists() and not ARMED.exists()
    assert seen(found) == seen(waiting) and digest(found.parameters) == digest(waiting.parameters)


def test_what_a_measurement_beside_meets_ends_the_run_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path)

    def metric(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if (Path(folder) / ARMED).exists():
            raise RuntimeError("a metric of the user's")
        return (output.argmax(1) == target).float()

    job = beside(job_of(data, tmp_path, metrics={"right": metric}), listeners=(arm,))
    with pytest.raises(st.JobError, match="a metric of the user's"):
        st.train(job, quiet=True)


JOB = """
import torch, streamtrain as st

def scaled(batch):
    return {**batch, "image": batch["image"].float() / 255}

def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

job = st.Job(
    st.Data(DATA, transform=scaled), model, mode=st.Epochs(max_passes=1), batch_size=48,
    evaluate=st.Evaluate(every=600, examples=100, beside=True), tracking=st.Tracking(enabled=False))
"""


def test_what_a_job_file_declares_travels_to_who_measures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    """Nobody can import a job file; and who measures is called before any worker."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pixels.py").write_text(JOB.replace("DATA", repr(str(data))))
    result = st.train(st.load_job(tmp_path / "pixels.py"), quiet=True)
    assert len(result.evaluations) == 3


def test_beside_needs_room_for_one_more(data: Path, tmp_path: Path, local_ray: None) -> None:
    job = beside(job_of(data, tmp_path), workers=8, lanes=8)
    with pytest.raises(
        ConfigError, match=r"evaluate.beside: expected room for 8 worker\(s\) and a process beside them"
    ):
        check_resources(plan(job))
    check_resources(plan(dataclasses.replace(job, workers=7)))


def test_in_this_process_nobody_is_beside(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--inline, evaluate.beside: .* found on; leave it out"):
        st.train(beside(job_of(data, tmp_path)), inline=True, quiet=True)
