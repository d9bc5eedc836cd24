"""What every kind of source gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Source:
    """Examples in a fixed order.

    Attributes:
        name: as the user gave it.
        examples: a new iterator over (place, values): ``place`` names the example in errors.
        count: how many they are, where that is known beforehand.
        label: the field of class labels, if there is one.
        classes: names of the values of a field that stand for classes.
        columns: the same examples as arrays, a field each, first axis the example; where the source is arrays.
    """

    name: str
    examples: Callable[[], Iterator[tuple[str, dict[str, Any]]]]
    count: int | None = None
    label: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: Mapping[str, NDArray[Any]] | None = None
