"""A few real examples, which a program is made with and held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamtrain.job import Pack
from streamtrain.model.objective import cut
from streamtrain.stream.examples.boxes import objects_in
from streamtrain.stream.reader import FIRST_LOOKED_AT, Reader
from streamtrain.values import Arrays

MOST = 4
"""Enough to be several; images are large."""
TRACED = 3
"""Of the batch that is exported: an axis of one would be taken for one that is always one."""


@dataclass(frozen=True)
class Examples:
    """As the job's reader gives them, and as its `map` gets them where it has one: a column a field.

    Attributes:
        loose: fields of ``raw`` that may have other sizes than these examples'.
    """

    read: Arrays
    raw: Arrays
    loose: frozenset[str] = frozenset()


def read_examples(reader: Reader, *, unmapped: bool) -> Examples:
    """The first good ones of a split.

    Args:
        unmapped: whether they are wanted as `map` gets them too.

    Raises:
        DataError: none of the first thousand can be read.
    """
    reader.expect([(0, min(MOST, len(reader)))])
    if not unmapped:
        return Examples(reader.read(0, min(MOST, len(reader))) or reader.first_good(), {})
    raw = reader.unmapped()
    found: list[tuple[Arrays, Arrays]] = []
    for number in range(min(FIRST_LOOKED_AT, len(reader))):
        if len(found) == MOST:
            break
        arrays = reader.read(number, number + 1)  # one by one: a bad one is in neither
        if arrays:
            found.append((arrays, raw.read(number, number + 1)))
    if not found:
        reader.first_good()  # says which data set has none
    return Examples(_joined([each for each, _ in found]), _joined([each for _, each in found]), reader.loose)


def first_of(arrays: Arrays, examples: int, pack: Pack | None) -> Arrays:
    """The first of these examples; where several share rows, in the rows that they lie in, as evaluation cuts them."""
    if pack is not None:
        return cut(arrays, pack, 0, examples)
    return {name: array[:examples].copy() for name, array in arrays.items()}


def traced_of(arrays: Arrays, pack: Pack | None) -> Arrays:
    """A batch to export with: three of these examples; where they share rows, all of them three times."""
    if pack is None:
        return {name: array[np.arange(TRACED) % len(array)] for name, array in arrays.items()}
    whose: Any = arrays[pack.example_field]
    rows: Any = arrays[pack.row_field]
    times = [
        {
            **arrays,
            pack.example_field: np.where(whose < 0, whose, whose + time * len(rows)),
            pack.row_field: rows + time * len(whose),
        }
        for time in range(TRACED)
    ]
    return {name: np.concatenate([each[name] for each in times]) for name in arrays}


def rows_in(names: Iterable[str], pack: Pack | None) -> set[str]:
    """Of these fields those whose first axis is the row that examples share, and not the example."""
    return set() if pack is None else {*names} & {*pack.names, pack.example_field, pack.position_field}


def _joined(pieces: list[Arrays]) -> Arrays:
    return {name: _column([piece[name] for piece in pieces]) for name in pieces[0]}


def _column(parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """One array of all; one of objects where they differ in form, as pictures that `map` brings to one size."""
    alike = len({(part.shape[1:], part.dtype) for part in parts}) == 1
    return np.concatenate(parts) if alike else objects_in([row for part in parts for row in part])
