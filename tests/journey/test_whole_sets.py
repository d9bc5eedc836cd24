"""Metrics of the whole held-out set in runs: the same bits inline and over Ray, as a plain computation has them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.afterwards.risks import evaluate
from tests.support.datasets import digits, pack_digits
from tests.support.small_job import job_on, model, scaled
from tests.support.whole_sets import Auroc, Named, Raises

MATRIX = torchmetrics.ConfusionMatrix(task="multiclass", num_classes=10)


class Line(torch.nn.Module):
    """As many outputs as targets: torchmetrics wants them of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight(x).squeeze(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=900)
    return folder


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
    assert alone.by_class is not None and two.by_class is not None
    np.testing.assert_array_equal(alone.by_class.pairs, two.by_class.pairs)
    np.testing.assert_array_equal(alone.by_class.matrix([*range(10)]), confusion_matrix(target, output.argmax(1)))
    assert "auroc" in found.table and len(found.failures) == 1
    differences = st.compare(alone, two).differences
    assert differences["auroc"][-1].value == 0 and not differences["auroc"][-1].is_clear
    assert np.isnan(differences["raises"][-1].value) and differences["loss"][-1].standard_error == 0
    kept = json.loads((alone.folder / "result.json").read_text())
    assert kept["generalization_risk"]["auroc"] == held_out["auroc"].mean
    assert kept["generalization_risk"]["raises"] is None


@pytest.mark.figures
def test_a_whole_sets_curves_tables_and_classes_are_in_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_on(data, tmp_path, metrics={"auroc": Auroc(), "matrix": MATRIX}, mode=st.Epochs(max_passes=2))
    result = st.train(job, inline=True, quiet=True)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert result.run_id is not None
    points = client.get_metric_history(result.run_id, "generalization_risk/auroc")
    assert [each.value for each in points] == [e.generalization.metrics["auroc"].mean for e in result.evaluations]
    last = client.get_run(result.run_id).data.metrics
    assert last["chosen/auroc"] == result.chosen.generalization.metrics["auroc"].mean
    assert "chosen/auroc_standard_error" not in last
    found = {each.path for folder in ("classes", "tables") for each in client.list_artifacts(result.run_id, folder)}
    assert found == {"classes/by_class.csv", "classes/by_class.png", "classes/confusion.csv", "tables/table_matrix.csv"}
    assert (result.folder / "by_class.png").stat().st_size < 500_000
    table = np.loadtxt(result.folder / "table_matrix.csv", delimiter=",")
    assert result.by_class is not None
    np.testing.assert_array_equal(table, result.by_class.matrix([*range(10)]))
    best = result.chosen.generalization.error
    wrong = sum(error.mean * error.count for error in result.by_class.errors.values())
    assert wrong / best.count == pytest.approx(best.mean), "of the kept parameters"


def test_classes_have_the_names_that_the_data_set_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = digits(300)
    for name in ("one", "two", "zero"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
    for index in np.flatnonzero(labels < 3):
        name = ("zero", "one", "two")[labels[index]]
        Image.fromarray(images[index]).save(tmp_path / "pictures" / name / f"{index}.png")
    st.pack(str(tmp_path / "pictures"), tmp_path / "packed", st.PackOptions(splits=(0.6, 0.4, 0.0)))
    data = st.Data(str(tmp_path / "packed"), transform=scaled)
    job = st.Job(data, model, mode=st.Epochs(max_passes=1), batch_size=16, tracking=st.Tracking(enabled=False))
    result = st.train(job, inline=True, quiet=True)
    assert result.by_class is not None
    assert [result.by_class.name(number) for number in range(4)] == ["one", "two", "zero", "3"]
    assert "zero" in (result.folder / "by_class.csv").read_text()


NAMES = ("one", "two", "zero")


def tripled(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "features": example["features"] * 3}


def swapped(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "label": 1 - min(int(example["label"]), 1)}


def is_one(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "label": (batch["label"] == 0).long()}


def without_the_rare(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "label": min(int(example["label"]), 1)}


@pytest.mark.parametrize(
    ("functions", "named"),
    [
        ({"map": tripled}, True),
        ({"map": swapped}, False),
        ({"transform": is_one}, False),
        ({"map": without_the_rare}, False),
    ],
    ids=["labels as they are", "map", "transform", "map, of a class that the first examples are not of"],
)
def test_classes_that_a_function_makes_do_not_have_the_stored_names(
    functions: dict[str, Any], named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = [NAMES[number % 2] for number in range(200)] + ["zero"] * 3
    lines = [f"{number % 2},{number % 7},{label}" for number, label in enumerate(labels)]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
    st.pack(str(tmp_path / "d.csv"), tmp_path / "d", st.PackOptions(splits=(0.5, 0.5, 0.0), label="label", seed=5))
    stored = st.open(tmp_path / "d", "validation")[:]["label"]
    assert 2 in stored and 2 not in stored[:20]
    off = st.Tracking(enabled=False)
    data = st.Data("d", inputs=("features",), **functions)
    job = st.Job(data, lambda: torch.nn.Linear(2, 3), mode=st.Epochs(max_passes=1), batch_size=16, tracking=off)
    result = st.train(job, inline=True, quiet=True)
    assert result.by_class is not None
    assert [result.by_class.name(number) for number in range(3)] == [*(NAMES if named else "012")]


def zeros() -> torch.nn.Module:
    network = torch.nn.Linear(2, 3)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    return network


@pytest.mark.parametrize(("rate", "said"), [(1e-9, True), (0.5, False)], ids=["says one class", "has learned"])
def test_a_model_that_is_no_better_than_one_class_is_told_so(
    rate: float, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{number % 3 == 2:d},{number % 3 < 2:d},{('many', 'many', 'some')[number % 3]}" for number in range(300)]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
    st.pack(str(tmp_path / "d.csv"), tmp_path / "d", st.PackOptions(splits=(0.5, 0.5, 0.0), label="label", seed=1))
    off = st.Tracking(enabled=False)
    optimizer = st.SGD(lr=rate)
    data = st.Data("d", inputs=("features",))
    job = st.Job(data, zeros, optimizer=optimizer, mode=st.Epochs(max_passes=2), batch_size=15, tracking=off)
    result = st.train(job, inline=True, quiet=True)
    labels = st.open(tmp_path / "d", "validation")[:]["label"]
    always = 1 - np.bincount(labels).max() / len(labels)
    assert (result.chosen.generalization.error.mean == pytest.approx(always)) == said
    row = f"error, always one class  {always:.2%} by many: the model is hardly better"
    assert (" ".join(row.split()) in " ".join(st.table({"a": result}).split())) == said
    assert ("always one class" in st.table({"a": result})) == said


def test_a_regression_has_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(80, 1)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=x[:, 0] + 1e4)
    st.pack(str(tmp_path / "d.npz"), tmp_path / "d", st.PackOptions(splits=(0.5, 0.5, 0.0)))
    st_data = st.Data(str(tmp_path / "d"), inputs=("x",), target="y")
    job = st.Job(
        st_data,
        Line,
        loss="mse",
        metrics={"r2": torchmetrics.R2Score()},
        mode=st.Epochs(max_passes=1),
        batch_size=8,
        tracking=st.Tracking(enabled=False),
    )
    result = st.train(job, inline=True, quiet=True)
    assert result.by_class is None and not (result.folder / "by_class.csv").exists()
    held_out = result.chosen.generalization
    spread = np.var(plan(job).reader("validation").read(0, 40)["y"].astype(np.float64))
    assert held_out.metrics["r2"].mean == pytest.approx(1 - held_out.loss.mean / spread, rel=1e-4)
