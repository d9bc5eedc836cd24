"""Two runs at equal numbers of updates: interpolation, its standard error by simulation, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.measure.comparison import Point, differences
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.compare import log_comparison
from tests.support.datasets import pack_digits
from tests.support.fleet import run


def line(*points: tuple[int, float]) -> list[Point]:
    return [Point(step, mean, 0.1) for step, mean in points]


def test_differences_at_all_common_steps() -> None:
    found = differences(line((10, 1.0), (20, 0.6), (40, 0.2)), line((15, 0.5), (30, 0.3), (35, 0.2)))
    assert [d.step for d in found] == [15, 20, 30, 35]
    assert [d.value for d in found] == pytest.approx([0.3, 0.6 - 0.5 + 0.2 / 3, 0.1, 0.1])
    assert found[0].standard_error == pytest.approx(np.hypot(0.1, np.hypot(0.05, 0.05)))
    assert differences(line((1, 1.0), (2, 1.0)), line((3, 1.0))) == []


def test_standard_error_is_the_spread_of_independent_measurements() -> None:
    generator = np.random.default_rng(0)
    values = []
    for _ in range(4000):
        noise = generator.normal(0, 0.1, 4)
        a, b = line((0, 1 + noise[0]), (4, 1 + noise[1])), line((0, 1 + noise[2]), (1, 1 + noise[3]))
        last = differences(a, b)[-1]
        values.append(last.value)
    assert last.step == 1 and last.standard_error == pytest.approx(np.std(values), rel=0.05)


def test_on_the_same_examples_the_difference_is_paired_also_between_measurements() -> None:
    hard = np.linspace(0, 1, 20)
    parts = [tuple(hard + shift) for shift in (0.4, 0.2, 0.1)]
    first = [Point(step, np.mean(p), 0.1, (5,) * 20, p) for step, p in zip((0, 10), parts, strict=False)]
    second = [Point(5, np.mean(parts[2]), 0.1, (5,) * 20, parts[2])]
    (found,) = differences(first, second)
    assert found.value == pytest.approx(0.2) and found.standard_error == pytest.approx(0, abs=1e-12)
    (other,) = differences(first, [Point(5, np.mean(parts[2]), 0.1, (4,) * 20, parts[2])])
    assert other.standard_error > 0.1


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


@pytest.fixture
def results(tmp_path: Path) -> tuple[st.Result, st.Result]:
    pack_digits(tmp_path / "digits")
    job = st.Job(st.Data(str(tmp_path / "digits"), transform=scaled), lambda: torch.nn.Linear(64, 10), batch_size=50)
    online, _ = run(dataclasses.replace(job, mode=st.Online()), tmp_path)
    epochs, _ = run(dataclasses.replace(job, mode=st.Epochs(max_passes=1)), tmp_path)
    return online, epochs


def test_two_runs_with_the_same_updates_do_not_differ(results: tuple[st.Result, st.Result], tmp_path: Path) -> None:
    online, epochs = results
    comparison = st.compare(epochs, online)
    assert list(comparison.differences) == ["soft_error", "error", "loss"] and comparison.notes == ()
    (only,) = comparison.differences["soft_error"]
    assert only.value == 0 and only.step == 29 and "no clear difference (+0.0000 ± 0." in comparison.says
    for name, result in (("a", epochs), ("b", online)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result.summary()))
    assert st.compare(tmp_path / "a", str(tmp_path / "b")) == comparison
    assert "| 29 | " in comparison.table


def test_a_comparison_goes_to_mlflow_with_its_figures(
    results: tuple[st.Result, st.Result], store_uri: str, tmp_path: Path
) -> None:
    import mlflow

    comparison = st.compare(*results)
    uri = store_uri
    folder = RunFolder.new(str(tmp_path), "compare")
    assert log_comparison(comparison, folder, uri, "tests") is None
    client = mlflow.MlflowClient(uri)
    (logged,) = client.search_runs(["1"])
    assert logged.info.run_name == "online against epochs"
    assert logged.data.metrics["comparison/soft_error"] == 0.0
    assert len(client.list_artifacts(logged.info.run_id, "figures")) == 3
    assert "| updates | online | epochs |" in logged.data.tags["mlflow.note.content"]


def test_promise_10_runs_that_cannot_be_compared(
    results: tuple[st.Result, st.Result], store_uri: str, tmp_path: Path
) -> None:
    online, epochs = results
    early = dataclasses.replace(online, evaluations=online.evaluations[:2])
    with pytest.raises(st.ConfigError, match="expected measurements at common numbers of updates, found 3 to 6 and 29"):
        st.compare(early, epochs)
    with pytest.raises(st.ConfigError, match="expected a run with result.json, found none; name a finished run's"):
        st.compare(epochs, tmp_path, uri=store_uri)
