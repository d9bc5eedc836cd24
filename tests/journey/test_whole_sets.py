"""Metrics of the whole held-out set in runs: the same bits inline and over Ray, as a plain computation has them."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
import torchmetrics
from sklearn.metrics import roc_auc_score

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.afterwards.risks import evaluate
from tests.support.datasets import pack_digits
from tests.support.small_job import job_on, model
from tests.support.whole_sets import Auroc, Named, Raises


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=900)
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def measured(data: Path, folder: Path) -> st.Job:
    metrics = {
        "auroc": Auroc(),
        "by name": Named(),
        "f1": torchmetrics.F1Score(task="multiclass", num_classes=10, average="macro"),
        "raises": Raises(),
    }
    job = job_on(data, folder, metrics=metrics, lanes=4, mode=st.Epochs(max_passes=2))
    return dataclasses.replace(job, tracking=st.Tracking(enabled=False))


def outputs(job: st.Job, result: st.Result, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """By hand, of the whole split at once."""
    reader = plan(job).reader(split)
    arrays = reader.read(0, len(reader))
    network = model()
    network.load_state_dict(result.parameters)
    with torch.no_grad():
        return network.eval()(torch.from_numpy(arrays["image"]).float() / 255), torch.from_numpy(arrays["label"])


def test_whole_sets_have_the_bits_of_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    job = measured(data, tmp_path)
    alone = st.train(job, inline=True)
    said = capsys.readouterr()
    assert (said.out + said.err).count("metrics, 'raises' failed: ValueError: too many") == 1, "one line, once"
    two = st.train(job, quiet=True)
    assert [repr(each.__dict__) for each in alone.evaluations] == [repr(each.__dict__) for each in two.evaluations]
    assert repr(alone.test) == repr(two.test)
    output, target = outputs(job, alone, "validation")
    held_out = alone.chosen.generalization.metrics
    auroc = roc_auc_score(target == 0, output.softmax(1)[:, 0].double())
    assert held_out["auroc"].mean == held_out["by name.area"].mean == pytest.approx(auroc, rel=1e-6)
    assert held_out["by name.examples"].mean == len(target), "each example once"
    f1 = torchmetrics.functional.f1_score(output.double(), target, "multiclass", num_classes=10, average="macro")
    assert held_out["f1"].mean == pytest.approx(float(f1), rel=1e-6)
    assert np.isnan(held_out["raises"].mean) and np.isnan(held_out["auroc"].standard_error)
    found = evaluate(job, alone.folder, str(data), splits=("validation",))
    assert repr(found.splits["validation"]) == repr(alone.chosen.generalization)
    assert "auroc" in found.table and len(found.failures) == 1
    kept = json.loads((alone.folder / "result.json").read_text())
    assert kept["generalization_risk"]["auroc"] == held_out["auroc"].mean
    assert kept["generalization_risk"]["raises"] is None


def test_a_whole_set_goes_on_in_a_resumed_run_and_its_curves_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_on(data, tmp_path, metrics={"auroc": Auroc()}, mode=st.Epochs(max_passes=2))
    result = st.train(job, inline=True, quiet=True)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert result.run_id is not None
    points = client.get_metric_history(result.run_id, "generalization_risk/auroc")
    assert [each.value for each in points] == [e.generalization.metrics["auroc"].mean for e in result.evaluations]
    last = client.get_run(result.run_id).data.metrics
    assert last["chosen/auroc"] == result.chosen.generalization.metrics["auroc"].mean
    assert "chosen/auroc_standard_error" not in last
