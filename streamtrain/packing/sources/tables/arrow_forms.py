"""What becomes of each Arrow type: decided once, here; the table of it is in the README of `packing`.

A type's encoding (dictionary, runs, views, an extension's storage) changes nothing: `plain` takes it off, and
equal values become equal fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Scalar = Literal["number", "boolean", "decimal", "time", "interval", "text", "bytes"]
What = Literal[Scalar, "array", "tensor", "objects", "parts", "refused"]
EPOCH = "since 1970-01-01"
DATES = {"date32[day]": f"days {EPOCH}", "date64[ms]": f"ms {EPOCH}"}
IN_ARRAYS = ("number", "boolean", "decimal", "time")
"""What the entries of an array may be."""
SAFE_DIGITS = 15
"""A decimal of so many digits is told from all others of its type by its nearest float64."""
MEDIA = {"bytes", "path"}
"""Names of what Hugging Face's structs of images, sounds and videos hold."""


@dataclass(frozen=True)
class ArrowForm:
    """What the values of a type become.

    Attributes:
        what: a number, 0 or 1, a float64, an int64 with a unit, three int64, text, bytes, an array of the form
            ``entries``, an array of the type's shape, JSON, a field for each of its parts, or nothing.
        unit: of times.
        entries: what the entries of a list are.
    """

    what: What
    unit: str | None = None
    entries: What | None = None


def arrow_form(kind: pa.DataType) -> ArrowForm:
    """What becomes of a type."""
    import pyarrow as pa

    kind = plain_type(kind)
    if isinstance(kind, pa.FixedShapeTensorType):
        return ArrowForm("tensor")
    for what, tests in _tests().items():
        if any(test(kind) for test in tests):
            return ArrowForm(what, "months, days, ns" if what == "interval" else None)
    if (unit := _unit(kind)) is not None:
        return ArrowForm("time", unit)
    if is_list(kind):
        return _list_form(kind)
    if pa.types.is_null(kind) or _is_json(kind):
        return ArrowForm("objects")
    return ArrowForm("parts" if pa.types.is_struct(kind) else "refused")


def _tests() -> Mapping[What, Sequence[Callable[[Any], bool]]]:
    """Which of Arrow's types are which of the simplest forms."""
    from pyarrow import types

    return {
        "number": (types.is_integer, types.is_floating),
        "boolean": (types.is_boolean,),
        "decimal": (types.is_decimal,),
        "interval": (types.is_interval,),
        "text": (types.is_string, types.is_large_string),
        "bytes": (types.is_binary, types.is_large_binary, types.is_fixed_size_binary),
    }


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that `plain` gives."""
    import pyarrow as pa

    while True:
        if isinstance(kind, pa.FixedShapeTensorType):
            return kind
        if isinstance(kind, pa.Bool8Type):
            return pa.bool_()
        if isinstance(kind, pa.UuidType):
            return pa.string()
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif pa.types.is_string_view(kind):
            return pa.string()
        elif pa.types.is_binary_view(kind):
            return pa.binary()
        else:
            return kind


def plain(array: pa.Array) -> pa.Array:
    """The same values without dictionary, runs, views of text, or an extension's name."""
    import pyarrow as pa

    kind = array.type
    if isinstance(kind, pa.FixedShapeTensorType):
        return array
    if isinstance(kind, pa.Bool8Type):
        return array.cast(pa.bool_())
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary).take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        rows = np.arange(array.offset, array.offset + len(array))
        return plain(array.values).take(pa.array(np.searchsorted(np.asarray(array.run_ends), rows, side="right")))
    if pa.types.is_string_view(kind):
        return array.cast(pa.string())
    return array.cast(pa.binary()) if pa.types.is_binary_view(kind) else array


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's five types of lists."""
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(kind) for test in (*tests, *views))


def is_media(kind: pa.DataType) -> bool:
    """Whether it is Hugging Face's struct of an image, a sound or a video: its bytes, and its path."""
    import pyarrow as pa

    if not pa.types.is_struct(kind) or {field.name for field in kind} != MEDIA or kind.num_fields != len(MEDIA):
        return False
    forms = {field.name: arrow_form(field.type).what for field in kind}
    return forms == {"bytes": "bytes", "path": "text"}


def _list_form(kind: pa.DataType) -> ArrowForm:
    entries = plain_type(kind)
    while is_list(entries):
        entries = plain_type(entries.value_type)
    inner = arrow_form(entries)
    if inner.what == "decimal" and entries.precision > SAFE_DIGITS:
        return ArrowForm("refused")
    if inner.what in IN_ARRAYS:
        return ArrowForm("array", inner.unit, inner.what)
    return ArrowForm("objects" if _is_json(kind) else "refused")


def _unit(kind: pa.DataType) -> str | None:
    """What an int64 of a type of times counts."""
    import pyarrow as pa

    if str(kind) in DATES:
        return DATES[str(kind)]
    if pa.types.is_time(kind):
        return f"{kind.unit} since midnight"
    if pa.types.is_duration(kind):
        return str(kind.unit)
    if not pa.types.is_timestamp(kind):
        return None
    if kind.tz is None:
        return f"{kind.unit} {EPOCH}"
    return f"{kind.unit} {EPOCH} UTC" + ("" if kind.tz == "UTC" else f", of {kind.tz}")


def _is_json(kind: pa.DataType) -> bool:
    """Whether JSON holds its values, and gives them back as they are."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType | pa.UuidType):
        return False
    kind = plain_type(kind)
    test = pa.types
    if test.is_struct(kind):
        names = [field.name for field in kind]
        return len(set(names)) == len(names) and all(_is_json(field.type) for field in kind)
    if test.is_map(kind):
        return _is_json(kind.key_type) and _is_json(kind.item_type)
    if is_list(kind):
        return _is_json(kind.value_type)
    numbers = test.is_integer(kind) or test.is_floating(kind) or test.is_boolean(kind)
    return bool(numbers or test.is_string(kind) or test.is_large_string(kind) or test.is_null(kind))


def shown_type(kind: pa.DataType) -> str:
    """The type as reports name it, short."""
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:57]}…"
