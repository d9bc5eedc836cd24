"""Promise 15 for what MLflow gets at a run's end: the trial knows before anything starts what it will not take."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.model.gradient import build_model
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import Trial, preflight
from streamtrain.run.outcome.handing_over import _Ended, _model, _model_card, hand_over
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


class Branching(nn.Sequential):
    """Goes one way or the other by what it gets, so that it is no program."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = super().forward(x)
        return output if x.sum() < torch.inf else output * 2


class Locked(Branching):
    """Holds what no pickle takes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def tried(job: st.Job, **tracking: Any) -> Trial:
    return preflight(plan(dataclasses.replace(job, tracking=st.Tracking(**tracking))))


PICKLED = {"scripted": "parts of it are TorchScript"}
"""What `torch.export` does not take, with what it says."""


@pytest.mark.parametrize("name", TRAINED)
def test_what_the_trial_says_of_a_model_is_what_mlflow_does(name: str, url: str, tmp_path: Path) -> None:
    job = dataclasses.replace(job_of(name, url), tracking=st.Tracking())
    plans = plan(job)
    trial = preflight(plans)
    model = build_model(job).eval()
    card, why = _model_card(plans, trial, _kept(model))
    assert (card.program is None) == (name in PICKLED)
    try:
        save_model(card, tmp_path / "model")
    except Exception as error:
        assert trial.unlogged is not None and str(error).split("\n")[0][:40] in trial.unlogged
        return
    assert trial.unlogged is None
    if card.program is None:
        assert PICKLED[name] in why
        found = mlflow.models.Model.load(str(tmp_path / "model")).signature
        assert found is not None and found.inputs is not None and found.outputs is not None
    else:
        examples = plans.reader("validation").read(0, 3)
        expected = model(torch.from_numpy(examples["x"])).detach().numpy()
        given = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict({"x": examples["x"]})
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def _kept(model: nn.Module) -> Any:
    """A result whose parameters are the model's."""
    return SimpleNamespace(parameters=model.state_dict(), chosen=SimpleNamespace(step=0))


def test_a_model_that_cannot_be_saved_is_told_before_ray_starts(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = dataclasses.replace(job_of("tied weights", url), model=Locked)
    trial = tried(job)
    assert trial.unlogged is not None and LOCKED in trial.unlogged and "\n" not in trial.unlogged
    _announce(_Prepared(plan(job), trial, None, None, inline=False, tags={}), "a run", Terminal())
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("the model for MLflow: expected one that can be saved, found TypeError: cannot pickle")
    assert "set tracking.log_model to False" in told


def test_a_model_that_is_no_program_is_kept_by_pickle_and_a_line_says_so(url: str, tmp_path: Path) -> None:
    job = dataclasses.replace(job_of("tied weights", url), model=Branching, tracking=st.Tracking())
    plans = plan(job)
    trial = preflight(plans)
    assert trial.unlogged is None
    result, _ = run(plans.job, tmp_path)
    (told,) = _model(_Ended(plans, trial, result, NoTracker()))
    assert told.startswith("the model for MLflow: expected one that torch.export takes, found torch.export: ")
    assert "data-dependent" in told and "kept by pickle; read it by mlflow.pytorch.load_model" in told
    card, why = _model_card(plans, trial, _kept(build_model(job)))
    save_model(card, tmp_path / "model")
    assert "data-dependent" in why and card.program is None
    needs = [need.partition("==")[0] for need in (tmp_path / "model" / "requirements.txt").read_text().split()]
    assert needs[:4] == ["mlflow", "cloudpickle", "numpy", "torch"]


def test_a_model_to_be_registered_that_is_no_program_is_told_before_ray_starts(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = dataclasses.replace(job_of("tied weights", url), model=Branching, tracking=st.Tracking(register="ours"))
    plans = plan(job)
    _announce(_Prepared(plans, preflight(plans), None, None, inline=False, tags={}), "a run", Terminal())
    assert "expected one that torch.export takes" in capsys.readouterr().err.splitlines()[-1]


def test_a_lock_is_no_hindrance_to_a_program(url: str) -> None:
    class Exportable(Locked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.Sequential.forward(self, x)  # type: ignore[no-any-return]

    trial = tried(dataclasses.replace(job_of("tied weights", url), model=Exportable))
    assert trial.unlogged is None and trial.prospect.not_exported is None


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
