"""Examples of different shapes made one batch, in every phase: padded, laid into rows, or by the user's function.

What is collated together is a lane's part of a minibatch, or a slice of an evaluation, never what a worker happens to
host: so a batch's shape, and every bit that follows from it, is a function of its examples (promise 2). Costs a
microsecond or two an example and field.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import JobError, ShardError, complaint, users_code
from streamtrain.job import Collate, Pack, Pad
from streamtrain.job.data import pads_of
from streamtrain.stream.examples.boxes import FORMLESS, held, objects_in
from streamtrain.stream.examples.sequence_rows import laid_in_rows
from streamtrain.values import Arrays

Function = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


@dataclass(frozen=True)
class Example:
    """One example on its way into a batch, and where it is, for errors."""

    where: str
    values: dict[str, Any]


class Collator(Protocol):
    """How examples become a batch."""

    def prepare(self, example: Example) -> Example:
        """One example by itself, as `batch` takes it.

        Raises:
            StreamtrainError: it cannot be in any batch: a bad example.
        """
        ...

    def batch(self, examples: Sequence[Example]) -> Arrays:
        """The batch of at least one: fresh arrays, C-ordered, first axis the example, or the row that several share.

        Raises:
            StreamtrainError: they do not go together, or the user's function fails.
        """
        ...


def collator_of(collate: Collate | None) -> Collator | None:
    """What a job or a loop asks for; ``None`` where all examples have one form."""
    if collate is None:
        return None
    if isinstance(collate, Pack):
        return Rows(collate)
    pads = pads_of(collate)
    if pads:
        return Padding(pads)
    assert callable(collate)
    return ByFunction(collate)


class Padding:
    """Pads some fields along their first axis; all others have one form."""

    def __init__(self, pads: Sequence[Pad]) -> None:
        self._pads = {pad.field: pad for pad in pads}

    def prepare(self, example: Example) -> Example:
        """Its fields as arrays, cut where that is asked for.

        Raises:
            ShardError: a field is missing, has no axis or no numbers, or has too many entries.
        """
        values = _arrays_of(example, self._pads, {pad.length_field for pad in self._pads.values()})
        for name, pad in self._pads.items():
            where = f"{example.where}, field {name!r}"
            values[name] = _bounded(where, values[name], pad.longest, "raise longest", cut=pad.cut)
        return Example(example.where, values)

    def batch(self, examples: Sequence[Example]) -> Arrays:
        """The padded fields with their lengths, and the others."""
        arrays: Arrays = {}
        for name in _same_fields(examples):
            pad = self._pads.get(name)
            if pad is None:
                arrays[name] = _stacked(examples, name)
            else:
                arrays |= _padded(examples, pad)
        return arrays


class Rows:
    """Lays some fields into rows; all others have one form."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack

    def prepare(self, example: Example) -> Example:
        """Its fields as arrays, cut where that is asked for.

        Raises:
            ShardError: a field is missing, has no axis or no numbers, or has another length than the first or too many
                entries.
        """
        pack = self._pack
        values = _arrays_of(example, pack.names, {*pack.made})
        length = len(values[pack.names[0]])
        for name in pack.names:
            where = f"{example.where}, field {name!r}"
            if len(values[name]) != length:
                expected, found = f"{length} entries, as {pack.names[0]!r} has", f"{len(values[name])}"
                do = "make them as long as each other in data.map and data.augment"
                raise ShardError(complaint(where, expected=expected, found=found, do=do))
            values[name] = _bounded(where, values[name], pack.length, "raise st.Pack's length", cut=pack.cut)
        return Example(example.where, values)

    def batch(self, examples: Sequence[Example]) -> Arrays:
        """The rows, what says whose they are, and the other fields."""
        pack = self._pack
        arrays: Arrays = {}
        for name in _same_fields(examples):
            if name in pack.names:
                _refuse_other_forms(examples, name, 1)
                continue
            _refuse_other_forms(examples, name, 0, "name it in st.Pack too, or bring all to one form in data.map")
            arrays[name] = _stacked(examples, name)
            if arrays[name].shape[1:2] == (pack.length,):
                where = f"{examples[0].where}, field {name!r}"
                expected, found = "no field of the size of a row", f"shape {arrays[name].shape[1:]}"
                do = "choose another length for st.Pack, or lay this one into its rows too"
                raise ShardError(complaint(where, expected=expected, found=found, do=do))
        values = {name: [example.values[name] for example in examples] for name in pack.names}
        where = examples[0].where
        filling = {n: _filling(f"{where}, field {n!r}, st.Pack", pack.value, v[0].dtype) for n, v in values.items()}
        return {**laid_in_rows(values, pack, filling), **arrays}


class ByFunction:
    """By a function from a list of examples to a batch."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def prepare(self, example: Example) -> Example:
        """Numbers and arrays as arrays; texts, bytes, dicts and lists as they are."""
        kept = (*FORMLESS, list, tuple)
        values = {n: value if isinstance(value, kept) else np.asarray(value) for n, value in example.values.items()}
        return Example(example.where, values)

    def batch(self, examples: Sequence[Example]) -> Arrays:
        """What the function gives.

        Raises:
            JobError: it fails, or a field's first axis is not the examples'.
        """
        more = f" and {len(examples) - 1} more" if len(examples) > 1 else ""
        where = f"{examples[0].where}{more}: data.collate"
        with users_code(where, "repair it"):
            batch: object = self._function([dict(e.values) for e in examples])
            if not isinstance(batch, Mapping):
                do, given = "return the batch", type(batch).__name__
                raise JobError(complaint(where, expected="a dict of fields", found=given, do=do))
            found = {name: _column(value) for name, value in batch.items()}
        if not found:
            raise JobError(complaint(where, expected="a dict of fields", found="an empty one", do="return the batch"))
        for name, array in found.items():
            if array.ndim == 0 or len(array) != len(examples):
                expected = f"{len(examples)} along the first axis, one for each example that it is given"
                do = "keep the examples along the first axis"
                place = f"{where}, field {name!r}"
                raise JobError(complaint(place, expected=expected, found=f"shape {array.shape}", do=do))
        return found


def _arrays_of(example: Example, resized: Collection[str], made: Set[str]) -> dict[str, Any]:
    """An example's fields as arrays, the ``resized`` ones with an axis; none may have a name of those that are made.

    Raises:
        ShardError: one has, or a field is missing or is no array of numbers.
    """
    values = {name: value if name in resized else held(value) for name, value in example.values.items()}
    for name in resized:
        if name not in values:
            found = ", ".join(sorted(values))
            do = "return it from data.map and data.augment, or leave it out of data.collate"
            raise ShardError(complaint(example.where, expected=f"a field {name!r} to collate", found=found, do=do))
        values[name] = _sequence(f"{example.where}, field {name!r}", values[name])
    for name in sorted(made & values.keys()):
        where, do = f"{example.where}, field {name!r}", "rename it: data.collate makes a field of this name"
        raise ShardError(complaint(where, expected="no such field", found="one", do=do))
    return values


def _sequence(where: str, value: Any) -> NDArray[Any]:
    """A field's entries as an array."""
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of different lengths
        array = np.empty(0, object)
    if array.ndim == 0 or array.dtype.kind not in "biufc":
        numbers = array.dtype.kind in "biufc"
        found = "a single number" if numbers else type(value).__name__
        do = "make it an array in data.map, or leave it out of data.collate"
        raise ShardError(complaint(where, expected="an array of numbers", found=found, do=do))
    if array.size == 0 and isinstance(value, list | tuple):  # numpy takes it for float64, whatever the others are
        do = "make it an array of the others' type in data.map and data.augment, e.g. np.zeros(0, np.int64)"
        raise ShardError(complaint(where, expected="numbers that have a type", found="an empty list", do=do))
    return array


def _bounded(where: str, array: NDArray[Any], most: int | None, do: str, *, cut: bool) -> NDArray[Any]:
    """An array of at most so many entries; what is behind them is lost where that is asked for."""
    if most is None or len(array) <= most:
        return array
    if cut:
        return array[:most]
    do = f"{do}, or set cut=True to lose what is behind, or on_bad_example to skip it"
    raise ShardError(complaint(where, expected=f"at most {most} entries", found=f"{len(array)}", do=do))


def _stacked(examples: Sequence[Example], name: str) -> NDArray[Any]:
    """A field that has one form."""
    _refuse_other_forms(examples, name, 0)
    values = [example.values[name] for example in examples]
    plain = values[0].dtype.kind in "biufc"
    return np.stack(values) if plain else objects_in([value[()] for value in values])


def _padded(examples: Sequence[Example], pad: Pad) -> Arrays:
    """One field, padded, and its lengths."""
    _refuse_other_forms(examples, pad.field, 1)
    values: list[NDArray[Any]] = [example.values[pad.field] for example in examples]
    lengths = np.array([len(value) for value in values], np.int64)
    shape = (len(values), pad.padded_length(int(lengths.max())), *values[0].shape[1:])
    filling = _filling(f"{examples[0].where}, field {pad.field!r}, st.Pad", pad.value, values[0].dtype)
    array = np.full(shape, filling, values[0].dtype)
    for row, value in zip(array, values, strict=True):
        row[: len(value)] = value
    return {pad.field: array, pad.length_field: lengths}


def _filling(where: str, value: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The padding's value in the field's type.

    Raises:
        JobError: the type does not hold it.
    """
    exact = np.asarray(value)
    with np.errstate(invalid="ignore", over="ignore"):
        filling = exact.astype(dtype)
    if (dtype.kind in "biu" and filling != exact) or bool(np.isfinite(exact) & ~np.isfinite(filling)):
        do = "choose another value, or bring the field to a type that holds it in data.map"
        raise JobError(complaint(where, expected=f"a value of {dtype}", found=f"{value}", do=do))
    return filling


def _same_fields(examples: Sequence[Example]) -> list[str]:
    """The fields of all examples.

    Raises:
        ShardError: one has others than the first.
    """
    first = examples[0]
    for example in examples:
        if example.values.keys() != first.values.keys():
            expected = f"the fields {', '.join(first.values)} as in {first.where}"
            do = "return the same ones from data.map and data.augment"
            raise ShardError(complaint(example.where, expected=expected, found=", ".join(example.values), do=do))
    return list(first.values)


def _refuse_other_forms(examples: Sequence[Example], name: str, axes: int, advice: str = "") -> None:
    """Raises `ShardError` where a field's type or its shape from axis ``axes`` on is not the first example's.

    Args:
        advice: for fields whose lengths differ, where it is not to pad them.
    """
    first = examples[0].values[name]
    for example in examples:
        value = example.values[name]
        if value.dtype != first.dtype or value.ndim != first.ndim or value.shape[axes:] != first.shape[axes:]:
            expected = f"{_form(first)} as in {examples[0].where}" + (", but for the first axis" if axes else "")
            differ = value.dtype == first.dtype and value.ndim and value.shape[1:] == first.shape[1:]
            pad = advice or f"pad it with st.Pad({name!r}) in data.collate"
            do = pad if differ else "bring all to one form in data.map"
            where = f"{example.where}, field {name!r}"
            raise ShardError(complaint(where, expected=expected, found=_form(value), do=do))


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _column(value: Any) -> NDArray[Any]:
    """A field of a batch as an array of its own; of texts, bytes and dicts as one of objects."""
    if isinstance(value, list | tuple) and any(isinstance(each, FORMLESS) for each in value):
        return objects_in(value)
    return np.array(np.asarray(value), order="C")  # a copy: the function may keep its own
