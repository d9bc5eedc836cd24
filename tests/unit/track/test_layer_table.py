"""Norms of layers as one table and one figure, however many tensors and steps there are."""

import itertools
import math
from pathlib import Path

import pytest

from streamtrain.track.figures import save
from streamtrain.track.layer_table import MOST, LayerTable, layer_figure, read_layers
from streamtrain.values import Reading

STEPS = (99, 199, 299)


def points(step: int, tensors: int = 2) -> list[Reading]:
    """What a run logs at a step: those of its layers, and others."""
    found = [Reading("minibatch/loss", 0.5, step, 0.0)]
    for tensor in range(tensors):
        found.append(Reading(f"layer_gradient_norm/{tensor}.weight", (tensor + 1) / (step + 1), step, 0.0))
        found.append(Reading(f"layer_update_ratio/{tensor}.weight", 0.001 * (tensor + 1), step, 0.0))
    return found


def test_a_table_is_read_as_it_was_written_and_gone_on_with(tmp_path: Path) -> None:
    table = LayerTable(tmp_path / "layers.csv")
    for step in STEPS[:2]:
        assert table.take(points(step)) and not table.take(points(step)), "measured once more after a crash"
        assert not table.take([Reading("minibatch/loss", 0.5, step + 1, 0.0)])
        table.write()
    second = LayerTable(tmp_path / "layers.csv")
    assert not second.take(points(199)) and second.take(points(299))
    second.write()
    rows = read_layers(tmp_path / "layers.csv")
    assert list(rows) == [(f"{t}.weight", of) for t in range(2) for of in ("gradient norm", "update ratio")]
    assert rows["1.weight", "gradient norm"] == {
        step: pytest.approx(2 / (step + 1), rel=1e-3) for step in (99, 199, 299)
    }


def test_a_long_runs_points_stay_few_and_evenly_spread(tmp_path: Path) -> None:
    table = LayerTable(tmp_path / "layers.csv")
    for number in range(1000):
        table.take(points(100 * number + 99))
    table.write()
    steps = list(read_layers(tmp_path / "layers.csv")["0.weight", "gradient norm"])
    assert MOST // 2 <= len(steps) <= MOST and steps[0] == 99
    assert len({later - step for step, later in itertools.pairwise(steps)}) == 1


def test_a_deep_models_figure_and_table_are_small(tmp_path: Path) -> None:
    """A ResNet-50 has 161 tensors."""
    table = LayerTable(tmp_path / "layers.csv")
    for number in range(MOST):
        table.take(points(number, 161))
    table.take([Reading("layer_gradient_norm/dead", value, MOST, 0.0) for value in (0.0, math.nan)])
    table.write()
    save(layer_figure(read_layers(tmp_path / "layers.csv")), tmp_path / "layers.png")
    assert 10_000 < (tmp_path / "layers.png").stat().st_size < 500_000
    assert (tmp_path / "layers.csv").stat().st_size < 500_000
