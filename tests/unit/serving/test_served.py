"""What a run hands over: what the trial found with the model's first parameters holds for its last ones, or is said."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch

import streamtrain as st
from streamtrain.model.gradient import Gradient
from streamtrain.prepare.plan import Plan, plan
from streamtrain.prepare.trial import Trial, examples_of, preflight
from streamtrain.run.outcome.handing_over import hand_over
from streamtrain.serving import prospect
from streamtrain.track.tracker import ModelCard, NoTracker
from tests.support.fleet import run

FILE = """
import numpy as np
import torch

import streamtrain as st

STEPS = 4


def counted(example):
    line = np.linspace(0, example["end"], STEPS, dtype=np.float32)
    return {"x": line, "label": example["label"]}


def halved(batch):
    return {**batch, "x": batch["x"] / 2}


def model():
    return torch.nn.Sequential(torch.nn.Linear(STEPS, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))


job = st.Job(
    st.Data("DATA", inputs=("x",), map=counted, transform=halved, extra=("end", "label")),
    model,
    mode=st.Epochs(max_passes=1),
    batch_size=20,
    workers=1,
    lanes=2,
    tracking=st.Tracking(uri="URI", folder="RUNS"),
    checkpoints=st.Checkpoints(enabled=False),
)
"""


@pytest.fixture
def job(tmp_path: Path, store_uri: str) -> st.Job:
    np.savez(tmp_path / "d.npz", end=np.arange(90) / 7, label=np.arange(90) % 3)
    st.pack(str(tmp_path / "d.npz"), tmp_path / "d", st.PackOptions(splits=(0.6, 0.4, 0.0), seed=1))
    text = FILE.replace("DATA", str(tmp_path / "d")).replace("URI", store_uri).replace("RUNS", str(tmp_path / "runs"))
    (tmp_path / "counted.py").write_text(text)
    return st.load_job(tmp_path / "counted.py")


def test_a_run_s_model_predicts_from_stored_fields_what_the_run_s_parameters_do(
    job: st.Job, store_uri: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = st.train(job, inline=True)
    assert "the model" not in capfd.readouterr().err, "nothing is to be said of it"
    model = job.model()
    model.load_state_dict(result.parameters)
    ends = [0.0, 1.5, 9.0]
    lines = np.stack([np.linspace(0, end, 4, dtype=np.float32) for end in ends])
    expected, alone = (model.eval()(torch.from_numpy(some) / 2).detach().numpy() for some in (lines, lines[:1]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    found = mlflow.pyfunc.load_model(f"runs:/{result.run_id}/model")
    assert [(spec.name, str(spec.type)) for spec in found.metadata.signature.inputs] == [("end", "float64")]
    given: Any = {"end": np.array(ends)}
    assert np.array_equal(found.predict(given), expected)
    assert np.array_equal(found.predict(pd.DataFrame(given)[:1]), alone)


class Keeper(NoTracker):
    def __init__(self) -> None:
        self.cards: list[ModelCard] = []
        self.tags: dict[str, str] = {}

    def model(self, card: ModelCard) -> None:
        self.cards.append(card)

    def tag(self, name: str, value: str) -> None:
        self.tags[name] = value


def handed_over(plans: Plan, trial: Trial, folder: Path, parameters: Any = None) -> tuple[list[str], Keeper]:
    result, _ = run(plans.job, folder)
    keeper = Keeper()
    lines = [line for line in hand_over(plans, trial, "a run", result, keeper) if "model" in line]
    return lines, keeper


def test_a_map_that_changed_meanwhile_is_no_part_of_it(job: st.Job, tmp_path: Path) -> None:
    plans = plan(job)
    found = prospect(plans.job, Gradient(plans.job), examples_of(plans))
    trial = dataclasses.replace(preflight(plans), prospect=found)
    assert trial.prospect.map is not None
    changed = SimpleNamespace(**{**vars(trial.prospect.map), "source": trial.prospect.map.source.replace("= 4", "= 5")})
    object.__setattr__(trial.prospect, "map", changed)
    (tmp_path / "run").mkdir()
    (line,), keeper = handed_over(plans, trial, tmp_path / "run")
    said = "data.map: cut out of its file, it gives something else; examples are given to it as data.map returns them"
    assert line == f"a run: the model in MLflow, {said}"
    program = keeper.cards[0].program
    assert program is not None and list(program.inputs) == ["x"] and program.notes == (said,)


def test_what_is_no_program_only_at_the_end_is_kept_by_pickle_with_a_line(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = plan(job)
    trial = preflight(plans)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a page more")

    monkeypatch.setattr(torch.export, "export", fails)
    (tmp_path / "run").mkdir()
    (line,), keeper = handed_over(plans, trial, tmp_path / "run")
    assert line.startswith("a run: the model for MLflow: expected one that torch.export takes, found torch.export: ")
    assert "RuntimeError: no such operator: kept by pickle; read it by mlflow.pytorch.load_model" in line
    assert keeper.tags["model.pickled"] == "torch.export: RuntimeError: no such operator"
    assert keeper.cards[0].program is None and "cloudpickle" in " ".join(keeper.cards[0].needs)
