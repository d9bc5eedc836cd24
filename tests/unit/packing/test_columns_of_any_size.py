"""Tables with texts, bytes and lists are packed column by column: the same bytes as value by value."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import streamtrain as st
from streamtrain.errors import SourceError
from streamtrain.packing import PackOptions, pack, packing
from streamtrain.packing.sources import open_source
from streamtrain.packing.sources.source import Source
from streamtrain.shards import stored_order
from streamtrain.shards.codec import FieldEncoder, FieldNotes, Ragged
from tests.support.packing import AnyOrder, files

ROWS = 500
WORDS = ("", "käse 🧀", "zero\0\0", "a,b", "x" * 300)


def table(missing: bool = False) -> pa.Table:
    chance = random.Random(0)
    lists = [[chance.randrange(99) for _ in range(chance.randrange(6))] for _ in range(ROWS)]
    texts: list[str | None] = [chance.choice(WORDS) * (row % 3) for row in range(ROWS)]
    if missing:
        texts[::7] = [None] * len(texts[::7])
    return pa.table(
        {
            "number": [row / 2 for row in range(ROWS)],
            "text": pa.array(texts, pa.string()),
            "large": pa.array(texts, pa.large_string()),
            "raw": pa.array([bytes([row % 256, 0, 0])[: row % 4] for row in range(ROWS)], pa.binary()),
            "fixed": pa.array([bytes([row % 256, 0]) for row in range(ROWS)], pa.binary(2)),
            "tokens": pa.array(lists, pa.list_(pa.int32())),
            "levels": pa.array([[float(x) for x in each] for each in lists], pa.large_list(pa.float64())),
            "nested": pa.array([[each, each[:1]] for each in lists], pa.list_(pa.list_(pa.int64()))),
            "said": [{"n": row, "tags": ["a"] * (row % 3)} for row in range(ROWS)],
            "kind": pa.array([f"k{row % 3}" for row in range(ROWS)]).dictionary_encode(),
            "large_number": pa.array([2**64 - 1 - row for row in range(ROWS)], pa.uint64()),
            "below": pa.array([1 - row for row in range(ROWS)], pa.int64()),
            "label": [f"class {row % 4}" for row in range(ROWS)],
        }
    )


def by_value(patch: pytest.MonkeyPatch) -> None:
    """Lets `pack` see single examples only."""

    def opened(*arguments: Any) -> Source:
        return dataclasses.replace(open_source(*arguments), batches=None)

    patch.setattr(packing, "open_source", opened)


@pytest.mark.parametrize("blocks", [None, False], ids=["blocks", "one by one"])
@pytest.mark.parametrize("missing", ["refuse", "nan", "drop"])
def test_promise_14_columns_and_single_values_give_the_same_bytes(
    blocks: bool | None, missing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa.parquet.write_table(table(missing != "refuse"), tmp_path / "t.parquet", row_group_size=90)
    options = PackOptions((0.6, 0.2, 0.2), seed=3, blocks=blocks, missing=missing, types=("below=int64",))
    manifest = pack(tmp_path / "t.parquet", tmp_path / "columns", options)
    assert (manifest.block is not None) == (blocks is None)
    small = dataclasses.replace(options, memory_bytes=9_000, tasks=3)
    pack(tmp_path / "t.parquet", tmp_path / "small", small, spread=AnyOrder(1))
    by_value(monkeypatch)
    pack(tmp_path / "t.parquet", tmp_path / "values", options)
    assert files(tmp_path / "columns") == files(tmp_path / "values") == files(tmp_path / "small")


def test_every_value_of_a_column_comes_back(tmp_path: Path) -> None:
    pa.parquet.write_table(table(), tmp_path / "t.parquet", row_group_size=90)
    pack(tmp_path / "t.parquet", tmp_path / "a", PackOptions((1, 0, 0), seed=3))
    rows = [table().to_pylist()[number] for number in stored_order(3, ROWS).tolist()]
    found = st.open(tmp_path / "a")
    for start, row in enumerate(rows):
        example = found[start]
        assert example["text"] == row["text"] == example["large"]
        assert (example["raw"], example["fixed"]) == (row["raw"], row["fixed"])
        assert example["tokens"].tolist() == row["tokens"] and example["tokens"].dtype == np.int32
        assert example["levels"].tolist() == row["levels"] and example["said"] == row["said"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts_that_are_no_utf8_are_refused_by_row_and_column(kind: pa.DataType, tmp_path: Path) -> None:
    data = [b"fine", b"\xff\xfe", b"fine too"]
    binary = pa.array(data, pa.binary() if kind == pa.string() else pa.large_binary())
    texts = pa.Array.from_buffers(kind, len(data), binary.buffers())
    pa.parquet.write_table(pa.table({"text": texts, "label": [0, 1, 0]}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"t.parquet, row 1, column 'text': expected text in UTF-8, found .*0xff"):
        pack(tmp_path / "t.parquet", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("what", ["nan", "infinity"])
def test_a_list_with_what_is_no_number_is_named(what: str, tmp_path: Path) -> None:
    lists = [[1.0], [1.0, 2.0], [float(what)], []]
    pa.parquet.write_table(pa.table({"x": lists, "text": list("abcd")}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"t.parquet, row 2, column 'x'"):
        pack(tmp_path / "t.parquet", tmp_path / "a")
    encoder = FieldEncoder("x", None, FieldNotes(varies=True))
    column = Ragged(np.array([1, 1, 2, float(what)]), np.array([1, 2, 1, 0]), "array")
    with pytest.raises(SourceError, match=r"row 2, field 'x': expected finite numbers"):
        encoder.column(column, "row {}".format)


def test_property_ragged_columns_are_lists() -> None:
    chance = random.Random(1)
    for _ in range(200):
        values = [bytes(chance.randrange(256) for _ in range(chance.randrange(5))) for _ in range(chance.randrange(9))]
        column = Ragged.of_bytes(values)
        start, stop = sorted(chance.randrange(len(values) + 1) for _ in range(2))
        rows = np.array([chance.randrange(len(values)) for _ in range(6) if values], np.int64)
        assert list(column) == values and list(column.part(start, stop)) == values[start:stop]
        assert list(column.take(rows)) == [values[row] for row in rows.tolist()]
        assert list(column.part(start, stop).take(np.arange(stop - start))) == values[start:stop]
        which = np.array([chance.randrange(2) for _ in values], np.int64)
        assert list(column.joined_to([b"ab", b""], which)) == [
            (b"ab", b"")[at] + value for at, value in zip(which.tolist(), values, strict=True)
        ]
        assert column.rows_of(column.content == 7).tolist() == [7 in value for value in values]
        assert list(Ragged.of_arrow(pa.array(values, pa.binary()).slice(start, stop - start))) == values[start:stop]
