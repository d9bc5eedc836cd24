"""CSV: rows as Python's `csv` reads them, and columns of the narrowest type that all their cells allow.

A cell may hold line breaks of any kind and be of any length up to `MOST_CELL`. Stretches whose quotes leave no doubt
go through pyarrow, several times as fast. Types need a first reading of all files, which costs as much as a second.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES
from streamtrain.packing.sources.tables.cells import EMPTY

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CELL = 1 << 29
"""Characters of a cell. An unclosed quote makes one cell of all that follows."""
EXACT = 1 << 53
"""Up to here float64 holds every whole number."""
WHOLE = "^-?(0|[1-9][0-9]{0,18}|1[0-9]{19})$"
DECIMAL = r"^-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$|^-?([iI]nf|[iI]nfinity|INF)$"
NUMBER = re.compile(DECIMAL)
QUOTED = re.compile(r'(?:(?<=[,\r\n])|\A)"[^"]*(?:""[^"]*)*"(?=[,\r\n]|\Z)')
"""A whole cell in quotes. Where all quotes of a text are of such, every reader of CSV agrees on it."""


@dataclass
class CellTypes:
    """What all cells of a column so far allow: whole numbers, decimals, or text.

    Zeros that lead, a plus sign, spaces and hexadecimal digits are what a number would lose, so such a cell makes
    text of its column; so does a whole number that the numbers beside it would round.
    """

    text: bool = False
    blank: bool = True
    low: int = 0
    high: int = 0
    whole: bool = False
    decimals: bool = False

    def add(self, cells: pa.Array) -> None:
        """Takes in some cells."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.text or self._add_plain(cells):
            return
        there = cells.filter(pc.invert(pc.is_in(cells, value_set=pa.array(EMPTY))))
        self.blank = self.blank and not pc.any(pc.not_equal(cells, "")).as_py()
        if not len(there):
            return
        is_whole = pc.match_substring_regex(there, WHOLE)
        rest = there.filter(pc.invert(is_whole))
        if len(rest) and not pc.all(pc.match_substring_regex(rest, DECIMAL)).as_py():
            self.text = True
            return
        self.decimals = self.decimals or len(rest) > 0
        self._add_whole(there.filter(is_whole))

    def _add_plain(self, cells: pa.Array) -> bool:
        """Takes in cells that are all whole numbers as they are written, and says whether they were: the fast case."""
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            numbers = cells.cast(pa.int64())
        except pa.ArrowInvalid:
            return False
        if not pc.all(pc.equal(numbers.cast(pa.string()), cells)).as_py():
            return False
        found = pc.min_max(numbers).as_py()
        if found["min"] is not None:
            self.low, self.high = min(self.low, found["min"]), max(self.high, found["max"])
            self.whole = True
            self.blank = False
        return True

    def _add_whole(self, cells: pa.Array) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(cells):
            return
        self.whole = True
        for kind in (pa.int64(), pa.uint64()):
            try:
                found = pc.min_max(cells.cast(kind)).as_py()
            except pa.ArrowInvalid:
                continue
            self.low, self.high = min(self.low, found["min"]), max(self.high, found["max"])
            return
        self.text = True

    @property
    def kind(self) -> pa.DataType:
        """The type of the column; null where every cell is empty."""
        import pyarrow as pa

        if self.text or not (self.whole or self.decimals):
            return pa.null() if self.blank else pa.string()
        if self.decimals:
            return pa.float64() if max(-self.low, self.high) <= EXACT else pa.string()
        if self.high < 1 << 63:
            return pa.int64()
        return pa.uint64() if self.low >= 0 else pa.string()


def csv_names(file: Path) -> list[str]:
    """The columns' names; none for an empty file.

    Raises:
        SourceError: it is not a line of names.
    """
    with _opened(file) as text:
        names = next((row for row in _rows(file, text) if row), [])
    numbers = [name for name in names if NUMBER.match(name)]
    in_a_row = [str(int(numbers[0]) + n) for n in range(len(numbers))] if numbers and numbers[0].isdigit() else []
    if numbers and len(numbers) == sum(map(bool, names)) and numbers != in_a_row:
        found, do = f"numbers ({', '.join(numbers[:3])}, …)", "put a line of names before the first row"
        raise SourceError(complaint(f"{file}, first line", expected="names of columns", found=found, do=do))
    return names


def csv_types(files: Sequence[Path], names: Sequence[str], texts: Sequence[str]) -> tuple[list[pa.DataType], list[int]]:
    """The type of each column over all files, ``texts`` for those that are to stay as they are; rows of each file."""
    import pyarrow as pa

    types = [CellTypes(text=name in texts, blank=False) if name in texts else CellTypes() for name in names]
    counts = []
    for file in files:
        counts.append(0)
        for _, batch in csv_batches(file, names):
            counts[-1] += batch.num_rows
            for kind, cells in zip(types, batch.columns, strict=True):
                kind.add(cells)
    return [pa.string() if name in texts else kind.kind for name, kind in zip(names, types, strict=True)], counts


def typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of a schema in its types; what stands for no number is null in columns of numbers."""
    import pyarrow as pa

    columns = []
    for field in schema:
        cells = batch.column(field.name)
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            columns.append(_numbers(cells, field.type))
            continue
        if field.type == pa.null():
            cells = pa.nulls(len(cells))
        columns.append(cells)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _numbers(cells: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return cells.cast(kind)
    except pa.ArrowInvalid:  # some stand for no number
        empty = pc.is_in(cells, value_set=pa.array(EMPTY))
        return pc.if_else(empty, pa.scalar(None, pa.string()), cells).cast(kind)


def csv_batches(file: Path, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The number of the first row, and rows, all cells as text.

    Raises:
        SourceError: a row of more or fewer cells, or an unclosed quote; names the row.
    """
    row = 0
    with _opened(file) as text:
        try:
            for _ in (first for first in _rows(file, text) if first):
                break
            while chunk := text.read(BATCH_BYTES):
                chunk += text.readline()
                batch = _plain(chunk, names) or _one_by_one(file, chunk, text, names, row)
                if batch.num_rows:
                    yield row, batch
                row += batch.num_rows
        except UnicodeDecodeError as error:
            where = f"{file}, after row {row - 1}" if row else str(file)
            found, do = one_line(error), "save the file as UTF-8"
            raise SourceError(complaint(where, expected="text in UTF-8", found=found, do=do)) from None


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """The file, while cells may be long; line breaks stay as they are."""
    before = csv.field_size_limit(MOST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        do = "save the file as UTF-8"
        raise SourceError(complaint(str(file), expected="text in UTF-8", found=one_line(error), do=do)) from None
    except OSError as error:
        do = "check the file"
        raise SourceError(complaint(str(file), expected="a readable .csv", found=one_line(error), do=do)) from None
    finally:
        csv.field_size_limit(before)


def _rows(file: Path, lines: Iterator[str], first: int = -1) -> Iterator[list[str]]:
    """The rows of some lines, which are taken only as they are needed; ``first`` is the number of the first row."""
    reader = csv.reader(lines, strict=True)
    row = first
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"{file}, row {row}" if row >= 0 else f"{file}, first line"
            do = "close the quote, or double it where it stands inside of a cell"
            raise SourceError(complaint(where, expected="a row of CSV", found=str(error), do=do)) from None
        row += bool(cells)
        yield cells


def _plain(chunk: str, names: Sequence[str]) -> pa.RecordBatch | None:
    """Whole rows whose quotes are all plain; ``None`` where they are not, or a row has too many or too few cells."""
    import pyarrow as pa
    import pyarrow.csv

    quotes = '"' in chunk
    if quotes and '"' in QUOTED.sub("", chunk):
        return None
    data = chunk.encode()
    numbered = [str(number) for number in range(len(names))]
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            pyarrow.csv.ReadOptions(column_names=numbered, block_size=len(data) + 1, use_threads=False),
            pyarrow.csv.ParseOptions(quote_char='"' if quotes else False, newlines_in_values=quotes),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(numbered, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, list(names))


def _one_by_one(file: Path, chunk: str, more: TextIO, names: Sequence[str], row: int) -> pa.RecordBatch:
    """The same, one by one, and on from ``more`` to the end of the last row."""
    import pyarrow as pa

    lines = io.StringIO(chunk, newline="").readlines()
    taken = 0

    def feed() -> Iterator[str]:
        nonlocal taken
        for line in lines:
            taken += 1
            yield line
        for line in more:  # `yield from` would close the file when this generator ends
            yield line

    rows: list[list[str]] = []
    for cells in _rows(file, feed(), row):
        if cells and len(cells) != len(names):
            where, do = f"{file}, row {row + len(rows)}", "correct the row, or quote its cells"
            expected = f"{len(names)} cells as in the first line"
            raise SourceError(complaint(where, expected=expected, found=f"{len(cells)}", do=do))
        if cells:
            rows.append(cells)
        if taken >= len(lines):
            break
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], list(names))


def partition_types(values: Mapping[str, Sequence[str | None]]) -> dict[str, pa.DataType]:
    """The types of columns whose cells are folders' names."""
    import pyarrow as pa

    types = {}
    for name, cells in values.items():
        seen = CellTypes()
        seen.add(pa.array(["" if cell is None else cell for cell in cells], pa.string()))
        types[name] = seen.kind
    return types
