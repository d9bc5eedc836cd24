"""Existing WebDataset tars: members are taken over byte by byte, under new keys."""

from __future__ import annotations

import bisect
import dataclasses
import glob
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from streamtrain.errors import SourceError, complaint
from streamtrain.images.kinds import is_image
from streamtrain.packing.sources.source import Column, Example, Source
from streamtrain.shards.codec import ImageFile, Raw
from streamtrain.shards.manifest import field_name
from streamtrain.shards.shard import examples as scan

BESIDE = (".parquet", ".json", ".idx", ".txt", "")
"""Suffixes of what tools leave beside tars, e.g. img2dataset: what is in them is in the tars too, or about them."""


def from_folder(found: Sequence[Path], name: str, label: str | None) -> Source:
    """The tars of a folder; what lies beside them is left out and reported."""
    source = from_tars([file for file in found if file.suffix.lower() == ".tar"], name, label)
    beside = Counter(file.suffix.lower() or file.name for file in found if file.suffix.lower() != ".tar")
    columns = (
        Column(suffix, f"{count:,} files", None, "left out: beside the tars")
        for suffix, count in sorted(beside.items())
    )
    return dataclasses.replace(source, columns=(*source.columns, *columns))


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
    """Examples of all tars, one after the other; a field is named by its extension.

    Images of several extensions, of which every example has one, are one field: ``image``, or what stands before.
    """
    counts = []
    groups = set()
    for file in files:
        found = [frozenset(members) for _, members in scan(file, alike=False)]
        groups.update(found)
        counts.append(len(found))
    starts = [0, *itertools.accumulate(counts)]
    mixed = _mixed_images(files, groups)
    if label is None:
        labels = [name for name in (next(iter(groups)) if groups else ()) if name.rpartition(".")[2] == "cls"]
        label = field_name(labels[0]) if len(labels) == 1 else None
    return Source(
        name,
        partial(_examples, tuple(files), tuple(starts[:-1]), mixed),
        starts[-1],
        label,
        borders=tuple(starts[:-1]),
        bytes=sum(file.stat().st_size for file in files),
        files=tuple(files),
    )


def _mixed_images(files: Sequence[Path], groups: set[frozenset[str]]) -> frozenset[str]:
    """Fields of images that have not the same extension in every example; ``groups`` are all examples' extensions.

    Raises:
        ShardError: the examples differ in more than that.
    """
    if len(groups) <= 1:
        return frozenset()
    named = {frozenset(map(_image_field, group)) for group in groups}
    if len(named) > 1 or any(len(group) != len(fields) for group in groups for fields in named):
        for file in files:  # says which is the first
            for _ in scan(file):
                pass
        return frozenset()
    once = frozenset.intersection(*groups)
    return frozenset(_image_field(name) for group in groups for name in group - once)


def _image_field(extension: str) -> str:
    """The field of an image whose extension may differ; of anything else the extension."""
    return extension.rpartition(".")[0] or "image" if is_image(extension) else extension


def _examples(files: Sequence[Path], starts: Sequence[int], mixed: frozenset[str], start: int) -> Iterator[Example]:
    """The examples from number ``start`` on; ``starts`` are the numbers of each file's first."""
    begin = max(0, bisect.bisect_right(starts, start) - 1)
    for file, first in zip(files[begin:], starts[begin:], strict=True):
        with file.open("rb") as opened:
            for key, members in itertools.islice(scan(file, alike=not mixed), max(0, start - first), None):
                values: dict[str, Raw | ImageFile] = {}
                for extension, (at, size) in members.items():
                    opened.seek(at)
                    data = opened.read(size)
                    of_several = _image_field(extension) in mixed
                    name = _image_field(extension) if of_several else field_name(extension)
                    if name in values:
                        raise _clash(file, key, members)
                    values[name] = ImageFile(data) if of_several else Raw(extension, data)
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
