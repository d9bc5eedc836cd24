"""Rows of a table as they are read: a batch of Arrow's, and where each row stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import SourceError, complaint, one_line

if TYPE_CHECKING:
    import pyarrow as pa


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
        text: whether it is text, whose numbers have no type of their own.
        count, borders, bytes, files: as of `Source`.
        classes: names of the values of a column that stand for classes.
        nameless: columns that nobody named: the row numbers that pandas writes; with the reason.
        markers: files beside those of the table, which hold no rows.
        splits: as of `Source`.
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
    nameless: Mapping[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    splits: tuple[tuple[str, int], ...] = ()


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
