"""What an encoder is given beside plain values, and what it tells of those that it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict


class Seen(TypedDict):
    """A field's range, where it is integers, whether its examples' shapes vary, and its images; as JSON's types."""

    low: int | None
    high: int | None
    varies: bool
    images: dict[str, Any] | None


@dataclass(frozen=True)
class FieldNotes:
    """What a source knows of a field before its values are seen.

    Attributes:
        columns: names of the entries along the only axis, for a vector of columns of a table.
        unit: of its numbers, e.g. ``us since 1970-01-01 UTC``.
        missing: whether NaN stands for missing values; else it is refused.
        varies: whether its arrays have different lengths.
        means: its entries (0 of a single number) whose NaN the training examples' mean replaces in the end.
        wide: whether its whole numbers need 64 bits without sign, and are stored as arrays.
    """

    columns: tuple[str, ...] | None = None
    unit: str | None = None
    missing: bool = False
    varies: bool = False
    means: tuple[int, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Raw:
    """A member that is taken over unchanged, with its extension."""

    extension: str
    data: bytes


@dataclass(frozen=True)
class ImageFile:
    """An image as it lies in its file, of any encoding; what cannot be read as one is a bad example."""

    data: bytes
