"""Examples brought to their fields' form: what cannot be is told by its number, and leaves the others as they are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.shuffling.runs import bad_examples
from streamtrain.packing.sources.source import BATCH_BYTES, Batch, Example, Source, values_at
from streamtrain.shards.codec import FieldEncoder, Ragged
from streamtrain.shards.origins import BAD, BY_FRACTIONS, REPEATED
from streamtrain.shards.shard import MEMBER_LIMIT

Encoders = dict[str, FieldEncoder]

Fits = Callable[[int, int], bool]
"""Whether one more has room in a run beside so many examples, with so many bytes of members."""

MOST = 1000
"""Examples that are encoded one by one before they are handed on."""


@dataclass(frozen=True)
class Encoded:
    """Consecutive examples as columns: arrays of their fields' row types, or encoded members.

    Attributes:
        values: by field, first axis the example; those of examples that are not kept are empty or mean nothing.
        place: names one of them.
        codes: of every example: see `shards.origins`.
        reasons: why some could not be taken, by their number.
        in_a_row: whether places that end in a number count up by one.
        together: whether all belong to one run, since the encoders have counted them.
    """

    values: Mapping[str, NDArray[Any] | Ragged]
    place: Callable[[int], str]
    codes: NDArray[np.uint8]
    reasons: Mapping[int, str] = field(default_factory=dict)
    in_a_row: bool = True
    together: bool = False

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of them are taken."""
        return is_kept(self.codes)


@overload
def is_kept(code: int) -> bool: ...
@overload
def is_kept(code: NDArray[np.uint8]) -> NDArray[np.bool_]: ...
def is_kept(code: Any) -> Any:
    """Whether examples of these codes are taken."""
    return (code < REPEATED) | (code == BY_FRACTIONS)


def first_encoders(source: Source) -> dict[str, FieldEncoder]:
    """An encoder for each field, which has seen the first example that can be taken.

    Raises:
        SourceError: there is no example, or fields that cannot be.
    """
    bad: list[tuple[str, str]] = []
    for where, values in source.examples(0):
        _check_names(source.name, values, source.label)
        encoders = {
            name: FieldEncoder(name, source.classes.get(name), source.notes.get(name)) for name in sorted(values)
        }
        try:
            for name, encoder in encoders.items():
                encoder.encode(values[name], where)
        except SourceError as error:
            bad.append((where, str(error)))
        else:
            return encoders
        if len(bad) == bad_examples.MOST:
            break
    if bad:
        raise bad_examples.RefusedExamples(bad)
    raise SourceError(complaint(source.name, expected="examples", found="none", do="check the source"))


def encoded_batch(batch: Batch, codes: NDArray[np.uint8], encoders: Encoders, fits: Fits) -> Iterator[Encoded]:
    """A source's columns; one by one where one of the examples cannot be taken, or images are counted."""
    kept = is_kept(codes)
    if not kept.any():
        yield Encoded({}, batch.place, codes)
        return
    if any(encoder.has_images for encoder in encoders.values()):
        yield from _one_by_one(batch, codes, encoders, fits)
        return
    rows = np.flatnonzero(kept)
    values = batch.values if kept.all() else {name: values_at(column, rows) for name, column in batch.values.items()}
    before = _states(encoders)
    try:
        columns = {
            name: encoder.column(values[name], lambda number: batch.place(int(rows[number])))
            for name, encoder in encoders.items()
        }
    except SourceError:
        _restore(encoders, before)
        yield from _one_by_one(batch, codes, encoders, fits)
        return
    yield Encoded({name: _spread(column, kept) for name, column in columns.items()}, batch.place, codes)


def _one_by_one(batch: Batch, codes: NDArray[np.uint8], encoders: Encoders, fits: Fits) -> Iterator[Encoded]:
    examples = ((batch.place(i), {n: column[i] for n, column in batch.values.items()}) for i in range(len(batch)))
    for encoded in encoded_rows(examples, codes.tolist(), encoders, fits):
        yield dataclasses.replace(encoded, in_a_row=True)


def encoded_rows(
    examples: Iterable[Example], codes: Iterable[int], encoders: Encoders, fits: Fits, loose: Container[str] = ()
) -> Iterator[Encoded]:
    """Examples one by one, some at a time; the fields ``loose`` as members, the others as arrays."""
    group = _Group(encoders, loose)
    for (where, values), code in zip(examples, codes, strict=False):
        group.add(where, values, code)
        if group.full or not fits(group.kept, group.content):
            yield group.encoded()
            group = _Group(encoders, loose)
    if len(group):
        yield group.encoded()


def _spread(column: NDArray[Any] | Ragged, kept: NDArray[np.bool_]) -> NDArray[Any] | Ragged:
    """The values of those that are kept, at their places among all."""
    if kept.all():
        return column
    if isinstance(column, Ragged):
        lengths = np.zeros(len(kept), np.int64)
        lengths[kept] = column.lengths
        return dataclasses.replace(column, lengths=lengths)
    whole = np.empty((len(kept), *column.shape[1:]), column.dtype)
    whole[kept] = column
    return whole


class _Group:
    """Examples that are encoded one by one, up to `MOST` or about `BATCH_BYTES`; the fields ``loose`` as members."""

    def __init__(self, encoders: Encoders, loose: Container[str]) -> None:
        self._encoders = encoders
        types = {name: encoder.row_type for name, encoder in encoders.items() if name not in loose}
        fixed = {name: kind for name, kind in types.items() if kind is not None}
        self._most = max(1, min(MOST, BATCH_BYTES // max(1, sum(kind.itemsize for kind in fixed.values()))))
        self._rows = {name: np.zeros((self._most, *kind.shape), kind.base) for name, kind in fixed.items()}
        self._members: dict[str, list[bytes]] = {name: [] for name in encoders if name not in fixed}
        self._places: list[str] = []
        self._codes = bytearray()
        self._reasons: dict[int, str] = {}
        self.kept = self.content = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def full(self) -> bool:
        """Whether no more shall be added."""
        return len(self) >= self._most or self.content >= BATCH_BYTES

    def add(self, where: str, values: Mapping[str, Any], code: int) -> None:
        """One more."""
        number = len(self)
        members = dict.fromkeys(self._members, b"")
        if is_kept(code):
            before = _states(self._encoders)
            try:
                _check_fields(values, where, self._encoders)
                for name, encoder in self._encoders.items():
                    if name in members:
                        members[name] = _small_enough(encoder.encode(values[name], where), where)
                    else:
                        self._rows[name][number] = encoder.row(values[name], where)
            except SourceError as error:
                _restore(self._encoders, before)
                code = BAD
                self._reasons[number] = str(error)
                members = dict.fromkeys(members, b"")
        for name, data in members.items():
            self._members[name].append(data)
            self.content += len(data)
        self._places.append(where)
        self._codes.append(code)
        self.kept += is_kept(code)

    def encoded(self) -> Encoded:
        """All of them."""
        columns: dict[str, NDArray[Any] | Ragged] = {name: rows[: len(self)] for name, rows in self._rows.items()}
        columns |= {name: Ragged.of_bytes(members) for name, members in self._members.items()}
        codes = np.frombuffer(bytes(self._codes), np.uint8)
        return Encoded(columns, partial(_place_in, self._places), codes, self._reasons, in_a_row=False, together=True)


def _small_enough(data: bytes, where: str) -> bytes:
    if len(data) >= MEMBER_LIMIT:
        found, do = f"{len(data):,} bytes", "split it up"
        raise SourceError(complaint(where, expected="members below 8 GiB", found=found, do=do))
    return data


def _check_names(source: str, values: dict[str, Any], label: str | None) -> None:
    for name in values:
        if not re.fullmatch("[a-z0-9_-]{1,64}", name):
            expected = "names of a-z, 0-9, _ and -, since they become extensions in the tars"
            raise SourceError(complaint(f"{source}, field {name!r}", expected=expected, found=name, do="rename it"))
    if label is not None and label not in values:
        found = ", ".join(sorted(values))
        raise SourceError(complaint(source, expected=f"a field {label!r}", found=found, do="set --label"))


def _check_fields(values: Mapping[str, Any], where: str, encoders: Encoders) -> None:
    if values.keys() != encoders.keys():
        expected, found = ", ".join(encoders), ", ".join(sorted(values))
        raise SourceError(
            complaint(where, expected=f"the fields {expected}", found=found, do="give all examples the same fields")
        )
    for value in values.values():
        if isinstance(value, SourceError):
            raise value


def _states(encoders: Encoders) -> list[dict[str, Any]]:
    return [vars(encoder).copy() for encoder in encoders.values()]


def _restore(encoders: Encoders, states: Sequence[dict[str, Any]]) -> None:
    """Lets the encoders forget what an example that is not taken has shown them."""
    for encoder, state in zip(encoders.values(), states, strict=True):
        vars(encoder).update(state)


def _place_in(places: Sequence[str], number: int) -> str:
    return places[number]
