"""Promise 15 for what MLflow gets at a run's end: the trial knows before anything starts what it will not take."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pytorch
import numpy as np
import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.model.gradient import build_model
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import Trial, preflight
from streamtrain.run.outcome.handing_over import hand_over
from streamtrain.run.train import _announce, _Prepared
from streamtrain.track.mlflow.model import save_model
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import ModelCard, NoTracker
from tests.support.fleet import run
from tests.support.layers import LINE
from tests.support.models import TRAINED
from tests.support.tokens import Language
from tests.support.two_workers import job_of

pytestmark = [
    pytest.mark.filterwarnings(*(f"ignore:{told}" for told in ("Sparse", "ComplexHalf", ".*nested", "`torch.", "Any")))
]
LOCKED = "cannot pickle '_thread.lock' object"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(5)
    x = generator.normal(size=(90, *LINE)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, label=(x.mean((1, 2)) * 20).round().astype(np.int64) % 5)
    st.pack(str(folder / "d.npz"), folder / "d", st.PackOptions(splits=(0.8, 0.2, 0.0), seed=1))
    return str(folder / "d")


class Locked(nn.Sequential):
    """Holds what no pickle takes."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 5))
        self.lock = threading.Lock()


def tried(job: st.Job, **tracking: Any) -> Trial:
    return preflight(plan(dataclasses.replace(job, tracking=st.Tracking(**tracking))))


@pytest.mark.parametrize("name", TRAINED)
def test_what_the_trial_says_of_a_model_is_what_mlflow_does(name: str, url: str, tmp_path: Path) -> None:
    job = job_of(name, url)
    trial = tried(job)
    card = ModelCard(build_model(job).eval(), trial.inputs, trial.output)
    try:
        save_model(card, tmp_path / "model")
    except Exception as error:
        assert trial.unlogged is not None and str(error).split("\n")[0][:40] in trial.unlogged
    else:
        assert trial.unlogged is None
        found = mlflow.models.Model.load(str(tmp_path / "model")).signature
        assert found is not None and found.inputs is not None and found.outputs is not None


def test_a_model_that_cannot_be_saved_is_told_before_ray_starts(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = dataclasses.replace(job_of("tied weights", url), model=Locked)
    trial = tried(job)
    assert trial.unlogged is not None and LOCKED in trial.unlogged and "\n" not in trial.unlogged
    _announce(_Prepared(plan(job), trial, None, None, inline=False, tags={}), "a run", Terminal())
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("the model for MLflow: expected one that can be saved, found TypeError: cannot pickle")
    assert "set tracking.log_model to False" in told


@pytest.mark.parametrize("tracking", [{"enabled": False}, {"log_model": False}])
def test_who_logs_no_model_is_told_nothing(url: str, tracking: dict[str, Any]) -> None:
    assert tried(dataclasses.replace(job_of("tied weights", url), model=Locked), **tracking).unlogged is None


def test_a_model_to_be_registered_that_cannot_be_saved_is_refused(url: str) -> None:
    job = dataclasses.replace(job_of("tied weights", url), model=Locked)
    with pytest.raises(st.ConfigError, match="tracking.register: expected a model that can be saved, found TypeError"):
        tried(job, register="ours")


def test_a_run_whose_model_is_not_logged_is_whole_otherwise(url: str, tmp_path: Path) -> None:
    class Noted(NoTracker):
        def __init__(self) -> None:
            self.tags: dict[str, str] = {}

        def tag(self, name: str, value: str) -> None:
            self.tags[name] = value

        def model(self, card: ModelCard) -> None:
            raise AssertionError("it was known that this fails")

    job = dataclasses.replace(job_of("tied weights", url), model=Locked)
    result, _ = run(job, tmp_path)
    noted = Noted()
    assert list(hand_over(plan(job), tried(job), "a run", result, noted)) == []
    assert LOCKED in noted.tags["model.logged"]


def cast(dtype: torch.dtype) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda batch: {**batch, "x": batch["x"].to(dtype)}


class Floats(nn.Module):
    """Takes numbers of any type."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.real if x.is_complex() else x
        output: torch.Tensor = self.head(x.flatten(1).float())
        return output


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
        *(torch.uint64, torch.float16, torch.float32, torch.float64, torch.complex64, torch.bfloat16),
    ],
    ids=str,
)
def test_the_signature_takes_inputs_of_every_type(url: str, tmp_path: Path, dtype: torch.dtype) -> None:
    job = job_of("tied weights", url)
    data = dataclasses.replace(job.data, transform=cast(dtype))
    trial = tried(dataclasses.replace(job, model=Floats, data=data))
    save_model(ModelCard(build_model(job).eval(), trial.inputs, trial.output), tmp_path / "model")
    found = mlflow.models.Model.load(str(tmp_path / "model")).signature
    expected = torch.zeros(0, dtype=torch.float32 if dtype.is_floating_point else dtype).numpy().dtype
    assert found is not None and found.inputs is not None and trial.inputs[0].dtype == expected
    assert str(found.inputs.inputs[0].type) == str(expected)


def test_a_model_of_sequences_is_logged_for_any_length(tmp_path: Path) -> None:
    tokens = np.zeros((2, 4), np.int64)
    model = Language()
    card = ModelCard(model.eval(), (tokens,), model(torch.from_numpy(tokens)).detach().numpy(), any_size=True)
    save_model(card, tmp_path / "model")
    found = mlflow.models.Model.load(str(tmp_path / "model")).signature
    assert found is not None
    assert [spec.shape for spec in (*found.inputs, *found.outputs)] == [(-1, -1), (-1, -1, -1)]
