"""One tar, header by header, past whatever is wrong with it: what `shards.shard.examples` refuses is a finding here."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from streamtrain.errors import ShardError
from streamtrain.shards.foreign.faults import Kind
from streamtrain.shards.shard import ABOUT_THE_NEXT, BLOCK, NAME_LIMIT, _name, _number, _pax

UNUSABLE = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a FIFO"}
CHUNK = 1 << 20
GZIP = b"\x1f\x8b"
_REGULAR = (b"0", b"\0")
_PASSED_OVER = (b"5", b"g")


@dataclass(frozen=True)
class Entry:
    """A regular file. ``header`` and ``start`` are offsets in bytes; ``form`` says where a long name came from."""

    name: str
    header: int
    start: int
    size: int
    form: str


@dataclass(frozen=True)
class Trouble:
    """A `Finding` without its shard."""

    kind: Kind
    key: str | None
    offset: int | None
    found: str


@dataclass(frozen=True)
class _LongHeader:
    """What a pax or GNU header says about the next member."""

    name: str | None = None
    size: int | None = None
    form: str = ""
    sparse: bool = False
    trouble: Trouble | None = None


def walk(data: mmap.mmap, offset: int = 0) -> Iterator[Entry | Trouble]:
    """All regular files from ``offset`` on and all that is wrong with the archive, in the order of their offsets.

    Costs one look at every header; only where one is damaged, at every block up to the next.
    """
    if data[offset : offset + 2] == GZIP:
        yield Trouble("compressed", None, 0, "gzip's first bytes")
        return
    header = _LongHeader()
    while any(block := data[offset : offset + BLOCK]):
        kind = block[156:157]
        start = offset + BLOCK
        size = _checked_size(block, header.size if kind in _REGULAR else None)
        if size is None and len(block) == BLOCK:
            yield Trouble("damaged header", None, offset, "other bytes")
            offset = _next_header(data, start)
            header = _LongHeader()
            continue
        if size is None or start + size > len(data):
            found = f"{len(block)} bytes of a header" if size is None else f"{len(data) - start} of {size} bytes"
            yield Trouble("cut inside a member", header.name or _name(block), offset, found)
            return
        if kind in ABOUT_THE_NEXT and size > NAME_LIMIT:
            yield Trouble("damaged header", None, offset, f"{size} bytes for a name")
        elif kind in ABOUT_THE_NEXT:
            header = _read_long_header(header, kind, offset, data[start : start + size])
            if header.trouble is not None:
                yield header.trouble
        elif kind not in _PASSED_OVER and not header.sparse:
            yield _member(kind, header, block, offset, size)
        if kind not in ABOUT_THE_NEXT and kind != b"g":
            header = _LongHeader()
        offset = start + -(-size // BLOCK) * BLOCK
    yield from _ending(data, offset)


def _member(kind: bytes, header: _LongHeader, block: bytes, offset: int, size: int) -> Entry | Trouble:
    name = header.name or _name(block)
    if kind == b"S":
        return Trouble("sparse", name, offset, "a sparse file")
    if kind in _REGULAR:
        return Entry(name, offset, offset + BLOCK, size, header.form if header.name else "")
    return Trouble("link or device", name, offset, UNUSABLE.get(kind, f"a member of type {kind!r}"))


def _read_long_header(before: _LongHeader, kind: bytes, offset: int, content: bytes) -> _LongHeader:
    if kind == b"L":
        return replace(before, name=content.rstrip(b"\0").decode("utf-8", "replace"), form="GNU", trouble=None)
    try:
        return _LongHeader(*_pax(Path(), offset, content), form="pax")
    except ShardError:
        _, _, name = content.partition(b"GNU.sparse.name=")
        shown = name.partition(b"\n")[0].decode("utf-8", "replace")
        return _LongHeader(sparse=True, trouble=Trouble("sparse", shown, offset, "a sparse file"))
    except ValueError:  # Python refuses to read such numbers
        found = "a number of thousands of digits in a pax header"
        return _LongHeader(trouble=Trouble("damaged header", None, offset, found))


def _checked_size(block: bytes, header: int | None) -> int | None:
    """The member's size, or ``None`` where the block is no header."""
    if len(block) < BLOCK:
        return None
    size = _number(block[124:136]) if header is None else header
    checksum = _number(block[148:156])
    total = (zlib.adler32(block, 0) & 0xFFFF) - sum(block[148:156]) + 8 * ord(" ")  # as in `pack.shard`
    return None if checksum is None or (checksum - total) % 65521 else size


def _next_header(data: mmap.mmap, offset: int) -> int:
    """The next block that is a header; without one, the end of the last block that is not all zeros."""
    end = offset
    for place in range(offset, len(data), BLOCK):
        block = data[place : place + BLOCK]
        if any(block):
            if _checked_size(block, None) is not None:
                return place
            end = place + BLOCK
    return end


def _ending(data: mmap.mmap, offset: int) -> Iterator[Trouble]:
    """What is wrong with the end of the archive, whose first block of zeros is at ``offset``."""
    if offset > len(data):
        yield Trouble("cut inside a member", None, offset, "the file's end in the zeros that fill up its last block")
    elif offset + BLOCK > len(data):
        found = "the file's end instead of a block of zeros"
        yield Trouble("cut at a member border", None, offset, found)
    elif (place := first_nonzero(data, offset)) is not None:
        yield Trouble("content after the end", None, place - place % BLOCK, f"{len(data) - place} bytes after zeros")
    elif offset + 2 * BLOCK > len(data):
        yield Trouble("lone zero block", None, offset, "one block of zeros")


def first_nonzero(data: mmap.mmap, offset: int) -> int | None:
    """Where the first byte that is not zero lies, from ``offset`` on."""
    for place in range(offset, len(data), CHUNK):
        chunk = data[place : place + CHUNK]
        if chunk.count(0) < len(chunk):
            return place + len(chunk) - len(chunk.lstrip(b"\0"))
    return None
