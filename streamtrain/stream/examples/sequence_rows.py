"""Sequences laid into rows of one length, one behind the other: `st.Pack`, as arithmetic and as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamtrain.job import Pack
from streamtrain.values import Arrays

NOBODY = -1
"""Whose an entry is that is of no example."""


def places_in_rows(lengths: Sequence[int], room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of each sequence, and where in it each begins; none is longer than the ``room`` in a row.

    In their order: one that does not fit into what is left of a row begins the next. Trying earlier rows too would
    leave less empty, but a row would no longer hold neighbours, and a batch could not be cut between rows.
    """
    rows: list[int] = []
    starts: list[int] = []
    row = taken = 0
    for length in lengths:
        if taken + length > room:
            row, taken = row + 1, 0
        rows.append(row)
        starts.append(taken)
        taken += length
    return np.array(rows, np.int64), np.array(starts, np.int64)


def laid_in_rows(values: dict[str, list[NDArray[np.generic]]], pack: Pack, filling: Arrays) -> Arrays:
    """Every field's rows, and the fields that `Pack` adds.

    Args:
        values: of every field of ``pack`` each example's sequence, all fields' as long as each other; at least one.
        filling: of every field what stands where there is no entry, in the field's type.
    """
    lengths = [len(value) for value in values[pack.names[0]]]
    rows, starts = places_in_rows(lengths, pack.length)
    shape = int(rows[-1]) + 1, pack.length
    arrays: Arrays = {}
    for name, each in values.items():
        arrays[name] = np.full((*shape, *each[0].shape[1:]), filling[name], each[0].dtype)
    example, position = np.full(shape, NOBODY, np.int64), np.zeros(shape, np.int64)
    for number, (row, start, length) in enumerate(zip(rows.tolist(), starts.tolist(), lengths, strict=True)):
        stop = start + length
        example[row, start:stop] = number
        position[row, start:stop] = np.arange(length)
        for name, each in values.items():
            arrays[name][row, start:stop] = each[number]
    made = {pack.example_field: example, pack.position_field: position, pack.row_field: rows}
    return {**arrays, **made, pack.length_field: np.array(lengths, np.int64)}
