"""Shards that `pack` did not write: a manifest made by looking at them. Their order is what it is."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamtrain.errors import ManifestError, ShardError, complaint, one_line
from streamtrain.shards.codec import form_of
from streamtrain.shards.foreign.keys import Keys
from streamtrain.shards.foreign.walk import Trouble, walk
from streamtrain.shards.manifest import SPLITS, Field, Manifest, Split, field_name
from streamtrain.shards.shard import BLOCK, examples
from streamtrain.shards.shard_list import Shard, ShardList

OVER_USTAR = 8 << 30
"""Bytes of a member that a USTAR header cannot say any more."""


def scan_foreign(folder: Path) -> Manifest:
    """The manifest of a folder with ``train/*.tar``, ``validation/*.tar`` and perhaps ``test/*.tar``.

    Fields are told by the first example; numbers (``.cls``) are all read, for their range and counts.
    Costs one scan of all headers.

    Raises:
        ManifestError: no shards. ShardError: a shard that readers would understand differently.
    """
    files = shard_files(folder)
    fields = _fields(files["train"][0])
    numbers = [field for field in fields if field.member.rpartition(".")[2] == "cls"]
    values: dict[str, Counter[int]] = {field.name: Counter() for field in numbers}
    label = numbers[0].name if len(numbers) == 1 else None
    splits = {}
    for split, found in files.items():
        before = Counter(values[label]) if label else Counter()
        keys = Keys()
        shards = ShardList(_shard(folder, file, fields, numbers, values, keys) for file in found)
        for again in keys.repeated(found, _keys_of):
            do = "rename one; readers that go by keys would lose one"
            raise _bad(again.file, again.key, again.offset, "a new key", f"one of {again.before}", do)
        counts = values[label] - before if label else Counter()
        splits[split] = Split(shards, dict(counts))
    ranged = tuple(
        Field(f.name, f.member, f.dtype, f.shape, min(values[f.name]), max(values[f.name])) if f.name in values else f
        for f in fields
    )
    return Manifest(ranged, splits, "unknown", label=label, name=folder.name)


def shard_files(folder: Path) -> dict[str, list[Path]]:
    """Split -> its tars in their order, for splits that have any.

    Raises:
        ManifestError: there are none for training.
    """
    files = {split: sorted((folder / split).glob("*.tar"), key=_natural) for split in SPLITS}
    if not files["train"]:
        expected = "manifest.json, or train/*.tar and validation/*.tar"
        raise ManifestError(complaint(str(folder), expected=expected, found="neither", do="run `streamtrain pack`"))
    return {split: found for split, found in files.items() if found}


def whole_number(text: bytes) -> int | None:
    """What a ``.cls`` holds, or ``None`` where that is no whole number."""
    try:
        return int(text)
    except ValueError:
        return None


def _keys_of(file: Path) -> Iterator[tuple[str, int]]:
    for key, group in examples(file):
        yield key, _first(group)


def _fields(file: Path) -> tuple[Field, ...]:
    for key, members in examples(file):
        with file.open("rb") as opened:
            fields: list[Field] = []
            for extension, (start, size) in members.items():
                _check_member(file, key, extension, start, size)
                if field_name(extension) in {field.name for field in fields}:
                    found = ", ".join(f".{name}" for name in members)
                    expected = "one member for a field, named by what stands before the last dot"
                    raise _bad(file, key, start - BLOCK, expected, found, "rename one")
                opened.seek(start)
                try:
                    form = form_of(extension, opened.read(size))
                except (OSError, ValueError) as error:
                    do = "restore the shard"
                    raise _bad(file, key, start - BLOCK, f"a readable .{extension}", one_line(error), do) from None
                fields.append(Field(field_name(extension), extension, *form))
            return tuple(fields)
    raise ShardError(complaint(str(file), expected="examples", found="none", do="remove the shard"))


def _shard(
    folder: Path,
    file: Path,
    fields: tuple[Field, ...],
    numbers: list[Field],
    values: dict[str, Counter[int]],
    keys: Keys,
) -> Shard:
    expected = {field.member for field in fields}
    count = 0
    first_key = ""
    last_key = ""
    end = 0
    with file.open("rb") as opened:
        for key, members in examples(file):
            end = _check_example(file, key, members, expected)
            keys.add(key)
            count = count + 1
            first_key = first_key or key
            last_key = key
            for name, number in _numbers(opened.fileno(), file, key, members, numbers):
                values[name][number] += 1
        if not count:
            raise ShardError(complaint(str(file), expected="examples", found="none", do="remove the shard"))
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for trouble in walk(data, end):  # folders, perhaps, and the end of the archive
                if isinstance(trouble, Trouble) and trouble.kind == "content after the end":
                    do = "all readers stop at the zeros: join tars with tar --concatenate, or pack again"
                    raise _bad(file, None, trouble.offset or 0, "nothing but zeros at the end", trouble.found, do)
    return Shard(str(file.relative_to(folder)), count, file.stat().st_size, "", first_key, last_key)


def _check_example(file: Path, key: str, members: Mapping[str, tuple[int, int]], expected: set[str]) -> int:
    """Refuses an example of another form than the first; where its last member ends."""
    end = 0
    for extension, (start, size) in members.items():
        _check_member(file, key, extension, start, size)
        end = max(end, start + -(-size // BLOCK) * BLOCK)
    if members.keys() != expected:
        found, wanted = (", ".join(f".{name}" for name in sorted(names)) for names in (members, expected))
        raise _bad(file, key, _first(members), f"the members {wanted}", found, "pack again")
    return end


def _check_member(file: Path, key: str, extension: str, start: int, size: int) -> None:
    if extension[0].isdigit() and "." in extension:
        do = "rename it: readers end the key at its first dot"
        raise _bad(file, key, start - BLOCK, "a key without dots", f"{key}.{extension}", do)
    if size >= OVER_USTAR:
        raise _bad(file, key, start - BLOCK, "a member below 8 GiB", f"{size} bytes", "split it up")


def _numbers(
    descriptor: int, file: Path, key: str, members: dict[str, tuple[int, int]], fields: list[Field]
) -> Iterator[tuple[str, int]]:
    for field in fields:
        start, size = members[field.member]
        text = os.pread(descriptor, size, start)
        number = whole_number(text)
        if number is None:
            found = repr(text.strip()[:20])
            raise _bad(
                file,
                f"{key}.{field.member}",
                start - BLOCK,
                "a whole number",
                found,
                "restore the shard",
            )
        yield field.name, number


def _first(members: Mapping[str, tuple[int, int]]) -> int:
    """Offset of an example's first header."""
    return min(start for start, _ in members.values()) - BLOCK


def _bad(file: Path, key: str | None, offset: int, expected: str, found: str, do: str) -> ShardError:
    where = f"{file}, at byte {offset}" if key is None else f"{file}, example {key!r}, at byte {offset}"
    return ShardError(complaint(where, expected=expected, found=found, do=do))


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts ``shard-10`` after ``shard-9``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", file.name)]
