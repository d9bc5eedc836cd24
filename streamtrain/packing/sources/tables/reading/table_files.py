"""Tables in files: CSV, and through pyarrow Parquet, Arrow and Feather; several of one schema, one after the other.

A folder may be as Spark leaves it: markers beside the parts, parts without rows, and folders ``year=2020`` whose
names are columns.
"""

from __future__ import annotations

import bisect
import itertools
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES
from streamtrain.packing.sources.split_names import split_named, splits_of_files, stops_of
from streamtrain.packing.sources.tables.layout import field_name
from streamtrain.packing.sources.tables.reading import csv_text
from streamtrain.packing.sources.tables.rows import Rows, Table, checked

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet", ".arrow", ".feather")
MOST_ROWS = 1 << 16
"""Rows read at once."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""A folder's name for rows without a value in its column."""
INDEX = "the row numbers that pandas writes, which tell where an example came from"


@dataclass(frozen=True)
class _Part:
    """A file, the number of its first row in all, and the values that its folders' names give every row."""

    file: Path
    start: int
    folders: tuple[tuple[str, str | None], ...]


def found_tables(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of one kind of table in a folder, in its folders NAME=VALUE and its splits', and markers beside them.

    No files where something else is there too.
    """
    files: list[Path] = []
    markers: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            markers.append(entry)
        elif entry.is_dir() and ("=" in entry.name or split_named(entry.name)):
            below, more = found_tables(entry)
            if not below:
                return [], []
            files = files + below
            markers = markers + more
        elif entry.suffix.lower() in SUFFIXES and entry.is_file():
            files.append(entry)
        else:
            return [], []
    one_kind = len({file.suffix.lower() for file in files}) == 1
    return (files, markers) if one_kind else ([], [])


def from_files(
    files: Sequence[Path], texts: Sequence[str] = (), folder: Path | None = None, markers: Sequence[Path] = ()
) -> Table:
    """Files of one schema.

    Args:
        files: of one suffix.
        texts: columns of a CSV that stay text.
        folder: that they lie in, some of them in folders NAME=VALUE.
        markers: files beside them, which hold no rows.

    Raises:
        SourceError: unreadable, or without rows.
    """
    name = str(files[0] if folder is None else folder)
    text = files[0].suffix.lower() == ".csv"
    schema, counted = _text_schema(name, files, texts) if text else _binary_schema(name, files)
    if not counted:
        raise SourceError(complaint(name, expected="rows", found="none", do="check the file"))
    starts = list(itertools.accumulate((sum(groups) for _, groups in counted), initial=0))
    parts = [
        _Part(file, start, _folder_values(folder, file)) for (file, _), start in zip(counted, starts, strict=False)
    ]
    schema = _with_folders(name, schema, parts)
    borders = {
        part.start + row
        for part, (_, groups) in zip(parts, counted, strict=True)
        for row in itertools.accumulate(groups[:-1], initial=0)
    }
    names = tuple(schema.names)
    return Table(
        name=name,
        schema=schema.remove_metadata(),
        read=partial(_read, tuple(parts), names[: len(names) - len(parts[0].folders)]),
        text=text,
        count=starts[-1],
        borders=tuple(sorted(borders)),
        bytes=sum(file.stat().st_size for file in files),
        files=tuple(files),
        nameless=nameless(schema.names),
        markers=tuple(marker.name for marker in markers),
        splits=_splits(folder, parts, starts),
    )


def _splits(folder: Path | None, parts: Sequence[_Part], starts: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """The splits that the files' names tell, if all of them do."""
    if folder is None:
        return ()
    names = splits_of_files([part.file.relative_to(folder).as_posix() for part in parts])
    sizes = (stop - start for start, stop in itertools.pairwise(starts))
    return () if names is None else stops_of(zip(names, sizes, strict=True))


def _text_schema(
    name: str, files: Sequence[Path], texts: Sequence[str]
) -> tuple[pa.Schema, list[tuple[Path, list[int]]]]:
    """The schema of CSVs, and the number of rows of each that has some."""
    import pyarrow as pa

    names: list[str] | None = None
    full = []
    for file in files:
        found = csv_text.csv_names(file)
        if not found:
            continue
        full.append(file)
        names = found if names is None else names
        if found != names:
            raise _unlike(file, [(n, None) for n in names], [(n, None) for n in found])
    if names is None:
        return pa.schema([]), []
    if names.count("") > 1:  # each is left out, so it needs no name
        blanks = iter(range(1, names.count("") + 1))
        names = [column or f"(no name {next(blanks)})" for column in names]
    checked(pa.schema([pa.field(column, pa.string()) for column in names]), name)
    as_they_are = [column for column in names if {column, field_name(column)} & set(texts)]
    types, counts = csv_text.csv_types(full, names, as_they_are)
    counted = [(file, [count]) for file, count in zip(full, counts, strict=True) if count]
    return pa.schema(list(zip(names, types, strict=True))), counted


def _binary_schema(name: str, files: Sequence[Path]) -> tuple[pa.Schema, list[tuple[Path, list[int]]]]:
    """The schema of the first file with rows, which all of these share, and the rows of their groups."""
    import pyarrow as pa

    schema = None
    counted = []
    for file in files:
        groups, found = _groups(file)
        if not sum(groups):
            continue
        schema = checked(found, str(file)) if schema is None else schema
        if [(f.name, f.type) for f in found] != [(f.name, f.type) for f in schema]:
            raise _unlike(file, [(f.name, f.type) for f in schema], [(f.name, f.type) for f in found])
        counted.append((file, groups))
    if schema is None:
        return pa.schema([]), []
    return checked(schema, name), counted


def _folder_values(folder: Path | None, file: Path) -> tuple[tuple[str, str | None], ...]:
    """Names and values of the folders NAME=VALUE between the two."""
    if folder is None:
        return ()
    words = (part.partition("=") for part in file.relative_to(folder).parts[:-1] if "=" in part)
    unquoted = ((urllib.parse.unquote(name), urllib.parse.unquote(value)) for name, _, value in words)
    return tuple((name, None if value == NO_VALUE else value) for name, value in unquoted)


def _with_folders(name: str, schema: pa.Schema, parts: Sequence[_Part]) -> pa.Schema:
    """The schema and the columns of the folders' names."""
    names = [column for column, _ in parts[0].folders]
    for part in parts:
        if [column for column, _ in part.folders] != names:
            expected, found = "/".join(f"{n}=…" for n in names) or "no folder", "/".join(n for n, _ in part.folders)
            do = "bring all files to the same depth"
            raise SourceError(complaint(str(part.file), expected=f"folders {expected}", found=found, do=do))
    values = {column: [dict(part.folders)[column] for part in parts] for column in names}
    for column, kind in csv_text.partition_types(values).items():
        schema = schema.append(_field(column, kind))
    return checked(schema, name)


def _field(name: str, kind: pa.DataType) -> pa.Field:
    import pyarrow as pa

    return pa.field(name, kind)


def nameless(names: Sequence[str]) -> dict[str, str]:
    """Columns that nobody named, and what they are."""
    return {name: INDEX for name in names if not name or name.startswith(("__index_level_", "Unnamed: ", "(no name "))}


def _read(parts: Sequence[_Part], own: Sequence[str], start: int, schema: pa.Schema) -> Iterator[Rows]:
    import pyarrow as pa

    begin = max(0, bisect.bisect_right([part.start for part in parts], start) - 1)
    inside = pa.schema([field for field in schema if field.name in own])
    for part in parts[begin:]:
        skip = max(0, start - part.start)
        for row, batch in _batches(part.file, skip, inside, own):
            if row + batch.num_rows > skip:
                taken = batch.slice(max(0, skip - row))
                yield Rows(str(part.file), max(row, skip), _completed(taken, part, schema))


def _completed(batch: pa.RecordBatch, part: _Part, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the values of their folders' names."""
    import pyarrow as pa

    if batch.num_columns == len(schema):
        return batch
    values = dict(part.folders)
    columns = [
        batch.column(field.name)
        if field.name in batch.schema.names
        else pa.array([values[field.name]], pa.string()).cast(field.type).take(pa.array([0] * batch.num_rows))
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _groups(file: Path) -> tuple[list[int], pa.Schema]:
    """Rows of each part of a file at which reading may begin, and its schema."""
    import pyarrow.parquet

    with _readable(file):
        if file.suffix.lower() == ".parquet":
            with pyarrow.parquet.ParquetFile(file) as table:
                groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
                return groups, table.schema_arrow
        return _arrow_groups(file)


def _batches(file: Path, start: int, schema: pa.Schema, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Number of the first row, and rows: some at a time, from some row before or at ``start`` on."""
    suffix = file.suffix.lower()
    if suffix == ".csv":
        for row, batch in csv_text.csv_batches(file, names):
            yield row, csv_text.typed(batch, schema)
        return
    with _readable(file):
        if suffix == ".parquet":
            yield from _parquet_batches(file, start, schema)
            return
        row = 0
        for batch in _arrow_batches(file):
            yield row, batch.select(schema.names)
            row += batch.num_rows


def _parquet_batches(file: Path, start: int, schema: pa.Schema) -> Iterator[tuple[int, pa.RecordBatch]]:
    import pyarrow.parquet

    # without its buffer a group of rows is read page by page, however large it is
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table:
        groups = [table.metadata.row_group(group) for group in range(table.num_row_groups)]
        starts = list(itertools.accumulate((group.num_rows for group in groups), initial=0))
        row_bytes = sum(group.total_byte_size for group in groups) / max(1, starts[-1])
        rows = min(MOST_ROWS, max(1, int(BATCH_BYTES / max(1, row_bytes))))
        begin = max(0, bisect.bisect_right(starts, start) - 1)
        row = starts[min(begin, len(groups))]
        for batch in table.iter_batches(rows, list(range(begin, len(groups))), columns=schema.names):
            yield row, batch
            row += batch.num_rows


def _arrow_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """All batches of an Arrow file or stream."""
    import pyarrow as pa

    with pa.OSFile(str(file)) as opened:
        if _is_stream(opened):
            yield from pa.ipc.open_stream(opened)
            return
        reader = pa.ipc.open_file(opened)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _arrow_groups(file: Path) -> tuple[list[int], pa.Schema]:
    """Rows of each batch, and the schema; mapped, so that only what is looked at is read."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as opened:
        if _is_stream(opened):
            stream = pa.ipc.open_stream(opened)
            return [batch.num_rows for batch in stream], stream.schema
        reader = pa.ipc.open_file(opened)
        return [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)], reader.schema


def _is_stream(opened: pa.NativeFile) -> bool:
    """Whether it is a stream and no file; then, as before, at its beginning."""
    begins = bool(opened.read(6) != b"ARROW1")
    opened.seek(0)
    return begins


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        do = "restore the file, or write it again"
        raise SourceError(
            complaint(str(file), expected=f"a readable {file.suffix}", found=one_line(error), do=do)
        ) from None


def _unlike(
    file: Path, wanted: Sequence[tuple[str, pa.DataType | None]], there: Sequence[tuple[str, pa.DataType | None]]
) -> SourceError:
    """Two files of other columns."""
    missing, other = (
        ", ".join(name if kind is None else f"{name} {kind}" for name, kind in one if (name, kind) not in two)
        for one, two in ((wanted, there), (there, wanted))
    )
    columns = f"the columns of the first file ({missing or 'in their order'})"
    do = "bring all files to one schema"
    return SourceError(complaint(str(file), expected=columns, found=other or "none of that name", do=do))
