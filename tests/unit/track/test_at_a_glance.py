"""What MLflow's pages say first of a run: which one is best, whether it generalizes, and what it was made of."""

import dataclasses
import json
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.tracking._tracking_service.utils import _use_tracking_uri

import streamtrain as st
from streamtrain.prepare.jobfile import load_job
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.result import Result
from streamtrain.track.layer_table import read_layers
from tests.support.datasets import pack_digits


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 16}


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


@pytest.fixture
def job(tmp_path: Path, store_uri: str) -> st.Job:
    pack_digits(tmp_path / "digits", examples=900)
    tracking = st.Tracking(uri=store_uri, folder=str(tmp_path / "runs"), log_model=False)
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    return st.Job(data, model, mode=st.Epochs(max_passes=3), batch_size=50, tracking=tracking)


def train(job: st.Job, name: str = "digits", *, resume: bool | str = False, **settings: object) -> Result:
    changed = dataclasses.replace(job, **settings)  # type: ignore[arg-type]
    return st.train(changed, name=name, inline=True, quiet=True, resume=resume)


def test_the_table_of_runs_sorts_by_what_is_kept(job: st.Job, store_uri: str) -> None:
    rates = {"slow": 0.003, "good": 0.03, "wild": 0.1}  # the last one's error rises in the end
    results = {name: train(job, name, optimizer=st.SGD(lr=lr)) for name, lr in rates.items()}
    with _use_tracking_uri(store_uri):
        table = mlflow.search_runs(experiment_names=["streamtrain"], order_by=["metrics.`chosen/error` ASC"])
    kept = {f"{name}-epochs": result.chosen.generalization.error.mean for name, result in results.items()}
    assert list(table["tags.mlflow.runName"]) == sorted(kept, key=kept.__getitem__)
    assert list(table["metrics.chosen/error"]) == sorted(kept.values())
    last = {name: result.evaluations[-1].generalization.error.mean for name, result in results.items()}
    assert results["wild"].chosen.generalization.error.mean < last["wild"], "the last value is not the kept one"
    for _, row in table.iterrows():
        result = results[row["tags.mlflow.runName"].removesuffix("-epochs")]
        at = result.chosen
        assert row["tags.verdict"] == result.verdict
        assert row["metrics.chosen/error_standard_error"] == at.generalization.error.standard_error
        assert row["metrics.stop/training/loss"] == at.empirical.loss.mean
        assert row["metrics.chosen/gap/loss"] == pytest.approx(at.gap_of_loss.value)
        assert row["metrics.chosen/gap/loss_standard_error"] == pytest.approx(at.gap_of_loss.standard_error)
        assert result.test is not None and row["metrics.stop/test/error"] == result.test.error.mean
        assert (row["metrics.stop/best_passes"], row["metrics.stop/best_step"]) == (at.passes, at.step)


def test_what_is_kept_is_told_once_by_a_run_that_ends_twice(job: st.Job, store_uri: str) -> None:
    first = train(job, mode=st.Epochs(max_passes=2))
    RunFolder(first.folder).result.unlink()  # as if killed before it was written
    again = train(job, mode=st.Epochs(max_passes=2), resume=True)
    assert again.run_id == first.run_id and again.chosen.step == first.chosen.step
    client = mlflow.MlflowClient(store_uri)
    metrics = client.get_run(str(first.run_id)).data.metrics
    names = [name for name in metrics if name.startswith(("chosen/", "stop/"))]
    assert len(names) == 8 + 11, names
    for name in names:
        assert len(client.get_metric_history(str(first.run_id), name)) == 1, name


def test_an_experiment_says_that_models_are_trained(job: st.Job, store_uri: str) -> None:
    train(job, mode=st.Epochs(max_passes=1))
    experiment = mlflow.MlflowClient(store_uri).get_experiment_by_name("streamtrain")
    assert experiment is not None and experiment.tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.figures
def test_layers_are_a_figure_and_a_table_and_curves_on_request(job: st.Job, store_uri: str) -> None:
    client = mlflow.MlflowClient(store_uri)
    for asked in (False, True):
        result = train(job, tracking=dataclasses.replace(job.tracking, log_every=1, layer_curves=asked))
        metrics = client.get_run(str(result.run_id)).data.metrics
        names = {f"{tensor}.{kind}" for tensor in (0, 2) for kind in ("weight", "bias")}
        curves = {f"layer_{of}/{name}" for of in ("gradient_norm", "update_ratio") for name in names}
        assert {name for name in metrics if name.startswith("layer")} == (curves if asked else set())
        files = {file.path: file.file_size for file in client.list_artifacts(str(result.run_id), "layers")}
        assert files.keys() == {"layers/layers.csv", "layers/layers.png"} and max(files.values()) < 500_000
        rows = read_layers(RunFolder(result.folder).layers)
        assert {tensor for tensor, _ in rows} == names
    last = rows["0.weight", "gradient norm"]
    assert last[max(last)] == pytest.approx(metrics["layer_gradient_norm/0.weight"], rel=1e-3)


def test_what_a_run_is_made_of_is_kept_from_its_beginning_on(
    job: st.Job, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a run that fails, and without secrets."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden-token")
    text = f"""
import torch, streamtrain as st
PASSWORD = "hidden-token"
def model():
    return torch.nn.Linear(64, 10)
def scaled(batch):
    return {{**batch, "image": batch["image"].float().flatten(1) * float("nan")}}
tracking = st.Tracking(uri={store_uri!r}, folder={str(tmp_path / "runs")!r}, log_model=False)
job = st.Job(st.Data({job.data.place!r}, transform=scaled), model, mode=st.Online(), batch_size=50, tracking=tracking)
"""
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(st.TrainingError):
        train(load_job(tmp_path / "mine.py"))
    client = mlflow.MlflowClient(store_uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FAILED"
    folder = Path(client.download_artifacts(run.info.run_id, "about", str(tmp_path)))
    assert (folder / "mine.py").read_text() == text.replace("hidden-token", "***")
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["batch_size"] == "50" and settings["data.transform"] == "scaled" and "lanes" in settings
    told = (folder / "data.txt").read_text()
    assert "train: 720 examples\n  0: " in told and "in the source" in told and "label" in told


def test_of_a_mixture_each_data_set_is_told_of(job: st.Job, tmp_path: Path) -> None:
    pack_digits(tmp_path / "more" / "digits", examples=300)
    mixture = st.Mixture({job.data.place: 0.5, str(tmp_path / "more" / "digits"): 0.5})
    result = train(job, data=dataclasses.replace(job.data, url=mixture), mode=st.Epochs(max_passes=1))
    told = RunFolder(result.folder).about("data.txt").read_text()
    assert "train: 720 examples" in told and "train: 240 examples" in told and told.count("in the source") == 2
