"""Means and deviations of a table's columns: those of the training split, the same bits however it was packed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.shards import read_manifest
from tests.support.packing import AnyOrder


def save(file: Path, seed: int, rows: int = 3000) -> Path:
    random = np.random.default_rng(seed)
    far = [None if number % 11 == 0 else 1e9 + value for number, value in enumerate(random.normal(0, 3, rows))]
    pyarrow.parquet.write_table(pa.table({"near": random.normal(2, 5, rows), "far": far}), file, row_group_size=300)
    return file


@pytest.mark.parametrize("blocks", [True, False])
def test_they_are_those_of_the_training_split(blocks: bool, tmp_path: Path) -> None:
    options = PackOptions(missing="nan", blocks=blocks, shard_examples=700)
    manifest = pack(save(tmp_path / "a.parquet", 1), tmp_path / "packed", options)
    moments = manifest.field_named("features").moments
    values = st.open(tmp_path / "packed")[:]["features"]
    for (count, mean, deviation), column in zip(moments, values.T, strict=True):
        there = column[~np.isnan(column)]
        assert count == len(there)
        assert mean == pytest.approx(np.mean(there, dtype=np.longdouble), rel=1e-14)
        assert deviation == pytest.approx(float(np.std(there, ddof=1, dtype=np.longdouble)), rel=1e-12)
    several = PackOptions(missing="nan", blocks=blocks, shard_examples=700, tasks=4, memory_bytes=1 << 15)
    assert pack(tmp_path / "a.parquet", tmp_path / "several", several, spread=AnyOrder(3)).fields == manifest.fields
    assert read_manifest(tmp_path / "packed").fields == manifest.fields


def test_a_segment_adds_to_them(tmp_path: Path) -> None:
    pack(save(tmp_path / "a.parquet", 1), tmp_path / "packed", PackOptions(missing="nan"))
    grown = append(save(tmp_path / "b.parquet", 2), tmp_path / "packed", PackOptions(missing="nan"))
    values = st.open(tmp_path / "packed")[:]["features"]
    for (count, mean, deviation), column in zip(grown.field_named("features").moments, values.T, strict=True):
        there = column[~np.isnan(column)]
        assert count == len(there)
        assert mean == pytest.approx(there.mean(), rel=1e-12)
        assert deviation == pytest.approx(there.std(ddof=1), rel=1e-7)
