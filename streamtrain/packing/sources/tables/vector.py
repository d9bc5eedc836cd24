"""Which columns of numbers go side by side in one vector, and of which type: the narrowest that holds all exactly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

EXACT = {"float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}
"""Up to here a type of decimals holds every whole number."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Numbers:
    """What the type of a column of numbers must hold.

    Attributes:
        dtype: of the values as they are read.
        low, high: smallest and largest value.
        missing: whether NaN stands among them, or a mean.
        text: whether they come from a text, so that no type of their own binds them.
        single: whether float32 holds all of them.
    """

    dtype: str
    low: int | float
    high: int | float
    missing: bool = False
    text: bool = False
    single: bool = False

    @property
    def whole(self) -> bool:
        """Whether the type is one of whole numbers."""
        return np.dtype(self.dtype).kind in "iu"

    @property
    def decimals(self) -> str | None:
        """The narrowest type of decimals that holds all; ``None`` where there is none."""
        if self.whole:
            largest = max(abs(self.low), abs(self.high))
            return next((kind for kind, most in EXACT.items() if largest <= most), None)
        return "float32" if self.text and self.single else self.dtype


def vector_of(columns: Mapping[Key, Numbers], asked: str | None = None) -> tuple[str, tuple[Key, ...]]:
    """The vector's type, and the columns that are in it; the others need a field of their own.

    Args:
        columns: candidates.
        asked: the type that was asked for; it is taken, and rounds what it does not hold.
    """
    if asked is not None:
        return asked, tuple(columns)
    if all(column.whole and not column.missing and not column.text for column in columns.values()):
        return _whole(columns)
    kinds = {key: column.decimals for key, column in columns.items()}
    taken = [np.dtype(kind) for kind in kinds.values() if kind is not None]
    if all(column.whole or column.text for column in columns.values()):
        taken.append(np.dtype(np.float32))  # nobody asked for halves
    members = tuple(key for key, kind in kinds.items() if kind is not None)
    return np.result_type(*taken).name, members


def _whole(columns: Mapping[Key, Numbers]) -> tuple[str, tuple[Key, ...]]:
    """Whole numbers in the type that their types have in common; those beyond it by themselves."""
    common = np.result_type(*(np.dtype(column.dtype) for column in columns.values()))
    if common.kind in "iu":
        return common.name, tuple(columns)
    most = np.iinfo(np.int64).max
    return "int64", tuple(key for key, column in columns.items() if column.high <= most)
