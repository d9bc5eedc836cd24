"""What people call the splits: in the names of folders and files, of Hugging Face's splits, and in columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names in lower case, and the split that each means."""


def split_named(name: object) -> str | None:
    """The split that is meant by a name, if it is one of a split."""
    return NAMES.get(str(name).strip().lower())


def splits_of_files(names: Sequence[str]) -> list[str] | None:
    """The split of each file, by what stands before the first ``-``, ``_`` or dot of its name, or by a folder's name.

    ``None`` where one of them names no split, or all name the same.
    """
    found = [_split_of_file(name) for name in names]
    if any(split is None for split in found) or len(set(found)) < 2:
        return None
    return [split for split in found if split is not None]


def stops_of(parts: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Names and sizes of consecutive parts as names and ends; neighbours of one name are one part."""
    stops: list[tuple[str, int]] = []
    end = 0
    for name, size in parts:
        end += size
        if stops and stops[-1][0] == name:
            stops.pop()
        stops.append((name, end))
    return tuple(stops)


def _split_of_file(name: str) -> str | None:
    *folders, file = name.split("/")
    by_folder = [split for split in map(split_named, folders) if split is not None]
    return by_folder[-1] if by_folder else split_named(re.split(r"[-_.]", file)[0])
