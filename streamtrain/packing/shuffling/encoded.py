"""Examples brought to their fields' form: what cannot be is told by its number, and leaves the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.sources.source import Batch, Example
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.origins import BAD, BY_FRACTIONS, REPEATED

Encoders = dict[str, FieldEncoder]


@dataclass(frozen=True)
class Encoded:
    """Consecutive examples as arrays of their fields' row types, first axis the example.

    Attributes:
        values: by field; those of examples that are not kept mean nothing.
        place: names one of them.
        codes: of every example: see `shards.origins`.
        reasons: why some could not be taken, by their number.
    """

    values: Mapping[str, NDArray[Any]]
    place: Callable[[int], str]
    codes: NDArray[np.uint8]
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of them are taken."""
        return is_kept(self.codes)

    def fitting(self, start: int, room: int) -> int:
        """The end of as many examples from ``start`` on as leave no more than ``room`` that are kept."""
        counted = np.cumsum(self.kept[start:])
        return start + int(np.searchsorted(counted, room, side="right"))


@overload
def is_kept(code: int) -> bool: ...
@overload
def is_kept(code: NDArray[np.uint8]) -> NDArray[np.bool_]: ...
def is_kept(code: Any) -> Any:
    """Whether examples of these codes are taken."""
    return (code < REPEATED) | (code == BY_FRACTIONS)


def encoded_batch(batch: Batch, codes: NDArray[np.uint8], encoders: Encoders) -> Encoded:
    """A source's arrays; one by one where one of the examples cannot be taken."""
    kept = is_kept(codes)
    if not kept.any():
        return Encoded(batch.values, batch.place, codes)
    values = batch.values if kept.all() else {name: column[kept] for name, column in batch.values.items()}
    before = _states(encoders)
    try:
        columns = {name: encoder.column(values[name], batch.place) for name, encoder in encoders.items()}
    except SourceError:
        _restore(encoders, before)
        group = [(batch.place(i), {n: column[i] for n, column in batch.values.items()}) for i in range(len(batch))]
        return encoded_rows(group, codes, encoders)
    if kept.all():
        return Encoded(columns, batch.place, codes)
    whole = {name: np.empty((len(kept), *column.shape[1:]), column.dtype) for name, column in columns.items()}
    for name, column in columns.items():
        whole[name][kept] = column
    return Encoded(whole, batch.place, codes)


def encoded_rows(group: Sequence[Example], codes: NDArray[np.uint8], encoders: Encoders) -> Encoded:
    """Examples one by one."""
    codes, reasons = codes.copy(), {}
    rows = {
        name: np.zeros((len(group), *encoder.row_type.shape), encoder.row_type.base)
        for name, encoder in encoders.items()
        if encoder.row_type is not None
    }
    for number, (where, values) in enumerate(group):
        if not is_kept(int(codes[number])):
            continue
        before = _states(encoders)
        try:
            _check_fields(values, where, encoders)
            for name, encoder in encoders.items():
                rows[name][number] = encoder.row(values[name], where)
        except SourceError as error:
            _restore(encoders, before)
            codes[number], reasons[number] = BAD, str(error)
    return Encoded(rows, partial(_place_in, group), codes, reasons)


def encoded_members(values: Mapping[str, Any], where: str, encoders: Encoders) -> list[bytes] | SourceError:
    """An example's members, or why it cannot be taken."""
    before = _states(encoders)
    try:
        _check_fields(values, where, encoders)
        return [encoder.encode(values[name], where) for name, encoder in encoders.items()]
    except SourceError as error:
        _restore(encoders, before)
        return error


def _check_fields(values: Mapping[str, Any], where: str, encoders: Encoders) -> None:
    if values.keys() != encoders.keys():
        expected, found = ", ".join(encoders), ", ".join(sorted(values))
        raise SourceError(complaint(where, expected=f"the fields {expected}", found=found, do="mend the source"))
    for value in values.values():
        if isinstance(value, SourceError):
            raise value


def _states(encoders: Encoders) -> list[dict[str, Any]]:
    return [vars(encoder).copy() for encoder in encoders.values()]


def _restore(encoders: Encoders, states: Sequence[dict[str, Any]]) -> None:
    """Lets the encoders forget what an example that is not taken has shown them."""
    for encoder, state in zip(encoders.values(), states, strict=True):
        vars(encoder).update(state)


def _place_in(group: Sequence[Example], number: int) -> str:
    return group[number][0]
