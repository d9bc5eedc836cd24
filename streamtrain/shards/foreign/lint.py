"""`inspect --lint`: all places in foreign shards that some reader would take differently, or that we refuse."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamtrain.errors import ShardError, complaint, one_line
from streamtrain.shards.codec import form_of
from streamtrain.shards.foreign.faults import Finding, Kind
from streamtrain.shards.foreign.keys import Keys
from streamtrain.shards.foreign.scan import OVER_USTAR, shard_files, whole_number
from streamtrain.shards.foreign.walk import Entry, Trouble, walk
from streamtrain.shards.manifest import field_name
from streamtrain.shards.shard import PICKLED

NPY_HEADER = 128
"""Bytes of an ``.npy`` that hold its dtype."""


def lint(folder: Path) -> Iterator[Finding]:
    """All findings in the tars of a data set's splits, shard by shard. Reads headers, and what is in ``.cls``.

    Memory grows by the keys of one shard, and 8 bytes for each key of all.

    Raises:
        ManifestError: no shards. ShardError: a shard cannot be opened.
    """
    splits: dict[str, Keys] = {}
    expected: frozenset[str] | None = None
    for split, files in shard_files(folder).items():
        keys = splits[split] = Keys()
        for file in files:
            shard = _Shard(expected)
            with _mapped(file) as data:
                for trouble in shard.look(data):
                    yield _finding(folder, file, trouble)
            for key in shard.seen:
                keys.add(key)
            expected = shard.expected
        for again in keys.repeated(files, _keys_of):
            found = f"the same key as in {again.before.relative_to(folder)}"
            yield Finding("duplicate key", str(again.file.relative_to(folder)), again.key, again.offset, found)
    yield from _shared(splits)


def _finding(folder: Path, file: Path, trouble: Trouble) -> Finding:
    return Finding(trouble.kind, str(file.relative_to(folder)), trouble.key, trouble.offset, trouble.found)


def _shared(splits: dict[str, Keys]) -> Iterator[Finding]:
    names = list(splits)
    for index, name in enumerate(names):
        for other in names[:index]:
            both = len(np.intersect1d(splits[name].hashes, splits[other].hashes, assume_unique=True))
            if both:
                yield Finding("key in two splits", name, None, None, f"{both:,} keys that {other} has too")


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap | None]:
    try:
        with file.open("rb") as opened:
            if not file.stat().st_size:
                yield None
                return
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as error:
        raise ShardError(complaint(str(file), expected="a tar", found=one_line(error), do="restore it")) from None


def _keys_of(file: Path) -> Iterator[tuple[str, int]]:
    with _mapped(file) as data:
        shard = _Shard(None)
        for _ in shard.look(data):
            pass
        yield from shard.seen.items()


@dataclass
class _Shard:
    """Groups a shard's members as WebDataset does, and tells what is strange about each.

    Attributes:
        expected: extensions of the data set's first example, where it is known.
        seen: key -> offset of its first header.
    """

    expected: frozenset[str] | None
    seen: dict[str, int] = field(default_factory=dict)
    _key: str = ""
    _group: dict[str, Entry] = field(default_factory=dict)

    def look(self, data: mmap.mmap | None) -> Iterator[Trouble]:
        """All that is wrong, in the order of the offsets but for what needs a whole example."""
        for entry in walk(data) if data is not None else ():
            if isinstance(entry, Trouble):
                yield entry
                continue
            folder, slash, base = entry.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if not stem or not extension:
                yield Trouble("no KEY.EXTENSION", entry.name, entry.header, repr(base))
                continue
            key = folder + slash + stem
            if key != self._key:
                yield from self._end(data)
                if key in self.seen:
                    yield Trouble("interleaved", key, entry.header, "its key again")
                self.seen.setdefault(key, entry.header)
                self._key = key
            yield from _about(key, extension, entry, data)
            if extension.lower() in self._group:
                yield Trouble("duplicate member", key, entry.header, f"another .{extension}")
            self._group.setdefault(extension.lower(), entry)
        yield from self._end(data)
        if not self.seen:
            yield Trouble("no examples", None, None, "no member that belongs to an example")

    def _end(self, data: mmap.mmap | None) -> Iterator[Trouble]:
        """What is to be said once all members of an example are known."""
        group = self._group
        self._group = {}
        if not group or data is None:
            return
        first = next(iter(group.values())).header
        found = frozenset(group)
        if self.expected is None:
            self.expected = found
            yield from _about_first(self._key, group, data)
        elif found != self.expected:
            missing, more = sorted(self.expected - found), sorted(found - self.expected)
            words = [f"no .{name}" for name in missing] + [f"a .{name} more" for name in more]
            yield Trouble("other fields", self._key, first, ", ".join(words))
        if list(group) != sorted(group):
            yield Trouble("unsorted", self._key, first, ", ".join(f".{name}" for name in group))


def _about(key: str, extension: str, entry: Entry, data: mmap.mmap | None) -> Iterator[Trouble]:
    """What one member shows by itself."""
    *stems, kind = extension.lower().split(".")
    content = memoryview(data)[entry.start : entry.start + entry.size] if data is not None else memoryview(b"")
    troubles: list[tuple[Kind, bool, str]] = [
        ("upper-case extension", extension != extension.lower(), f".{extension}"),
        ("dotted key", bool(stems) and stems[0][:1].isdigit(), f"{key!r} and .{extension}"),
        ("over 8 GiB", entry.size >= OVER_USTAR, f"{entry.size} bytes"),
        ("pickled", kind in PICKLED, f".{extension}"),
        ("pickled", kind == "npy" and b"'|O'" in bytes(content[:NPY_HEADER]), "an .npy of Python objects"),
        ("reserved name", entry.name.rpartition("/")[2].startswith("__") or entry.name.startswith("__"), entry.name),
        ("long name", bool(entry.form), f"a {entry.form} header with the name"),
        ("not UTF-8", "\ufffd" in entry.name, repr(entry.name)),
    ]
    if kind == "cls" and entry.size < OVER_USTAR and whole_number(bytes(content)) is None:
        troubles.append(("unreadable", True, repr(bytes(content[:20]))))
    content.release()
    for name, there, found in troubles:
        if there:
            yield Trouble(name, key, entry.header, found)


def _about_first(key: str, group: dict[str, Entry], data: mmap.mmap) -> Iterator[Trouble]:
    """What the first example must hold for its fields to be told."""
    fields: dict[str, str] = {}
    for extension, entry in group.items():
        name = field_name(extension)
        if name in fields:
            yield Trouble("two members of a field", key, entry.header, f".{fields[name]} and .{extension}")
        fields[name] = extension
        try:
            if entry.size < OVER_USTAR:
                form_of(extension, data[entry.start : entry.start + entry.size])
        except (OSError, ValueError) as error:
            yield Trouble("unreadable", key, entry.header, one_line(error))
