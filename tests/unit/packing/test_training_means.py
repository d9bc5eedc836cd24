"""`--missing mean`: the mean of the training examples, so that nothing of held-out ones is in what is trained on."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import streamtrain as st
from streamtrain.errors import SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from tests.support.packing import AnyOrder, files

ROWS = 400
HELD_OUT = ("validation", "test")


def value(row: int) -> float | None:
    return None if row % 5 == 0 else row * row / 7


def save(folder: Path, name: str = "t.parquet", rows: int = ROWS) -> Path:
    columns = {
        "x": [value(row) for row in range(rows)],
        "y": [None if row == 3 else row for row in range(rows)],
        "whole": list(range(rows)),
        "text": [f"row {row}" for row in range(rows)],
        "day": [row % 50 for row in range(rows)],
        "row": list(range(rows)),
    }
    pa.parquet.write_table(pa.table(columns), folder / name, row_group_size=70)
    return folder / name


def rows_of(folder: Path, split: str) -> list[int]:
    return [int(row) for row in st.open(folder, split)[:]["row"]]


def exact_mean(rows: list[int]) -> float:
    """With whole numerators and denominators, rounded once."""
    there = [Fraction(found) for row in rows if (found := value(row)) is not None]
    return float(sum(there) / len(there))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"blocks": False},
        {"group": "day"},
        {"by": "row"},
        {"drop": ("text",)},
        {"drop": ("text",), "blocks": False},
        {"mask": True},
    ],
    ids=str,
)
def test_promise_12_missing_values_become_the_training_rows_mean(given: dict[str, Any], tmp_path: Path) -> None:
    options = PackOptions((0.5, 0.25, 0.25), seed=4, missing="mean", types=("row=int64",), **given)
    manifest = pack(save(tmp_path), tmp_path / "a", options)
    columns = manifest.field_named("features").columns
    mean = exact_mean(rows_of(tmp_path / "a", "train"))
    assert mean != pytest.approx(exact_mean(list(range(ROWS))), rel=1e-6), "else the test could not fail"
    for split in ("train", *HELD_OUT):
        found = st.open(tmp_path / "a", split)[:]
        x = found["features"][:, columns.index("x")]
        for row, number in zip(found["row"].tolist(), x.tolist(), strict=True):
            expected = value(row)
            assert number == (expected if expected is not None else pytest.approx(mean, rel=1e-15))
        if "mask" in given:
            missing = found["features_missing"][:, columns.index("x")]
            assert missing.tolist() == [row % 5 == 0 for row in found["row"].tolist()]
    several = PackOptions(
        (0.5, 0.25, 0.25), seed=4, missing="mean", types=("row=int64",), memory_bytes=20_000, tasks=3, **given
    )
    pack(tmp_path / "t.parquet", tmp_path / "b", several, spread=AnyOrder(2))
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_held_out_value_changes_no_training_example(tmp_path: Path) -> None:
    """Whatever the held-out rows hold, the training split keeps every bit."""
    options = PackOptions((0.5, 0.25, 0.25), missing="mean", types=("row=int64",))
    pack(save(tmp_path), tmp_path / "a", options)
    held_out = {row for split in HELD_OUT for row in rows_of(tmp_path / "a", split)}
    table = pa.parquet.read_table(tmp_path / "t.parquet")
    changed = [
        found if row not in held_out or found is None else 1e6 for row, found in enumerate(map(value, range(ROWS)))
    ]
    table = table.set_column(0, "x", pa.array(changed))
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=70)
    pack(tmp_path / "t.parquet", tmp_path / "b", options)
    before, after = files(tmp_path / "a"), files(tmp_path / "b")
    assert before["train/000000.tar"] == after["train/000000.tar"]
    assert before["test/000000.tar"] != after["test/000000.tar"]


def test_a_segment_takes_the_data_sets_means(tmp_path: Path) -> None:
    """Also one of test examples only, in which there is nothing to train on."""
    pack(save(tmp_path), tmp_path / "a", PackOptions((0.5, 0.25, 0.25), missing="mean", types=("row=int64",)))
    mean = exact_mean(rows_of(tmp_path / "a", "train"))
    before = len(rows_of(tmp_path / "a", "test"))
    append(
        save(tmp_path, "more.parquet", 50), tmp_path / "a", PackOptions((0, 0, 1), missing="mean", types=("row=int64",))
    )
    found = st.open(tmp_path / "a", "test")
    x = found[before : len(found)]["features"][:, 0]
    rows = found[before : len(found)]["row"]
    assert len(rows) == 50
    assert x[rows % 5 == 0].tolist() == [pytest.approx(mean, rel=1e-12)] * 10


def test_a_column_without_a_value_in_training_has_no_mean(tmp_path: Path) -> None:
    pack(save(tmp_path), tmp_path / "a", PackOptions((0.5, 0.25, 0.25), missing="nan", types=("row=int64",)))
    train = set(rows_of(tmp_path / "a", "train"))
    table = pa.parquet.read_table(tmp_path / "t.parquet")
    only_held_out = [None if row in train else float(row) for row in range(ROWS)]
    pa.parquet.write_table(table.set_column(0, "x", pa.array(only_held_out)), tmp_path / "t.parquet")
    with pytest.raises(
        SourceError, match=r"column 'x': expected a training row with a value.*set --missing nan or drop"
    ):
        pack(
            tmp_path / "t.parquet", tmp_path / "b", PackOptions((0.5, 0.25, 0.25), missing="mean", types=("row=int64",))
        )
    assert not (tmp_path / "b").exists()


def test_the_sum_is_exact(tmp_path: Path) -> None:
    """Numbers that a plain sum would lose."""
    numbers = [1e16, 1.0, -1e16, 1.0, math.nan] * 20
    pa.parquet.write_table(pa.table({"x": numbers, "label": [0] * 100}), tmp_path / "t.parquet")
    pack(tmp_path / "t.parquet", tmp_path / "a", PackOptions((1, 0, 0), missing="mean"))
    x = st.open(tmp_path / "a")[:]["features"][:, 0]
    assert np.count_nonzero(x == 0.5) == 20
