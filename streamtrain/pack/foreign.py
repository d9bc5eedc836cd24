"""Shards that `pack` did not write: a manifest made by looking at them. Their order is what it is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from streamtrain.errors import ManifestError, ShardError, complaint, one_line
from streamtrain.pack.codec import form_of
from streamtrain.pack.manifest import SPLITS, Field, Manifest, Split, field_name
from streamtrain.pack.shard import examples
from streamtrain.pack.shard_list import Shard, ShardList


def scan_foreign(folder: Path) -> Manifest:
    """The manifest of a folder with ``train/*.tar``, ``validation/*.tar`` and perhaps ``test/*.tar``.

    Fields are told by the first example; numbers (``.cls``) are all read, for their range and counts.
    Costs one scan of all headers.

    Raises:
        ManifestError: no shards. ShardError: a shard that readers would understand differently.
    """
    files = {split: sorted((folder / split).glob("*.tar"), key=_natural) for split in SPLITS}
    files = {split: found for split, found in files.items() if found}
    if "train" not in files:
        expected = "manifest.json, or train/*.tar and validation/*.tar"
        raise ManifestError(complaint(str(folder), expected=expected, found="neither", do="run `streamtrain pack`"))
    fields = _fields(files["train"][0])
    numbers = [field for field in fields if field.member.rpartition(".")[2] == "cls"]
    values: dict[str, Counter[int]] = {field.name: Counter() for field in numbers}
    label = numbers[0].name if len(numbers) == 1 else None
    splits = {}
    for split, found in files.items():
        before = Counter(values[label]) if label else Counter()
        shards = ShardList(_shard(folder, file, fields, numbers, values) for file in found)
        counts = values[label] - before if label else Counter()
        splits[split] = Split(shards, dict(counts))
    ranged = tuple(
        Field(f.name, f.member, f.dtype, f.shape, min(values[f.name]), max(values[f.name])) if f.name in values else f
        for f in fields
    )
    return Manifest(ranged, splits, "unknown", label=label, name=folder.name)


def _fields(file: Path) -> tuple[Field, ...]:
    for key, members in examples(file):
        with file.open("rb") as opened:
            fields = []
            for extension, (start, size) in members.items():
                opened.seek(start)
                try:
                    form = form_of(extension, opened.read(size))
                except (OSError, ValueError) as error:
                    where = f"{file}, example {key!r}"
                    do = "mend it or pack again"
                    raise ShardError(
                        complaint(where, expected=f"a readable .{extension}", found=one_line(error), do=do)
                    ) from None
                fields.append(Field(field_name(extension), extension, *form))
            if len({field.name for field in fields}) < len(fields):
                found = ", ".join(f".{extension}" for extension in members)
                expected = "one member for a field, named by what stands before the last dot"
                raise ShardError(complaint(f"{file}, example {key!r}", expected=expected, found=found, do="rename one"))
            return tuple(fields)
    raise ShardError(complaint(str(file), expected="examples", found="none", do="remove the shard"))


def _shard(
    folder: Path, file: Path, fields: tuple[Field, ...], numbers: list[Field], values: dict[str, Counter[int]]
) -> Shard:
    expected = {field.member for field in fields}
    keys = []
    with file.open("rb") as opened:
        for key, members in examples(file):
            if members.keys() != expected:
                found = ", ".join(f".{name}" for name in sorted(members))
                wanted = ", ".join(f".{name}" for name in sorted(expected))
                where = f"{file}, example {key!r}"
                raise ShardError(complaint(where, expected=f"the members {wanted}", found=found, do="pack again"))
            keys.append(key)
            for name, number in _numbers(opened.fileno(), file, key, members, numbers):
                values[name][number] += 1
    if not keys:
        raise ShardError(complaint(str(file), expected="examples", found="none", do="remove the shard"))
    return Shard(str(file.relative_to(folder)), len(keys), file.stat().st_size, "", keys[0], keys[-1])


def _numbers(
    descriptor: int, file: Path, key: str, members: dict[str, tuple[int, int]], fields: list[Field]
) -> Iterator[tuple[str, int]]:
    for field in fields:
        start, size = members[field.member]
        text = os.pread(descriptor, size, start).strip()
        try:
            yield field.name, int(text)
        except ValueError:
            where = f"{file}, example {key!r}, member .{field.member}"
            raise ShardError(complaint(where, expected="a whole number", found=repr(text[:20]), do="mend it")) from None


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts ``shard-10`` after ``shard-9``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", file.name)]
