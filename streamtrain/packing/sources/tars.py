"""Existing WebDataset tars: members are taken over byte by byte, under new keys."""

from __future__ import annotations

import bisect
import glob
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.sources.source import Example, Source
from streamtrain.shards.codec import Raw
from streamtrain.shards.manifest import field_name
from streamtrain.shards.shard import examples as scan


def from_pattern(pattern: str, label: str | None) -> Source:
    """Tars by a pattern with ``{000..009}``, ``{a,b}`` or ``*``."""
    files = [Path(name) for part in _braces(pattern) for name in (sorted(glob.glob(part)) if "*" in part else [part])]
    if not files:
        raise SourceError(complaint(pattern, expected="tars", found="no file of that pattern", do="check the pattern"))
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise SourceError(complaint(str(missing), expected="a tar", found="no such file", do="check the pattern"))
    return from_tars(files, pattern, label)


def from_tars(files: Sequence[Path], name: str, label: str | None) -> Source:
    """Examples of all tars, one after the other; a field is named by its extension."""

    starts = [0, *itertools.accumulate(sum(1 for _ in scan(file)) for file in files)]
    if label is None:
        first = next(_examples(files, starts[:-1], 0), None)
        numbers = (
            [] if first is None else [n for n, raw in first[1].items() if raw.extension.rpartition(".")[2] == "cls"]
        )
        label = numbers[0] if len(numbers) == 1 else None
    return Source(
        name,
        partial(_examples, tuple(files), tuple(starts[:-1])),
        starts[-1],
        label,
        borders=tuple(starts[:-1]),
        bytes=sum(file.stat().st_size for file in files),
        files=tuple(files),
    )


def _examples(files: Sequence[Path], starts: Sequence[int], start: int) -> Iterator[Example]:
    """The examples from number ``start`` on; ``starts`` are the numbers of each file's first."""
    begin = max(0, bisect.bisect_right(starts, start) - 1)
    for file, first in zip(files[begin:], starts[begin:], strict=True):
        with file.open("rb") as opened:
            for key, members in itertools.islice(scan(file), max(0, start - first), None):
                values = {}
                for extension, (at, size) in members.items():
                    opened.seek(at)
                    if field_name(extension) in values:
                        raise _clash(file, key, members)
                    values[field_name(extension)] = Raw(extension, opened.read(size))
                yield f"{file}, example {key!r}", values


def _clash(file: Path, key: str, members: Mapping[str, object]) -> SourceError:
    return SourceError(
        complaint(
            f"{file}, example {key!r}",
            expected="one member for a field, named by what stands before the last dot",
            found=", ".join(f".{extension}" for extension in sorted(members)),
            do="rename one, e.g. .seg.png to .mask.png",
        )
    )


def _braces(pattern: str) -> list[str]:
    """``a{1..3}`` and ``a{x,y}`` written out."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    low, dots, high = found[1].partition("..")
    numbers = dots and low.isdigit() and high.isdigit()
    parts = [str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)] if numbers else found[1].split(",")
    return [whole for part in parts for whole in _braces(pattern[: found.start()] + part + pattern[found.end() :])]
