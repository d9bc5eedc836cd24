"""Tables: the label, other columns of numbers as one vector ``features``, every other column a field.

Read in batches, so a table may be larger than memory. CSV numbers become float32; the columns of other
tables keep the type that all of them fit in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources.source import Batch, Example, Source

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES = "features"


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one file (or other part), whose first has number ``first`` there."""

    part: str
    first: int
    batch: pa.RecordBatch

    def place(self, row: int) -> str:
        """One of them, for errors."""
        return f"{self.part}, row {self.first + row}"


@dataclass(frozen=True)
class Table:
    """Rows of one schema. It travels to other processes, so it holds no open files.

    Attributes:
        name: as the user gave it.
        schema: of all rows.
        read: the rows from a number on; of some columns, in the order and of the types of a schema.
        text: whether it is text, whose numbers' types were guessed.
        classes: names of the values of a column that stand for classes.
        count, borders, bytes, files: as of `Source`.
    """

    name: str
    schema: pa.Schema
    read: Callable[[int, pa.Schema], Iterator[Rows]]
    text: bool
    count: int | None
    borders: tuple[int, ...] | None
    bytes: int | None
    files: tuple[Path, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Columns:
    """Which column becomes what; ``classes`` maps the label's text to its number, where it is text.

    In ``schema`` the numbers of a CSV but for the label are float64, since pyarrow would take a column for
    integers that begins with some.
    """

    schema: pa.Schema
    label: str | None
    features: tuple[str, ...]
    dtype: np.dtype[Any]
    others: tuple[str, ...]
    classes: dict[str, int]


def from_table(table: Table, options: PackOptions) -> Source:
    """The table's rows as examples.

    Raises:
        SourceError: no such column as the label's, or two of one name; an empty, NaN or infinite number.
    """
    import pyarrow as pa

    columns = _columns(table, options.label)
    classes = dict(table.classes)
    if columns.label and columns.classes:
        classes[columns.label] = tuple(columns.classes)
    of_label = None if columns.label is None else columns.schema.field(columns.label).type
    plain = of_label is None or _is_text(of_label) or _is_number(of_label) or pa.types.is_boolean(of_label)
    return Source(
        table.name,
        partial(_examples, table, columns),
        table.count,
        columns.label,
        classes,
        batches=partial(_batches, table, columns) if plain and not columns.others else None,
        borders=table.borders,
        bytes=table.bytes,
        files=table.files,
    )


def checked(schema: pa.Schema, where: str) -> pa.Schema:
    """The schema, where its names can be told apart.

    Raises:
        SourceError: names that are not text, or two alike.
    """
    try:
        names = schema.names
    except UnicodeDecodeError as error:
        raise SourceError(
            complaint(where, expected="text in UTF-8", found=one_line(error), do="save the file as UTF-8")
        ) from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            complaint(where, expected="columns of different names", found=f"{twice[0]!r} twice", do="rename one")
        )
    return schema


def _columns(table: Table, label: str | None) -> _Columns:
    import pyarrow as pa

    schema = table.schema
    label = label or ("label" if "label" in schema.names else None)
    if label is not None and label not in schema.names:
        raise SourceError(
            complaint(table.name, expected=f"a column {label!r}", found=", ".join(schema.names), do="set --label")
        )
    numeric = [f for f in schema if f.name != label and _is_number(f.type)]
    dtype = np.dtype(np.float32)
    if table.text:
        schema = pa.schema([pa.field(f.name, pa.float64()) if f in numeric else f for f in schema])
    elif numeric:
        dtype = np.result_type(*(f.type.to_pandas_dtype() for f in numeric))
    classes: dict[str, int] = {}
    if label is not None and _is_text(schema.field(label).type):
        only = pa.schema([schema.field(label)])
        found = {value for rows in table.read(0, only) for value in rows.batch.column(0).unique().to_pylist()}
        if found & {None, ""}:
            raise _empty_cell(f"{table.name}, column {label!r}")
        classes = {value: number for number, value in enumerate(sorted(found))}
    taken = {label, *(f.name for f in numeric)}
    others = tuple(name for name in schema.names if name not in taken)
    if numeric and FEATURES in (label, *others):
        expected = f"no column {FEATURES!r} beside columns of numbers, which get that name together"
        raise SourceError(complaint(table.name, expected=expected, found="one", do="rename it or drop the others"))
    return _Columns(schema, label, tuple(f.name for f in numeric), dtype, others, classes)


def _examples(table: Table, columns: _Columns, start: int) -> Iterator[Example]:
    for rows in table.read(start, columns.schema):
        features = _features(rows, columns)
        labels = None if columns.label is None else rows.batch.column(columns.label).to_pylist()
        others = {name: _values(rows.place(0), name, rows.batch.column(name)) for name in columns.others}
        for index in range(rows.batch.num_rows):
            values = {name: column[index] for name, column in others.items()}
            empty = next((name for name, value in values.items() if value is None), None)
            if empty is not None:
                raise _empty_cell(f"{rows.place(index)}, column {empty!r}")
            if features is not None:
                values[FEATURES] = features[index]
            if labels is not None:
                values[columns.label or ""] = _label(rows.place(index), labels[index], columns)
            yield rows.place(index), values


def _batches(table: Table, columns: _Columns, start: int, stop: int | None) -> Iterator[Batch]:
    for rows in table.read(start, columns.schema):
        values: dict[str, NDArray[Any]] = {}
        features = _features(rows, columns)
        taken = None if stop is None else stop - start
        if features is not None:
            values[FEATURES] = features[:taken]
        if columns.label is not None:
            values[columns.label] = _labels(rows, columns)[:taken]
        yield Batch(values, rows.place)
        start += rows.batch.num_rows
        if stop is not None and start >= stop:
            return


def _labels(rows: Rows, columns: _Columns) -> NDArray[Any]:
    """The labels as `_label` gives them one by one, shape (rows,)."""
    import pyarrow as pa
    import pyarrow.compute

    column = rows.batch.column(columns.label)
    if column.null_count:
        empty = pyarrow.compute.index(column.is_null(), True).as_py()
        raise _empty_cell(f"{rows.place(empty)}, column {columns.label!r}")
    if columns.classes:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        names = pa.array(columns.classes, column.type)
        found: NDArray[Any] = pyarrow.compute.index_in(column, value_set=names).to_numpy(zero_copy_only=False)
        return found.astype(np.int64)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _features(rows: Rows, columns: _Columns) -> NDArray[Any] | None:
    """The columns of numbers side by side, shape (rows, columns); all finite."""
    if not columns.features:
        return None
    parts = []
    for name in columns.features:
        values = rows.batch.column(name).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is infinite then, or was NaN
            bad = np.flatnonzero(~np.isfinite(values.astype(np.float64).astype(np.result_type(columns.dtype, "f4"))))
        if bad.size:
            found = "an empty or NaN cell" if np.isnan(values[bad[0]]) else str(values[bad[0]])
            where = f"{rows.place(int(bad[0]))}, column {name!r}"
            expected = f"a finite number ({columns.dtype})"
            raise SourceError(complaint(where, expected=expected, found=found, do="mend or remove the row"))
        parts.append(values.astype(columns.dtype))
    return np.stack(parts, axis=1)


def _label(where: str, value: Any, columns: _Columns) -> Any:
    if columns.classes:
        return columns.classes[value]
    if value is None:
        raise _empty_cell(f"{where}, column {columns.label!r}")
    return value


def _values(where: str, name: str, column: pa.Array) -> list[Any]:
    """A column's values: lists of numbers as arrays, Hugging Face's images ``{bytes, path}`` as their bytes."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_type
        while pa.types.is_list(inner) or pa.types.is_fixed_size_list(inner) or pa.types.is_large_list(inner):
            inner = inner.value_type
        if not (pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)):
            return list(column.to_pylist())
        try:
            dtype = inner.to_pandas_dtype()
            return [None if value is None else np.array(value, dtype) for value in column.to_pylist()]
        except (TypeError, ValueError) as error:
            place = f"{where} and after, column {name!r}"
            expected = "lists of equal length without empty places"
            raise SourceError(complaint(place, expected=expected, found=one_line(error), do="mend them")) from None
    if pa.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
        return [None if value is None else value["bytes"] for value in column.to_pylist()]
    return list(column.to_pylist())


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _empty_cell(where: str) -> SourceError:
    return SourceError(complaint(where, expected="a value", found="an empty cell", do="fill it or remove the row"))


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
