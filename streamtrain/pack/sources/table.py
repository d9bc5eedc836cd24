"""CSV and Parquet: the label, other columns of numbers as one vector ``features``, every other column a field.

Read in batches through pyarrow, so a table may be larger than memory. CSV numbers become float32;
Parquet columns keep the type that all of them fit in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.pack.sources.source import Source

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES = "features"


@dataclass(frozen=True)
class _Columns:
    """Which column becomes what; ``classes`` maps the label's text to its number, where it is text.

    ``schema`` is the first file's; in it the CSV's numbers but for the label are float64, since pyarrow
    would take a column for integers that begins with some.
    """

    schema: pa.Schema
    label: str | None
    features: tuple[str, ...]
    dtype: np.dtype[Any]
    others: tuple[str, ...]
    classes: dict[str, int]


def from_table(files: Sequence[Path], label: str | None) -> Source:
    """Files of one schema, read one after the other.

    Raises:
        SourceError: unreadable, without rows or the label's column; an empty, NaN or infinite number.
    """
    name = str(files[0] if len(files) == 1 else files[0].parent)
    first = next(_batches(files[0]), None)
    if first is None or not first.num_rows:
        raise SourceError(complaint(name, expected="rows", found="none", do="check the file"))
    columns = _columns(files, _checked(first.schema, files[0]), label, name)

    def examples() -> Iterator[tuple[str, dict[str, Any]]]:
        for file in files:
            row = 0
            for batch in _batches(file, columns.schema):
                yield from _examples(file, row, batch, columns)
                row += batch.num_rows

    classes = {columns.label: tuple(columns.classes)} if columns.label and columns.classes else {}
    return Source(name, examples, None, columns.label, classes)


def _batches(file: Path, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """A file's rows, some at a time, with the columns of ``schema`` where it is known."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if file.suffix.lower() == ".csv":
            types = pyarrow.csv.ConvertOptions(column_types=schema)
            with pyarrow.csv.open_csv(file, convert_options=types) as reader:
                yield from reader
        else:
            with pyarrow.parquet.ParquetFile(file) as table:
                if schema is not None and _typed(table.schema_arrow) != _typed(schema):
                    raise _unlike(file, schema, table.schema_arrow)
                yield from table.iter_batches()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            complaint(str(file), expected=f"a readable {file.suffix}", found=one_line(error), do="mend the file")
        ) from None


def _checked(schema: pa.Schema, file: Path) -> pa.Schema:
    """The schema, where its names can be told apart."""
    try:
        names = schema.names
    except UnicodeDecodeError as error:
        raise SourceError(
            complaint(str(file), expected="text in UTF-8", found=one_line(error), do="save the file as UTF-8")
        ) from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            complaint(str(file), expected="columns of different names", found=f"{twice[0]!r} twice", do="rename one")
        )
    return schema


def _typed(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


def _unlike(file: Path, expected: pa.Schema, found: pa.Schema) -> SourceError:
    def shown(schema: pa.Schema, other: pa.Schema) -> str:
        return ", ".join(f"{n} {t}" for n, t in _typed(schema) if (n, t) not in _typed(other)) or "none of that name"

    return SourceError(
        complaint(
            str(file),
            expected=f"the columns of the first file ({shown(expected, found)})",
            found=shown(found, expected),
            do="bring all files to one schema",
        )
    )


def _columns(files: Sequence[Path], schema: pa.Schema, label: str | None, name: str) -> _Columns:
    import pyarrow as pa

    label = label or ("label" if "label" in schema.names else None)
    if label is not None and label not in schema.names:
        raise SourceError(
            complaint(name, expected=f"a column {label!r}", found=", ".join(schema.names), do="set --label")
        )
    numeric = [f for f in schema if f.name != label and (pa.types.is_integer(f.type) or pa.types.is_floating(f.type))]
    from_csv = files[0].suffix.lower() == ".csv"
    dtype = np.dtype(np.float32)
    if from_csv:
        schema = pa.schema([pa.field(f.name, pa.float64()) if f in numeric else f for f in schema])
    elif numeric:
        dtype = np.result_type(*(f.type.to_pandas_dtype() for f in numeric))
    classes: dict[str, int] = {}
    if label is not None and _is_text(schema.field(label).type):
        found = {
            value for file in files for batch in _batches(file, schema) for value in batch.column(label).to_pylist()
        }
        if found & {None, ""}:
            raise _empty_cell(f"{name}, column {label!r}")
        classes = {value: number for number, value in enumerate(sorted(found))}
    taken = {label, *(f.name for f in numeric)}
    others = tuple(name for name in schema.names if name not in taken)
    if numeric and FEATURES in (label, *others):
        expected = f"no column {FEATURES!r} beside columns of numbers, which get that name together"
        raise SourceError(complaint(name, expected=expected, found="one", do="rename it or drop the others"))
    return _Columns(schema, label, tuple(f.name for f in numeric), dtype, others, classes)


def _examples(file: Path, row: int, batch: pa.RecordBatch, columns: _Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    features = _features(file, row, batch, columns)
    labels = None if columns.label is None else batch.column(columns.label).to_pylist()
    others = {name: _values(f"{file}, row {row}", name, batch.column(name)) for name in columns.others}
    for index in range(batch.num_rows):
        where = f"{file}, row {row + index}"
        values = {name: column[index] for name, column in others.items()}
        empty = next((name for name, value in values.items() if value is None), None)
        if empty is not None:
            raise _empty_cell(f"{where}, column {empty!r}")
        if features is not None:
            values[FEATURES] = features[index]
        if labels is not None:
            values[columns.label or ""] = _label(where, labels[index], columns)
        yield where, values


def _features(file: Path, row: int, batch: pa.RecordBatch, columns: _Columns) -> np.ndarray[Any, Any] | None:
    """The columns of numbers side by side, shape (rows, columns); all finite."""
    if not columns.features:
        return None
    parts = []
    for name in columns.features:
        column = batch.column(name)
        values = column.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is infinite then, or was NaN
            bad = np.flatnonzero(~np.isfinite(values.astype(np.float64).astype(np.result_type(columns.dtype, "f4"))))
        if bad.size:
            found = "an empty or NaN cell" if np.isnan(values[bad[0]]) else str(values[bad[0]])
            where = f"{file}, row {row + int(bad[0])}, column {name!r}"
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
