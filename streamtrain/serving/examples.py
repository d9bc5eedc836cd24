"""A few real examples, which a program is made with and held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamtrain.stream.examples.boxes import objects_in
from streamtrain.stream.reader import FIRST_LOOKED_AT, Reader
from streamtrain.values import Arrays

MOST = 4
"""Enough to be several; images are large."""


@dataclass(frozen=True)
class Examples:
    """As the job's reader gives them, and as its `map` gets them where it has one: a column a field."""

    read: Arrays
    raw: Arrays


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
    return Examples(_joined([each for each, _ in found]), _joined([each for _, each in found]))


def _joined(pieces: list[Arrays]) -> Arrays:
    return {name: _column([piece[name] for piece in pieces]) for name in pieces[0]}


def _column(parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """One array of all; one of objects where they differ in form, as pictures that `map` brings to one size."""
    alike = len({(part.shape[1:], part.dtype) for part in parts}) == 1
    return np.concatenate(parts) if alike else objects_in([row for part in parts for row in part])
