"""What a checkpoint may hold: values that declare their state as dataclass fields, as JSON and back, bit by bit.

No pickle: `from_json` builds the classes that the annotations name and no other, so a checkpoint cannot ask for one.
A class with state of another form gives `to_json` and `from_json` of its own.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

JSON = None | bool | int | float | str | list[Any] | dict[str, Any]


class Stored:
    """Base of a dataclass whose fields, all of them, are what a checkpoint holds of it.

    A field's type is ``None``, a number, a string, another `Stored`, or a list, tuple, deque, dict or union with
    ``None`` of such. Floats keep their bits, infinities and NaN too.
    """

    def to_json(self) -> dict[str, Any]:
        """The fields by name, in JSON's types.

        Raises:
            TypeError: a value in them declares nothing.
        """
        kind: Any = type(self)
        return {name: _in_json(getattr(self, name)) for name in _types(kind)}

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """The value that gave ``found``.

        Raises:
            ValueError: none of this class did.
        """
        kind: Any = cls
        declared = _types(kind)
        if not isinstance(found, dict) or found.keys() != declared.keys():
            raise ValueError(f"not a checkpoint's {cls.__name__}: {str(found)[:60]}")
        return cls(**{name: _of_type(kind, found[name]) for name, kind in declared.items()})


@functools.cache  # the annotations are strings, and slow to read
def _types(cls: Any) -> Mapping[str, Any]:
    """The declared fields of a class and their types, in order."""
    if not is_dataclass(cls):
        raise TypeError(f"{cls.__name__} declares no fields, so a checkpoint cannot hold it; make it a dataclass")
    hints = get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}


def _in_json(value: Any) -> JSON:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple() | deque():
            return [_in_json(each) for each in value]
        case dict():  # as pairs: JSON's own keys are strings only
            return [[_in_json(key), _in_json(each)] for key, each in value.items()]
        case Stored():
            return value.to_json()
    name = type(value).__name__
    raise TypeError(f"{name} declares nothing that a checkpoint could hold; derive it from streamtrain.stored.Stored")


def _of_type(kind: Any, value: Any) -> Any:
    """What a field of that type held, of which ``value`` is the JSON."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (each for each in get_args(kind) if each is not types.NoneType)
        return None if value is None else _of_type(kind, value)
    if isinstance(kind, type) and issubclass(kind, Stored):
        return kind.from_json(value)
    if origin in (list, tuple, deque, dict) and isinstance(value, list):
        return _several(origin, get_args(kind), value)
    # a float that is whole may have come as an int; the other way round, or a bool for a number, nothing did
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,) if isinstance(kind, type) else ()
    if kind in (bool, int, float, str) and isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        return value
    raise ValueError(f"not a checkpoint's value: {str(value)[:60]}, expected {getattr(kind, '__name__', kind)}")


def _several(origin: type, parts: tuple[Any, ...], value: list[Any]) -> Any:
    """A list, tuple, deque or dict out of its items."""
    if origin is dict:
        pair = tuple[parts[0], parts[1]]  # type: ignore[valid-type]
        return dict(_of_type(pair, each) for each in value)
    if origin is not tuple or parts[1:] == (Ellipsis,):
        return origin(_of_type(parts[0], each) for each in value)
    if len(parts) != len(value):
        raise ValueError(f"not a checkpoint's value: {str(value)[:60]}, expected {len(parts)} items")
    return tuple(_of_type(kind, each) for kind, each in zip(parts, value, strict=True))
