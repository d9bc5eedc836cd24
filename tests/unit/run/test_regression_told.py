"""A regression has a loss and no error beside it: what is told of it, and what is not told twice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.report import description
from tests.support.fleet import Notebook


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.line(x.float())[:, 0]
        return found


def distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).abs()


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3))
    np.savez(tmp_path / "raw.npz", x=x, y=(x @ [1.0, -2.0, 0.5] + rng.normal(size=300)).astype(np.float32))
    st.pack(tmp_path / "raw.npz", tmp_path / "packed", st.PackOptions(seed=1))
    data = st.Data(str(tmp_path / "packed"), inputs=("x",), target="y")
    tracking = st.Tracking(folder=str(tmp_path), log_model=False)
    return st.Job(data, Line, loss="mse", mode=st.Epochs(max_passes=6), batch_size=24, tracking=tracking)


def test_the_loss_is_told_once(job: st.Job, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = Notebook()
    result = st.train(job, inline=True, tracker=notebook)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pass ")]
    assert len(lines) >= 6 and all("loss: train" in line and "error" not in line for line in lines)
    names = {reading.name for reading in notebook.readings}
    assert {name for name in names if name.endswith(("/error", "/error_standard_error"))} == {
        "chosen/error",
        "chosen/error_standard_error",
    }
    assert {"Gap/loss", "minibatch/loss", "progressive_pass/loss", "stop/test/loss", "chosen/gap/loss"} <= names
    assert notebook.named("chosen/error") == notebook.named("chosen/loss")
    rows = {line.split("  ")[0]: line for line in st.table({"line": result}).splitlines()}
    assert not any(label.startswith("error") for label in rows)
    assert "lowest of 6 (optimistic)" in rows["loss, held out"] and rows["loss, test"]
    assert "| error" not in description("line", result)
    folder = RunFolder(result.folder)
    assert folder.risk_figure("loss").is_file() and not folder.risk_figure("error").exists()


def test_an_error_of_its_own_is_told_beside(job: st.Job, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = Notebook()
    job = dataclasses.replace(job, error=distance, error_unit="m", mode=st.Epochs(max_passes=1))
    result = st.train(job, inline=True, tracker=notebook)
    assert " m, held out " in capsys.readouterr().err
    assert {"Gap/error", "chosen/gap/error", "minibatch/error"} <= {reading.name for reading in notebook.readings}
    assert "error, held out" in st.table({"line": result}) and "loss, test" not in st.table({"line": result})
    assert RunFolder(result.folder).risk_figure("error").is_file()


def test_early_stopping_names_what_it_stopped_on(job: st.Job) -> None:
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=20, patience=1, min_delta=100.0))
    assert (
        "no better validation loss in 1 passes"
        in st.train(job, inline=True, quiet=True, tracker=Notebook()).stop_reason
    )
