"""Every setting of a declaration under its flag's name, and whether it may change when a run goes on from a checkpoint.

A field says so where it is declared: ``workers: MayChange[int] = 1``. Of a part, ``tracking: MayChange[Tracking]``, it
holds for all within. Whoever says nothing is refused at a resume, since a setting may change the bits of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

Value = TypeVar("Value")


@dataclass(frozen=True)
class AtResume:
    """What a field says of itself about runs that go on."""

    may_change: bool


MayChange = Annotated[Value, AtResume(may_change=True)]


class OneSetting:
    """A dataclass that is one setting, in words of its own (``str``), not a setting for each field."""


@dataclass(frozen=True)
class Setting:
    """One setting: ``name`` is its flag's, without dashes before it, as ``optimizer.lr``."""

    name: str
    value: Any
    may_change: bool


def settings_of(declaration: Any, prefix: str = "", *, may_change: bool = False) -> Iterator[Setting]:
    """Every setting of a dataclass and of those within it, in the order of their declaration.

    Args:
        prefix: of the names.
        may_change: whether all of them may.
    """
    if prefix in ("mode.", "optimizer."):  # which of them it is: a setting as well
        yield Setting(prefix[:-1], type(declaration).__name__.lower(), may_change)
    marked = _free(type(declaration))
    for field in dataclasses.fields(declaration):
        value = getattr(declaration, field.name)
        free = may_change or field.name in marked
        if dataclasses.is_dataclass(value) and not isinstance(value, OneSetting):
            yield from settings_of(value, f"{prefix}{field.name}.", may_change=free)
        else:
            yield Setting(f"{prefix}{field.name}", value, free)


def _free(declaration: type) -> frozenset[str]:
    """The fields that may change at a resume."""
    hints = get_type_hints(declaration, include_extras=True)
    marked = AtResume(may_change=True)
    return frozenset(name for name, hint in hints.items() if marked in getattr(hint, "__metadata__", ()))
