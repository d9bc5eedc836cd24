"""One shard: a tar file in WebDataset's layout. Written in the one profile that every reader accepts; read in all.

Written: USTAR, an example's members together and sorted, keys of ``[A-Za-z0-9_-]``, no owner, no time,
mode 0644, two zero blocks at the end. Read by a scan of the headers over the mapped file, which
touches no content.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamtrain.errors import ShardError, complaint, one_line
from streamtrain.shards.shard_list import Shard
from streamtrain.store import sha256_of
from streamtrain.store.checksums import Checksums

BLOCK = 512
END = bytes(2 * BLOCK)
PIECE = 1 << 15
"""Bytes that a checksum of their own is kept of, beside the one of the whole shard."""
MEMBER_LIMIT = 8 << 30
"""USTAR's bound on a member, in bytes."""
Content = bytes | memoryview
NAME_LIMIT = 1 << 20
"""Bytes that a pax or GNU header may take for what it tells of the next member, most of all its name."""
COPIED = 1 << 16
"""Samples below this many bytes are written at once."""
PICKLED = frozenset({"pyd", "pickle", "pkl", "pth", "pt", "ten", "tb"})
"""Extensions whose WebDataset decoders would execute or trust what they read (promise 9)."""

_REGULAR = (b"0", b"\0")
ABOUT_THE_NEXT = (b"x", b"L")
_PASSED_OVER = (b"5", b"g")
_UNUSABLE = {b"1": "a hard link", b"2": "a symbolic link", b"S": "a sparse file"}

_BEFORE_SIZE = b"0000644\0" + b"0000000\0" + b"0000000\0"
_AFTER_SIZE = b"00000000000\0"
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + sum(_AFTER_CHECKSUM) + 8 * ord(" ")


def header(name: bytes, size: int) -> bytes:
    """The USTAR header of a regular file; ``name`` of at most 100 bytes, ``size`` below 8 GiB."""
    digits = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(name) + sum(digits)
    return name.ljust(100, b"\0") + _BEFORE_SIZE + digits + _AFTER_SIZE + b"%06o\0 " % checksum + _AFTER_CHECKSUM


class ShardWriter:
    """Writes examples to one new tar file, counting and hashing as it goes."""

    def __init__(self, file: Path) -> None:
        self._opened = file.open("wb", buffering=1 << 20)
        self.piece = PIECE
        self._checksums = Checksums(PIECE)
        self.sums: list[int] = []
        """CRC-32 of every piece, once it is closed."""
        self.bytes = len(END)
        self.examples = 0
        self.first_key = self.last_key = ""

    def write(self, key: str, members: Mapping[str, Content]) -> None:
        """One sample: extension -> content."""
        pieces: list[Content] = []
        for extension in sorted(members):
            data = members[extension]
            pieces += (header(f"{key}.{extension}".encode("ascii"), len(data)), data, bytes(-len(data) % BLOCK))
        for piece in [b"".join(pieces)] if sum(map(len, pieces)) < COPIED else pieces:
            self.append(piece)
        self.first_key = self.first_key or key
        self.last_key = key
        self.examples += 1

    def append(self, content: Content) -> None:
        """Samples that are laid out already; nobody changes them afterwards."""
        self._put(content)
        self.bytes += len(content)

    def discard(self) -> None:
        """Lets go of the file where it will not be finished; harmless after ``close``."""
        self._checksums.discard()
        self._opened.close()

    def close(self, name: str) -> Shard:
        """Ends the file; its entry in the manifest, under ``name``."""
        self._put(END)
        self._opened.close()
        sha256, self.sums = self._checksums.finish()
        return Shard(name, self.examples, self.bytes, sha256, self.first_key, self.last_key)

    def _put(self, content: Content) -> None:
        self._opened.write(content)
        self._checksums.add(content)


@dataclass(frozen=True)
class Member:
    """One regular file in a tar: ``header`` and ``start`` are offsets, in bytes."""

    name: str
    header: int
    start: int
    size: int


def members(file: Path) -> Iterator[Member]:
    """All regular files of a tar in their order: USTAR, GNU and pax; folders are passed over.

    Raises:
        ShardError: not a whole tar of regular files.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _members(file, data)
    except (OSError, ValueError) as error:
        raise ShardError(complaint(str(file), expected="a tar", found=one_line(error), do="restore it")) from None


def examples(file: Path, *, alike: bool = True) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and members, extension -> (start, size), of every example, grouped as WebDataset does.

    Args:
        alike: hold all examples to the first one's extensions.

    Raises:
        ShardError: a layout that readers would understand differently; names shard, key and offset.
    """
    seen: set[str] = set()
    key = ""
    extensions = None
    group: dict[str, tuple[int, int]] = {}
    for member in members(file):
        its_key, extension = _split_name(file, member)
        if its_key != key:
            if key:
                extensions = _check_group(file, key, group, extensions, member.header) if alike else None
                yield key, group
            if its_key in seen:
                raise _bad(file, its_key, member.header, "an example's members together", "its key again", "pack again")
            seen.add(its_key)
            key, group = its_key, {}
        if extension in group:
            raise _bad(file, key, member.header, f"one member .{extension}", "two", "rename one and pack again")
        group[extension] = (member.start, member.size)
    if key:
        if alike:
            _check_group(file, key, group, extensions, -1)
        yield key, group


def verify(folder: Path, shard: Shard) -> None:
    """Checks a shard's size and checksum against the manifest's.

    Raises:
        ShardError: it was cut short or altered, or is not there.
    """
    file = folder / shard.file
    try:
        size = file.stat().st_size
        found = sha256_of(file)
    except OSError as error:
        raise ShardError(complaint(str(file), expected="a shard", found=one_line(error), do="restore it")) from None
    if size != shard.bytes:
        raise ShardError(
            complaint(str(file), expected=f"{shard.bytes} bytes", found=str(size), do="it was cut short: restore it")
        )
    if shard.sha256 and found != shard.sha256:
        raise ShardError(
            complaint(str(file), expected=f"SHA-256 {shard.sha256}", found=found, do="it was altered: restore it")
        )


def _members(file: Path, data: mmap.mmap) -> Iterator[Member]:
    offset = 0
    name = None
    size = None
    while any(block := data[offset : offset + BLOCK]):
        its_size = _checked_size(file, data, offset, size if block[156:157] in _REGULAR else None)
        kind = block[156:157]
        start = offset + BLOCK
        if kind in ABOUT_THE_NEXT and its_size > NAME_LIMIT:
            found, do = f"{its_size}", "pack it again"
            raise _bad(file, None, offset, f"a header of at most {NAME_LIMIT} bytes for a name", found, do)
        if kind == b"x":
            name, size = _pax(file, offset, data[start : start + its_size])
        elif kind == b"L":
            name = data[start : start + its_size].rstrip(b"\0").decode("utf-8", "replace")
        elif kind in _REGULAR:
            yield Member(name or _name(block), offset, start, its_size)
            name = size = None
        elif kind not in _PASSED_OVER:
            found = _UNUSABLE.get(kind, f"a member of type {kind!r}")
            raise _bad(file, _name(block), offset, "regular files only", found, "pack it again without")
        offset = start + -(-its_size // BLOCK) * BLOCK
    if len(block) < BLOCK:
        found = f"{len(block)} bytes and the file's end"
        raise _bad(file, None, offset, "an end-of-archive block of zeros", found, "it was cut short: restore it")


def _checked_size(file: Path, data: mmap.mmap, offset: int, overridden: int | None) -> int:
    """The size of the member whose header is at ``offset``; a pax header before it may have overridden it."""
    block = data[offset : offset + BLOCK].ljust(BLOCK, b"\0")
    size = _number(block[124:136]) if overridden is None else overridden
    checksum = _number(block[148:156])
    # the low half of an Adler-32 that starts at 0 is the sum of the bytes modulo 65521: 20 times as fast as sum()
    total = (zlib.adler32(block, 0) & 0xFFFF) - sum(block[148:156]) + 8 * ord(" ")
    if size is None or checksum is None or (checksum - total) % 65521:
        raise _bad(file, None, offset, "a tar header", "other bytes", "it was altered or cut short: restore it")
    if offset + BLOCK + size > len(data):
        found = f"{len(data) - offset - BLOCK}"
        raise _bad(file, _name(block), offset, f"{size} bytes of content", found, "it was cut short: restore it")
    return size


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0]
    whole = prefix + b"/" + name if block[257:263] == b"ustar\0" and prefix else name
    return whole.decode("utf-8", "replace")


def _number(field: bytes) -> int | None:
    """A header's number: octal text, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0") or b"0"
    # int() would take a sign, and a negative size would lead back to the same header
    return None if text.strip(b"01234567") else int(text, 8)


def _pax(file: Path, offset: int, data: bytes) -> tuple[str | None, int | None]:
    """Path and size that a pax header sets, where it does; refuses sparse files, whose content is a map of pieces."""
    values: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not 0 < int(length) <= len(data):
            break
        name, _, value = data[len(length) + 1 : int(length) - 1].decode("utf-8", "replace").partition("=")
        values[name] = value
        data = data[int(length) :]
    if any(name.startswith("GNU.sparse.") for name in values):
        path = values.get("GNU.sparse.name", "")
        raise _bad(file, path, offset, "regular files only", "a sparse file", "pack it again without")
    size = values.get("size", "")
    return values.get("path"), int(size) if size.isdecimal() else None


def _split_name(file: Path, member: Member) -> tuple[str, str]:
    """Key and extension: the base name up to its first dot, and the rest."""
    folder, slash, base = member.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not dot or not stem or not extension:
        do = "rename it KEY.EXTENSION; readers would pass over it"
        raise _bad(file, member.name, member.header, "a name KEY.EXTENSION", repr(base), do)
    if extension != extension.lower():
        do = "rename it; some readers change the case"
        raise _bad(file, member.name, member.header, "a lower-case extension", repr(extension), do)
    if extension.rpartition(".")[2] in PICKLED:
        do = "store the value as .npy, .json or .txt; pickled members could execute code"
        raise _bad(file, member.name, member.header, "data", f"a .{extension}", do)
    return folder + slash + stem, extension


def _check_group(
    file: Path, key: str, group: dict[str, tuple[int, int]], extensions: frozenset[str] | None, offset: int
) -> frozenset[str]:
    found = frozenset(group)
    if extensions is not None and found != extensions:
        expected, there = (", ".join(f".{name}" for name in sorted(names)) for names in (extensions, found))
        do = "give all examples the same members, e.g. rename .png to .jpg: readers look at an image's content"
        raise _bad(file, key, offset, f"the members {expected} as in the first example", there, do)
    return found


def _bad(file: Path, key: str | None, offset: int, expected: str, found: str, do: str) -> ShardError:
    where = str(file) + ("" if key is None else f", {key!r}") + ("" if offset < 0 else f", at byte {offset}")
    return ShardError(complaint(where, expected=expected, found=found, do=do))
