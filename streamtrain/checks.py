"""Checks of declared settings: each raises the one line that a wrong setting is answered with."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from streamtrain.errors import ConfigError, complaint


def require(holds: bool, setting: str, expected: str, found: object, do: str) -> None:
    """Raises `ConfigError` unless ``holds``."""
    if not holds:
        raise ConfigError(complaint(setting, expected=expected, found=repr(found), do=do))


def require_finite(setting: str, value: float, *, positive: bool) -> None:
    """A finite number, above 0 or at least 0."""
    bound = "above 0" if positive else "of at least 0"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    holds = number and math.isfinite(value) and (value > 0 if positive else value >= 0)
    require(holds, setting, f"a finite number {bound}", value, f"choose a number {bound}")


def require_count(setting: str, value: int | None, lowest: int = 1) -> None:
    """A whole number, or ``None``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    holds = value is None or (whole and value >= lowest)
    require(holds, setting, f"a whole number of at least {lowest}", value, f"choose {lowest} or more")


def require_part(setting: str, value: float) -> None:
    """A number of at least 0 and below 1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 <= value < 1, setting, "at least 0 and below 1", value, "choose such a number, e.g. 0.9")


def require_betas(setting: str, values: tuple[float, float]) -> None:
    """Two numbers of at least 0 and below 1."""
    two = isinstance(values, (tuple, list)) and len(values) == 2
    require(two, setting, "two numbers", values, "e.g. (0.9, 0.999)")
    for value in values:
        require_part(setting, value)


def require_declared(declaration: Any, prefix: str = "") -> None:
    """Every field of a dataclass has the kind of value that its annotation says.

    It looks at None, booleans, numbers, texts and words to choose from. Anything else, and what numbers may be, is for
    the declaration's own checks.

    Args:
        prefix: of the settings' names.
    """
    hints = _hints(declaration.__class__)
    for field in dataclasses.fields(declaration):
        value = getattr(declaration, field.name)
        kinds = _kinds(hints.get(field.name, Any))
        if not any(_fits(value, kind) for kind in kinds):
            expected = " or ".join(dict.fromkeys(_named(kind) for kind in kinds))
            default = "" if field.default is dataclasses.MISSING else f" for {field.default!r}"
            require(False, f"{prefix}{field.name}", expected, value, f"choose one, or leave it out{default}")


@functools.cache
def _hints(declaration: Any) -> Mapping[str, Any]:
    try:
        return get_type_hints(declaration)
    except NameError:  # a user's own class, with a name that only its type checker knows
        return {}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: object, kind: Any) -> bool:
    if kind is Any or kind is object:
        return True
    if get_origin(kind) is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, types.NoneType):
        return isinstance(value, kind)
    return value is not None


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", types.NoneType: "None"}


def _named(kind: Any) -> str:
    """A kind of value in words."""
    if get_origin(kind) is Literal:
        *words, last = map(str, get_args(kind))
        return f"one of {', '.join([*words, last])}" if len(words) > 1 else " or ".join([*words, last])
    if kind in _KINDS:
        return _KINDS[kind]
    return "a function" if "Callable" in str(kind) else f"a {getattr(get_origin(kind) or kind, '__name__', 'value')}"
