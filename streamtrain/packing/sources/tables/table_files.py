"""Tables in files, through pyarrow: CSV, Parquet, Arrow and Feather; several of one schema, one after the other."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES
from streamtrain.packing.sources.tables.table import Rows, Table, checked

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet", ".arrow", ".feather")
MOST_ROWS = 1 << 16
"""Rows read at once."""


def from_files(files: Sequence[Path]) -> Table:
    """Files of one schema.

    Raises:
        SourceError: unreadable, or without rows.
    """
    name = str(files[0] if len(files) == 1 else files[0].parent)
    first = next(_batches(files[0], 0, None), None)
    if first is None or not first[1].num_rows:
        raise SourceError(complaint(name, expected="rows", found="none", do="check the file"))
    schema = checked(first[1].schema, str(files[0]))
    for file in files[1:]:
        _check_schema(file, schema)
    text = files[0].suffix.lower() == ".csv"
    groups = [[0]] if text and len(files) == 1 else [_groups(file, schema) for file in files]
    starts = tuple(itertools.accumulate((sum(group) for group in groups), initial=0))
    borders = {
        start + row
        for start, group in zip(starts, groups, strict=False)
        for row in itertools.accumulate(group[:-1], initial=0)
    }
    count = starts[-1] or None  # a single CSV is not parsed just to count its rows
    size = sum(file.stat().st_size for file in files)
    read = partial(_read, tuple(files), starts[:-1])
    return Table(name, schema, read, text, count, tuple(sorted(borders)), size, tuple(files))


def _read(files: Sequence[Path], starts: Sequence[int], start: int, schema: pa.Schema) -> Iterator[Rows]:
    begin = max(0, bisect.bisect_right(starts, start) - 1)
    for file, first in zip(files[begin:], starts[begin:], strict=True):
        skip = max(0, start - first)
        for row, batch in _batches(file, skip, schema):
            if row + batch.num_rows > skip:
                yield Rows(str(file), max(row, skip), batch.slice(max(0, skip - row)))


def _groups(file: Path, schema: pa.Schema) -> list[int]:
    """Rows of each part of a file at which reading may begin."""
    import pyarrow.parquet

    suffix = file.suffix.lower()
    if suffix == ".parquet":
        metadata = pyarrow.parquet.read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if suffix == ".csv":
        return [sum(batch.num_rows for _, batch in _batches(file, 0, schema))]
    return [batch.num_rows for batch in _arrow_batches(file, mapped=True)]


def _batches(file: Path, start: int, schema: pa.Schema | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Number of the first row, and rows: some at a time, from some row before or at ``start`` on."""
    import pyarrow as pa

    suffix = file.suffix.lower()
    try:
        if suffix == ".csv":
            yield from _csv_batches(file, schema)
        elif suffix == ".parquet":
            yield from _parquet_batches(file, start, schema)
        else:
            row = 0
            for batch in _arrow_batches(file):
                yield row, batch if schema is None else batch.select(schema.names)
                row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            complaint(str(file), expected=f"a readable {file.suffix}", found=one_line(error), do="mend the file")
        ) from None


def _csv_batches(file: Path, schema: pa.Schema | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    import pyarrow.csv

    types = pyarrow.csv.ConvertOptions(column_types=schema, include_columns=None if schema is None else schema.names)
    row = 0
    with pyarrow.csv.open_csv(file, convert_options=types) as reader:
        for batch in reader:
            yield row, batch
            row += batch.num_rows


def _parquet_batches(file: Path, start: int, schema: pa.Schema | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    import pyarrow.parquet

    # without its buffer a group of rows is read page by page, however large it is
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table:
        groups = [table.metadata.row_group(group) for group in range(table.num_row_groups)]
        starts = list(itertools.accumulate((group.num_rows for group in groups), initial=0))
        row_bytes = sum(group.total_byte_size for group in groups) / max(1, starts[-1])
        rows = min(MOST_ROWS, max(1, int(BATCH_BYTES / max(1, row_bytes))))
        begin = max(0, bisect.bisect_right(starts, start) - 1)
        row = starts[min(begin, len(groups))]
        names = None if schema is None else schema.names
        for batch in table.iter_batches(rows, list(range(begin, len(groups))), columns=names):
            yield row, batch
            row += batch.num_rows


def _arrow_batches(file: Path, *, mapped: bool = False) -> Iterator[pa.RecordBatch]:
    """All batches of an Arrow file or stream; mapped, only what is looked at is read."""
    import pyarrow as pa

    with pa.memory_map(str(file)) if mapped else pa.OSFile(str(file)) as opened:
        stream = opened.read(6) != b"ARROW1"
        opened.seek(0)
        if stream:
            yield from pa.ipc.open_stream(opened)
            return
        reader = pa.ipc.open_file(opened)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _check_schema(file: Path, expected: pa.Schema) -> None:
    """Raises `SourceError` where a file's columns are not the first file's; the types in a CSV are guessed."""
    found = next((batch.schema for _, batch in _batches(file, 0, None)), None)
    text = file.suffix.lower() == ".csv"
    wanted, there = (
        [] if schema is None else [(field.name, None if text else field.type) for field in schema]
        for schema in (expected, found)
    )
    if wanted != there:
        missing, other = (
            ", ".join(name if kind is None else f"{name} {kind}" for name, kind in one if (name, kind) not in two)
            for one, two in ((wanted, there), (there, wanted))
        )
        columns = f"the columns of the first file ({missing or 'in their order'})"
        do = "bring all files to one schema"
        raise SourceError(complaint(str(file), expected=columns, found=other or "none of that name", do=do))
