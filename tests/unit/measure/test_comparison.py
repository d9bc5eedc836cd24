"""Two runs at equal numbers of updates: interpolation, its standard error by simulation, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import streamtrain as st
from streamtrain.cli.command import main
from streamtrain.measure.comparison import Difference, Point, differences, group_differences
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.compare import Comparison, log_comparison
from tests.support.datasets import pack_digits
from tests.support.fleet import run


def line(*points: tuple[int, float]) -> list[Point]:
    return [Point(step, mean, 0.1) for step, mean in points]


def test_differences_at_all_common_steps() -> None:
    found = differences(line((10, 1.0), (20, 0.6), (40, 0.2)), line((15, 0.5), (30, 0.3), (35, 0.2)))
    assert [d.step for d in found] == [15, 20, 30, 35]
    assert [d.value for d in found] == pytest.approx([0.3, 0.6 - 0.5 + 0.2 / 3, 0.1, 0.1])
    assert found[0].standard_error == pytest.approx(np.hypot(0.1, 0.05 + 0.05))
    assert differences(line((1, 1.0), (2, 1.0)), line((3, 1.0))) == []


def test_standard_error_is_the_spread_of_runs_on_other_examples() -> None:
    """Each run's measurements are on examples of its own, the same every time."""
    generator = np.random.default_rng(0)
    values = []
    for _ in range(4000):
        one, other = generator.normal(0, 0.1, 2)
        a, b = line((0, 1 + one), (4, 1 + one)), line((0, 1 + other), (1, 1 + other))
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


def test_what_is_between_two_measurements_on_the_same_examples_is_covered_as_stated() -> None:
    """The held-out examples happen to be easy or hard, for both measurements."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        shared = 0.1 * generator.normal()
        (found,) = differences(line((0, 1 + shared), (10, 0.5 + shared)), [Point(5, 0.75, 0.1)])
        covered += abs(found.first.mean - 0.75) <= found.first.standard_error
    assert covered / 4000 == pytest.approx(0.683, abs=0.03)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (Point(9, 0.5, math.nan), Point(9, 0.4, math.nan), "no comparison (a − b: +0.1000 (± not known) after 9"),
        (Point(9, math.nan, math.nan), Point(9, 0.4, 0.01), "no comparison after 9 updates, a is not finite"),
        (Point(9, 0.5, 0.01), Point(9, math.inf, 0.01), "no comparison after 9 updates, b is not finite"),
        (
            Point(9, 0.5, 0.01),
            Point(9, 0.4, 0.01),
            "b is better (a − b: +0.1000 ± 0.0141 after 9 updates); the ± is of",
        ),
        (Point(9, 0.5, 0.0), Point(9, 0.5, 0.0), "no clear difference"),
    ],
)
def test_nothing_is_better_that_is_not_known(first: Point, second: Point, says: str) -> None:
    assert says in Comparison(("a", "b"), {"loss": [Difference(9, first, second)]}, ()).says


def curves_of_runs(generator: np.random.Generator, runs: int, hard: NDArray[np.float64]) -> list[list[Point]]:
    """One measurement each on the same 400 examples; runs differ by ± 0.05 beyond them."""
    found = []
    for _ in range(runs):
        losses = hard + 0.05 * generator.normal() + 0.3 * generator.normal(size=400)
        parts = losses.reshape(40, 10).mean(axis=1)
        error = float(losses.std(ddof=1)) / 20
        found.append([Point(5, float(losses.mean()), error, (10,) * 40, tuple(parts.tolist()))])
    return found


def test_groups_of_one_job_are_seldom_called_better() -> None:
    """Pairs of their runs are, in most cases: their ± knows nothing of other seeds."""
    generator, better, pairs, covered, deviations = np.random.default_rng(1), 0, 0, 0, []
    for _ in range(300):
        hard = generator.normal(size=400)
        first, second = curves_of_runs(generator, 4, hard), curves_of_runs(generator, 5, hard)
        (found,) = group_differences(first, second)
        assert found.runs is not None and found.reach > found.standard_error
        better += found.is_clear
        covered += abs(found.value) <= found.reach
        deviations.append(found.runs.deviations)
        pairs += differences(first[0], second[0])[0].is_clear
    assert better / 300 < 0.08 and pairs / 300 > 0.25
    assert 0.57 < covered / 300 < 0.85
    of_one_run = (0.05**2 + 0.3**2 / 400) ** 0.5  # and what its own 400 losses add
    assert np.sqrt(np.mean(np.square(deviations), axis=0)) == pytest.approx(of_one_run, rel=0.1)


def test_a_group_that_is_better_is_found() -> None:
    generator = np.random.default_rng(2)
    hard = generator.normal(size=400)
    worse = [[dataclasses.replace(run[0], mean=run[0].mean + 0.3)] for run in curves_of_runs(generator, 5, hard)]
    (found,) = group_differences(curves_of_runs(generator, 5, hard), worse)
    assert found.is_clear and found.value < 0 and found.runs is not None


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
    assert list(comparison.differences) == ["soft_error", "error", "loss", "margin"] and comparison.notes == ()
    (only,) = comparison.differences["soft_error"]
    assert only.value == 0 and only.step == 29 and "no clear difference (+0.0000 ± 0." in comparison.says
    for name, result in (("a", epochs), ("b", online)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result.summary()))
    assert st.compare(tmp_path / "a", str(tmp_path / "b")) == comparison
    assert "| 29 | " in comparison.table


def test_groups_of_runs_are_compared_by_the_command(
    results: tuple[st.Result, st.Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name in ("a", "b", "c", "d", "e"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(results[name in "ab"].summary()))
        folders.append(str(tmp_path / name))
    main(["compare", *folders[:2], "--", *folders[2:], "--no-log"])
    assert "means over 2 and 3 runs, with the spread over them in the ±" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *folders[:3], "--no-log"])
    assert "compare: expected two runs, found 3; name two, or two groups with --" in capsys.readouterr().err


@pytest.mark.figures
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
    assert len(client.list_artifacts(logged.info.run_id, "figures")) == 4
    assert "| updates | online | epochs |" in logged.data.tags["mlflow.note.content"]


def test_promise_10_runs_that_cannot_be_compared(
    results: tuple[st.Result, st.Result], store_uri: str, tmp_path: Path
) -> None:
    online, epochs = results
    early = dataclasses.replace(online, evaluations=online.evaluations[:2])
    with pytest.raises(st.ConfigError, match="expected measurements at common numbers of updates, found 3 to 6 and 29"):
        st.compare(early, epochs)
    with pytest.raises(st.ConfigError, match="compare: expected two groups of runs, found 2 and 1; name at least two"):
        st.compare([early, epochs], epochs)
    with pytest.raises(st.ConfigError, match="expected a run with result.json, found none; name a finished run's"):
        st.compare(epochs, tmp_path, uri=store_uri)
