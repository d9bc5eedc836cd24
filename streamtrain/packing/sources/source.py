"""What every kind of source gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.codec import FieldNotes, Ragged

Values = NDArray[Any] | Ragged | list[Any]

BATCH_BYTES = 4 << 20
"""Arrays are read by about this much at once."""

Example = tuple[str, dict[str, Any]]
"""Place and values: the place names the example in errors. A value that cannot be read is the `SourceError` itself."""


@dataclass(frozen=True)
class Batch:
    """Consecutive examples as columns, a field each, first axis the example; ``place`` names one of them.

    Where places end in a number, it grows from one to the next. Values of different sizes are `Ragged`, or a list
    where only Python knows their form.
    """

    values: Mapping[str, Values]
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


@dataclass(frozen=True)
class Column:
    """What became of one column (or array, or kind of member) of a source.

    Attributes:
        name: in the source.
        kind: its type there, e.g. ``timestamp[us, tz=UTC]`` or ``text``.
        field: that holds it; ``None`` where it was left out.
        became: its form there, e.g. ``float32, entry 3`` or ``12 classes``; or why it was left out.
        low, high: its smallest and largest value, where it has numbers or times.
        missing: cells without a value.
        note: what was done to it that its form does not tell, e.g. ``7 missing became NaN``.
    """

    name: str
    kind: str
    field: str | None
    became: str
    low: int | float | None = None
    high: int | float | None = None
    missing: int = 0
    note: str = ""


@dataclass(frozen=True)
class Source:
    """Examples in a fixed order. It travels to other processes, so it holds no open files.

    Attributes:
        name: as the user gave it.
        examples: the examples from this number on.
        count: how many they are, where that is known beforehand.
        label: the field of class labels, if there is one.
        classes: names of the values of a field that stand for classes.
        batches: the examples ``[start, stop)``, or all from ``start`` on, as columns, where it has them.
        borders: numbers at which reading may begin without passing over all that come before; ``None`` for any.
        bytes: about how many all examples take, where that is known beforehand.
        files: that are read.
        notes: what is known of a field beforehand, by its name.
        columns: what became of every column, where the source has some.
        splits: the splits that it has, in its order: each one's name, and the number of examples up to its end.
        column: the values of one column of all examples, some at a time, where that is cheaper than all fields are.
        split_by: how its splits were made, in words.
        left_out: place and reason of each of what could not be taken when these examples were made.
        counted: what else was counted on the way to them, by name.
    """

    name: str
    examples: Callable[[int], Iterator[Example]]
    count: int | None = None
    label: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batches: Callable[[int, int | None], Iterator[Batch]] | None = None
    borders: tuple[int, ...] | None = (0,)
    bytes: int | None = None
    files: tuple[Path, ...] = ()
    notes: Mapping[str, FieldNotes] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    splits: tuple[tuple[str, int], ...] = ()
    column: Callable[[str], Iterator[list[Any] | NDArray[Any]]] | None = None
    split_by: str = "as the source has them"
    left_out: tuple[tuple[str, str], ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)


def values_at(values: Values, rows: NDArray[np.int64]) -> Values:
    """These rows of a column."""
    if isinstance(values, Ragged):
        return values.take(rows)
    return [values[row] for row in rows.tolist()] if isinstance(values, list) else values[rows]
