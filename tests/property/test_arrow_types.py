"""Promise 14 over every Arrow type, alone, in lists and structs, in every format: equal values, or a line by column."""

from __future__ import annotations

import decimal
import itertools
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet
import pytest

import streamtrain as st
from streamtrain.errors import SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Manifest

ALL_TRAIN = PackOptions(splits=(1.0, 0.0, 0.0))
ROWS = 12
WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
DECIMALS = [pa.decimal32(7, 2), pa.decimal64(15, 3), pa.decimal128(30, 4), pa.decimal256(60, 5)]
TIMES = [
    pa.date32(),
    pa.date64(),
    *(pa.time32(unit) for unit in ("s", "ms")),
    *(pa.time64(unit) for unit in ("us", "ns")),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)]


def scalars() -> Iterator[tuple[pa.Array, list[Any]]]:
    """An array of each type, and what is to come back for each value."""
    for kind in WHOLE:
        info = np.iinfo(kind.to_pandas_dtype())
        values = [info.min, info.max, *range(ROWS - 2)]
        yield pa.array(values, kind), values
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        numbers = np.concatenate([np.random.default_rng(0).normal(size=ROWS - 2), [0.1, -0.0]])
        floats = numbers.astype(kind.to_pandas_dtype())
        yield pa.array(floats, kind), floats.tolist()
    yield pa.array([n % 3 == 0 for n in range(ROWS)]), [int(n % 3 == 0) for n in range(ROWS)]
    for kind in DECIMALS:
        exact = [decimal.Decimal(n).scaleb(-2) * (-1) ** n for n in range(98, 98 + ROWS)]
        yield pa.array(exact, kind), [float(value) for value in exact]
    for kind in TIMES:
        step = 86_400_000 if kind == pa.date64() else 1
        counts = [n * step for n in (*range(ROWS - 1), 40_000)]
        storage = pa.int64() if kind.bit_width == 64 else pa.int32()
        yield pa.array(counts, storage).view(kind), counts
    parts = [(n, -n, n * 10**9) for n in range(ROWS)]
    yield pa.array(parts, pa.month_day_nano_interval()), [list(part) for part in parts]
    for kind in TEXTS:
        texts = ["", "ä", "a\0", "007", "\n", *(f"text {n}" for n in range(ROWS - 5))]
        yield pa.array(texts, kind), texts
    for kind in BYTES:
        raw = [bytes([n, 0, 0]) for n in range(ROWS)]
        yield pa.array(raw, kind), raw


def extensions() -> Iterator[tuple[pa.Array, list[Any]]]:
    numbers = np.arange(ROWS * 6, dtype=np.int32)
    storage = pa.array(list(numbers.reshape(ROWS, 6)), pa.list_(pa.int32(), 6))
    plain = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2, 3]), storage)
    yield plain, numbers.reshape(ROWS, 2, 3).tolist()
    turned = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2, 3], permutation=[1, 0]), storage)
    yield turned, numbers.reshape(ROWS, 2, 3).transpose(0, 2, 1).tolist()
    ids = [uuid.UUID(int=n) for n in range(ROWS)]
    yield pa.array([one.bytes for one in ids], pa.uuid()), [str(one) for one in ids]
    texts = [json.dumps({"n": n}) for n in range(ROWS)]
    yield pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts)), texts
    flags = [n % 2 for n in range(ROWS)]
    yield pa.ExtensionArray.from_storage(pa.bool8(), pa.array(flags, pa.int8())), flags
    counts = list(range(ROWS))
    yield pa.ExtensionArray.from_storage(pa.opaque(pa.int32(), "kind", "vendor"), pa.array(counts, pa.int32())), counts


def encoded(arrays: list[tuple[pa.Array, list[Any]]]) -> Iterator[tuple[pa.Array, list[Any]]]:
    """The same as dictionaries and as runs."""
    twice = pa.array([*range(ROWS // 2)] * 2, pa.int32())
    for array, values in arrays:
        yield pa.DictionaryArray.from_arrays(twice, array[: ROWS // 2]), values[: ROWS // 2] * 2
        ends = pa.array(range(2, ROWS + 2, 2), pa.int32())
        halves = [value for value in values[: ROWS // 2] for _ in range(2)]
        yield pa.RunEndEncodedArray.from_arrays(ends, array[: ROWS // 2]), halves


def lists(array: pa.Array, values: list[Any]) -> Iterator[tuple[pa.Array, list[Any]]]:
    """Lists of each kind: of one length, of several, and of lists."""
    ends = [0, 1, 3, 3, ROWS]
    lengths = [values[start:stop] for start, stop in itertools.pairwise(ends)]
    pairs = [values[n : n + 2] for n in range(0, ROWS, 2)]
    for make, kind in ((pa.ListArray, pa.int32()), (pa.LargeListArray, pa.int64())):
        yield make.from_arrays(pa.array(ends, kind), array), lengths
        inner = make.from_arrays(pa.array(range(0, ROWS + 1, 2), kind), array)
        yield inner, pairs
        yield make.from_arrays(pa.array([0, 3, 6], kind), inner), [pairs[:3], pairs[3:]]
        yield make.from_arrays(pa.array([0, 1, 6], kind), inner), [pairs[:1], pairs[1:]]
        ragged = make.from_arrays(pa.array(ends, kind), array)
        yield make.from_arrays(pa.array([0, 2, 4], kind), ragged), [lengths[:2], lengths[2:]]
    for make, kind in ((pa.ListViewArray, pa.int32()), (pa.LargeListViewArray, pa.int64())):
        starts, sizes = ends[:-1], [stop - start for start, stop in itertools.pairwise(ends)]
        yield make.from_arrays(pa.array(starts, kind), pa.array(sizes, kind), array), lengths
    yield pa.FixedSizeListArray.from_arrays(array, 2), pairs


def nested(arrays: list[tuple[pa.Array, list[Any]]]) -> Iterator[tuple[pa.Array, list[Any]]]:
    seen: set[int] = set()
    for array, values in arrays:
        if (kind := array.type.id) in seen and pa.types.is_temporal(array.type):
            continue  # of times, one unit of each
        seen.add(kind)
        yield from lists(array, values)
        struct = pa.StructArray.from_arrays([array, pa.array(range(ROWS))], ["one", "two"])
        both = [{"one": value, "two": n} for n, value in enumerate(values)]
        yield struct, both
        yield pa.ListArray.from_arrays(pa.array([0, 4, 5, 12], pa.int32()), struct), [both[:4], both[4:5], both[5:]]
        keys = pa.array([f"k{n}" for n in range(ROWS)])
        maps = pa.MapArray.from_arrays(pa.array([0, 1, 12], pa.int32()), keys, array)
        pairs = [[key, value] for key, value in zip(keys.to_pylist(), values, strict=True)]
        yield maps, [pairs[:1], pairs[1:]]


PLAIN = [*scalars(), *extensions()]
CASES = [*PLAIN, *encoded(PLAIN), *nested(PLAIN), (pa.nulls(ROWS), [None] * ROWS)]
INSIDE = r"binary|decimal(128|256)|tensor|uuid|interval|(struct|map)<.*(decimal|date|time|duration)"
UNIONS = [
    pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    ),
]


def write(table: pa.Table, folder: Path, kind: str) -> Path:
    file = folder / f"t.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, file)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, str(file))
    else:
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
    return file


def is_kept(file: Path, kind: pa.DataType) -> bool:
    """Whether pyarrow reads the column's type that it wrote: Parquet turns seconds into milliseconds, e.g."""
    read = pyarrow.parquet.read_table if file.suffix == ".parquet" else pyarrow.feather.read_table
    return bool(read(str(file)).schema.field("v").type == kind)


def come_back(manifest: Manifest, folder: Path, wanted: list[Any]) -> list[Any]:
    """The values of the column ``v`` in the rows' order, put together out of its fields."""
    data = st.open(str(folder))
    found = data[0 : len(data)]
    order = np.argsort(found["label"])
    if isinstance(wanted[0], dict) and "v" not in found:
        return [{part: _part(found, manifest, f"v.{part}", row) for part in wanted[0]} for row in order]
    return [_part(found, manifest, "v", row) for row in order]


def _part(found: dict[str, Any], manifest: Manifest, name: str, row: int) -> Any:
    features = manifest.field_named("features")
    if features is not None and name in (features.columns or ()):
        return found["features"][row, (features.columns or ()).index(name)].item()
    value = found[name.replace(".", "_")][row]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@pytest.mark.parametrize("kind", ["parquet", "arrow", "feather"])
def test_promise_14_equal_values_of_every_arrow_type_or_a_line(kind: str, tmp_path: Path) -> None:
    refused, unwritable, wrong = set(), set(), []
    for number, (array, values) in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        table = pa.table({"v": array, "label": list(range(len(array))), "w": [0.5] * len(array)})
        try:
            file = write(table, folder, kind)
            kept = is_kept(file, array.type)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            kept = False
        if not kept:
            unwritable.add(str(array.type))
            continue
        try:
            manifest = pack(file, folder / "packed", ALL_TRAIN)
        except SourceError as error:
            assert "column 'v" in str(error) and file.name in str(error) and "\n" not in str(error)
            refused.add(str(array.type))
            continue
        if array.null_count == len(array):
            assert [f.name for f in manifest.fields] == ["features", "label"]
            continue
        if (got := come_back(manifest, folder / "packed", values)) != values:
            wrong.append((str(array.type), got[:3], values[:3]))
    assert not wrong
    assert not {str(array.type) for array, _ in PLAIN} & refused
    assert all(re.search(INSIDE, name) for name in refused), "only inside of lists, structs and maps, and only these"


@pytest.mark.parametrize("union", UNIONS, ids=["sparse", "dense"])
def test_unions_are_refused_by_column(union: pa.Array, tmp_path: Path) -> None:
    file = write(pa.table({"u": union, "x": [0.5, 1.5]}), tmp_path, "arrow")
    with pytest.raises(SourceError, match=r"t.arrow, column 'u': expected a type .*; leave it out with --drop u"):
        pack(file, tmp_path / "packed", ALL_TRAIN)
    assert pack(file, tmp_path / "packed", PackOptions(splits=(1.0, 0.0, 0.0), drop=("u",))).examples == 2


def test_decimals_that_float64_does_not_tell_apart_are_refused_by_row_or_become_text(tmp_path: Path) -> None:
    values = [decimal.Decimal("0.10"), decimal.Decimal("12345678901234567890.12")]
    file = write(pa.table({"d": pa.array(values, pa.decimal128(30, 2))}), tmp_path, "parquet")
    with pytest.raises(SourceError, match=r"t.parquet, row 1, column 'd': expected decimals .* --types d=text"):
        pack(file, tmp_path / "packed", ALL_TRAIN)
    pack(file, tmp_path / "packed", PackOptions(splits=(1.0, 0.0, 0.0), types=("d=text",)))
    assert sorted(st.open(str(tmp_path / "packed"))[0:2]["d"]) == [str(value) for value in values]


def test_times_keep_their_unit(tmp_path: Path) -> None:
    zoned = pa.array([1, 2], pa.timestamp("ms", "Europe/Berlin"))
    day = pc.cast(pa.array([1, 2], pa.int32()), pa.date32())
    fields = pack(write(pa.table({"a": zoned, "b": day}), tmp_path, "parquet"), tmp_path / "packed", ALL_TRAIN).fields
    assert [(f.dtype, f.unit) for f in fields] == [
        ("int64", "ms since 1970-01-01 UTC, of Europe/Berlin"),
        ("int64", "days since 1970-01-01"),
    ]
