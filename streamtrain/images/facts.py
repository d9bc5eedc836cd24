"""What `pack` has seen of all images of a field: how many of each encoding and kind, how large, and what was odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamtrain.images.headers import Header
from streamtrain.images.kinds import KINDS, Kind

TURNED = "turned upright by EXIF"
FIRST_FRAME = "the first of several frames"

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageFacts:
    """See the module.

    Attributes:
        encodings: images by their content's extension, e.g. ``{"jpg": 900, "png": 100}``.
        kinds: images by the name of their kind, e.g. ``{"rgb": 990, "grey": 10}``.
        smallest, largest: the least and the most height, and the least and the most width.
        notes: images by what else there is to say of them.
    """

    encodings: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)
    smallest: Size = (0, 0)
    largest: Size = (0, 0)
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """All of them."""
        return sum(self.kinds.values())

    @property
    def kind(self) -> Kind | None:
        """The kind of all, where they have one."""
        return KINDS[next(iter(self.kinds))] if len(self.kinds) == 1 else None

    @property
    def dtype(self) -> str | None:
        """The type of all, where they have one."""
        found = {KINDS[name].dtype for name in self.kinds}
        return found.pop() if len(found) == 1 else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of all, where they have one."""
        return self.kind.shape(*self.largest) if self.kind and self.smallest == self.largest else None

    def __add__(self, other: ImageFacts) -> ImageFacts:
        if not other.images or not self.images:
            return self if self.images else other
        return ImageFacts(
            _sum(self.encodings, other.encodings),
            _sum(self.kinds, other.kinds),
            _each(min, self.smallest, other.smallest),
            _each(max, self.largest, other.largest),
            _sum(self.notes, other.notes),
        )


def facts_of(header: Header, notes: Mapping[str, int] | None = None) -> ImageFacts:
    """Of one image, and of what else there is to say of it."""
    size = header.height, header.width
    said = {TURNED: int(header.orientation > 1), FIRST_FRAME: int(header.frames), **(notes or {})}
    found = {text: count for text, count in sorted(said.items()) if count}
    return ImageFacts({header.encoding: 1}, {header.kind.name: 1}, size, size, found)


def parse_facts(entry: Mapping[str, Any]) -> ImageFacts:
    """The facts out of JSON's types.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: they are none.
    """
    kinds = _counts(entry["kinds"])
    if kinds.keys() - KINDS.keys():
        raise ValueError(f"kinds {', '.join(kinds)}")
    smallest, largest = ((_count(height), _count(width)) for height, width in (entry["smallest"], entry["largest"]))
    return ImageFacts(_counts(entry["encodings"]), kinds, smallest, largest, _counts(entry["notes"]))


def _counts(entry: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): _count(count) for name, count in entry.items()}


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(one) + Counter(other)).items()))


def _each(choose: Any, one: Size, other: Size) -> Size:
    return choose(one[0], other[0]), choose(one[1], other[1])
