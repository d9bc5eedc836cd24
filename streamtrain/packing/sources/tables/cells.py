"""The cells of a column, out of Arrow: numbers as arrays, others as lists, and which of them hold nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.tables.arrow_forms import (
    SAFE_DIGITS,
    ArrowForm,
    What,
    arrow_form,
    is_list,
    is_media,
    plain,
    plain_type,
)
from streamtrain.shards.codec import Ragged

if TYPE_CHECKING:
    import pyarrow as pa

    from streamtrain.packing.sources.tables.rows import Rows

EMPTY = ("", "-NaN", "-nan", "#N/A", "#NA", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
"""Texts that stand for no number."""


@dataclass(frozen=True)
class Leaf:
    """A column, or a part of a column of structs.

    Attributes:
        path: the column's name, and those of the parts that lead to this one.
        field: the name that is wanted for its field.
        kind: its type, as the source has it.
        form: what becomes of that, or of the type that was asked for.
        asked: the type that was asked for.
        optional: whether it is the path of an image or a sound, which may be missing.
        filled: whether an empty text is as good as none, as a label's is.
    """

    path: tuple[str, ...]
    field: str
    kind: pa.DataType
    form: ArrowForm
    asked: str | None = None
    optional: bool = False
    filled: bool = False

    @property
    def name(self) -> str:
        """The column's name as messages have it."""
        return ".".join(self.path)


@dataclass(frozen=True)
class Cells:
    """Values of consecutive rows, first axis the row, and which are missing: their values mean nothing then.

    Texts and bytes are Arrow's, and null where they are missing; lists of numbers of one axis are `Ragged` where their
    lengths differ. ``gaps`` are places without a value inside of lists, by the row: how many.
    """

    values: NDArray[Any] | Ragged | pa.Array | list[Any]
    missing: NDArray[np.bool_]
    gaps: NDArray[np.int64] | None = None


def leaves_of(name: str, kind: pa.DataType, asked: str | None) -> Iterator[Leaf]:
    """The column itself, or the parts of a struct that has no form of its own."""
    yield from _leaves((name,), name, kind, asked)


def _leaves(path: tuple[str, ...], field: str, kind: pa.DataType, asked: str | None) -> Iterator[Leaf]:
    form = arrow_form(kind)
    if form.what != "parts" or asked:
        yield Leaf(path, field, kind, form if asked is None else _asked_form(asked), asked)
        return
    struct = plain_type(kind)
    media = is_media(struct)
    for part in struct:
        own = field if media and part.name == "bytes" else f"{field}_{part.name}"
        for leaf in _leaves((*path, part.name), own, part.type, None):
            optional = media and part.name == "path"
            yield Leaf(leaf.path, leaf.field, leaf.kind, leaf.form, optional=optional)


def _asked_form(asked: str) -> ArrowForm:
    return ArrowForm("text" if asked in ("text", "category") else "number")


def read_cells(leaf: Leaf, rows: Rows) -> Cells:
    """The column's cells in these rows.

    Raises:
        SourceError: a cell that is not of the type that was asked for; names the row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = plain(rows.batch.column(leaf.path[0]))
    for part in leaf.path[1:]:
        array = plain(pc.struct_field(array, part))
    if leaf.asked is not None:
        array = _of_type(leaf, rows, array)
    if leaf.filled and leaf.form.what == "text":
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
    if leaf.form.what == "text":
        _check_utf8(leaf, rows, array)
    return cells_of(leaf.form, array)


def cells_of(form: ArrowForm, array: pa.Array) -> Cells:
    """The cells of a plain array."""
    import pyarrow as pa

    missing = np.asarray(array.is_null())
    if form.what in ("number", "boolean", "decimal", "time"):
        values, absent = _scalars(form.what, array)
        return Cells(values, absent)
    if form.what == "interval":
        return Cells(_intervals(array), missing)
    if form.what == "tensor":
        return _tensors(array, missing)
    if form.what == "array":
        return _nested(form, array, missing)
    if form.what == "bytes":
        return Cells(array.cast(pa.large_binary()), missing)
    return Cells(array if form.what == "text" else _objects(array), missing)


def _objects(array: pa.Array) -> list[Any]:
    """Python's own: pyarrow 19 gives half-precision numbers as numpy's, which JSON has not."""
    values: list[Any] = array.to_pylist()
    return [_plain(value) for value in values] if "halffloat" in str(array.type) else values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _check_utf8(leaf: Leaf, rows: Rows, texts: pa.Array) -> None:
    """Raises `SourceError` for a text that is no UTF-8; a file may hold such, since its readers do not look."""
    import pyarrow as pa

    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        for row, data in enumerate(texts.cast(pa.large_binary()).to_pylist()):
            try:
                (data or b"").decode()
            except UnicodeDecodeError as error:
                where, do = f"{rows.place(row)}, column {leaf.name!r}", "convert it to UTF-8, or to a column of bytes"
                raise SourceError(complaint(where, expected="text in UTF-8", found=one_line(error), do=do)) from None
        raise


def _of_type(leaf: Leaf, rows: Rows, array: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    asked = leaf.asked or ""
    target = pa.string() if asked in ("text", "category") else pa.from_numpy_dtype(np.dtype(asked))
    if target != pa.string() and pa.types.is_string(array.type):
        array = pc.if_else(pc.is_in(array, value_set=pa.array(EMPTY)), pa.scalar(None, pa.string()), array)
    try:
        return _cast(array, target)
    except (pa.ArrowException, ValueError):
        for row in range(len(array)):
            try:
                _cast(array.slice(row, 1), target)
            except (pa.ArrowException, ValueError) as error:
                place, found = f"{rows.place(row)}, column {leaf.name!r}", f"{array[row].as_py()!r}: {one_line(error)}"
                do = f"correct it, or set another --types {leaf.name}=TYPE"
                raise SourceError(complaint(place, expected=asked, found=found[:200], do=do)) from None
        raise


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Rounds to a narrower type of decimals, since it was asked for; loses nothing else."""
    import pyarrow as pa

    if pa.types.is_floating(target) and not pa.types.is_string(array.type):
        return array.cast(target, safe=False)
    return array.cast(target)


def _scalars(what: What, array: pa.Array) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values, with NaN or 0 where there is none, and whether there is none."""
    import pyarrow as pa

    missing = np.asarray(array.is_null())
    if what == "decimal":  # by way of text, since the direct way rounds otherwise than Python does
        values = array.cast(pa.string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values, missing
    if what == "time":
        wide = array.type.bit_width == 64
        array = array.view(pa.int64() if wide else pa.int32()).cast(pa.int64())
    if what == "boolean":
        array = array.cast(pa.uint8())
    if array.null_count and not pa.types.is_floating(array.type):
        array = array.fill_null(0)
    values = array.to_numpy(zero_copy_only=False)
    return values, missing | np.isnan(values) if values.dtype.kind == "f" else missing


def _intervals(array: pa.Array) -> NDArray[np.int64]:
    """Months, days and nanoseconds, shape (rows, 3)."""
    parts = np.dtype([("months", "<i4"), ("days", "<i4"), ("ns", "<i8")])
    stored = np.frombuffer(array.buffers()[1], parts)[array.offset : array.offset + len(array)]
    return np.stack([stored[name].astype(np.int64) for name in parts.names or ()], axis=1)


def _tensors(array: pa.Array, missing: NDArray[np.bool_]) -> Cells:
    there = array.filter(array.is_valid()) if missing.any() else array
    found = there.to_numpy_ndarray()
    values = np.zeros((len(array), *found.shape[1:]), found.dtype)
    values[~missing] = found
    return Cells(values, missing)


def _nested(form: ArrowForm, array: pa.Array, missing: NDArray[np.bool_]) -> Cells:
    """Lists of numbers: one array where all have one shape, else an array or, where it has no shape, a list a row."""
    import pyarrow.compute as pc

    levels: list[NDArray[np.int64]] = []
    inner_gaps: list[NDArray[np.bool_]] = []
    while is_list(array.type):
        inner_gaps.append(np.asarray(array.is_null()))
        levels.append(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        array = plain(array.flatten())
    values, gap = _scalars(form.entries or "number", array)
    gaps = _per_row(levels, [*inner_gaps[1:], gap])
    uniform = [len(lengths) > 0 and bool((lengths == lengths[0]).all()) for lengths in levels]
    if all(uniform) and not missing.any():
        shape = tuple(int(lengths[0]) for lengths in levels)
        return Cells(values.reshape(len(missing), *shape), missing, gaps)
    if len(levels) == 1:
        return Cells(Ragged(values, levels[0], "array"), missing, gaps)
    return Cells(_ragged(levels, values), missing, gaps)


def _per_row(levels: Sequence[NDArray[np.int64]], gaps: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Places without a value below each row, where ``gaps[k]`` tells of those that lie ``k + 1`` levels below."""
    below = np.zeros(len(gaps[-1]), np.int64)
    for lengths, gap in zip(reversed(levels), reversed(gaps), strict=True):
        ends = np.cumsum(lengths)
        sums = np.concatenate([[0], np.cumsum(gap + below)])
        below = sums[ends] - sums[ends - lengths]
    return below


def _ragged(levels: Sequence[NDArray[np.int64]], values: NDArray[Any]) -> list[Any]:
    """A row each: an array where it has a shape, else lists of arrays."""
    items: list[Any] = _split(values, levels[-1])
    for depth, lengths in enumerate(reversed(levels[:-1]), start=2):
        ends = [0, *accumulate(lengths.tolist())]
        items = [_stacked(items[start:stop], depth, values.dtype) for start, stop in pairwise(ends)]
    return items


def _split(values: NDArray[Any], lengths: NDArray[np.int64]) -> list[Any]:
    ends = [0, *accumulate(lengths.tolist())]
    return [values[start:stop] for start, stop in pairwise(ends)]


def _stacked(items: list[Any], depth: int, dtype: np.dtype[Any]) -> Any:
    """Arrays of one shape as one; of other shapes as a list."""
    if not items:
        return np.empty((0,) * depth, dtype)
    arrays = all(isinstance(item, np.ndarray) for item in items)
    return np.stack(items) if arrays and len({item.shape for item in items}) == 1 else items


def as_lists(value: Any) -> Any:
    """What `_ragged` gives as JSON's lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [as_lists(item) for item in value]


def exact_decimals(array: pa.Array) -> NDArray[np.bool_]:
    """Whether the nearest float64 tells each from every other decimal of its type; missing ones count as exact."""
    from decimal import Decimal

    kind = array.type
    exact = np.ones(len(array), bool)
    if kind.precision <= SAFE_DIGITS:
        return exact
    values, missing = _scalars("decimal", array)
    large = np.flatnonzero(~missing & (np.abs(values) >= math.pow(10, SAFE_DIGITS - kind.scale)))
    for row in large.tolist():
        exact[row] = Decimal(repr(float(values[row]))) == array[row].as_py()
    return exact
