"""NPZ and NPY arrays: the first axis is the example, every array a field. Read by parts, whatever their size.

A compressed NPZ can only be read from its beginning, so one task reads it. The checksums of an NPZ are checked.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES, Batch, Example, Source

LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name."""
MOST_WHOLE = 1 << 30
"""Bytes of an array that can only be read whole: compressed, and in Fortran's order, so that its rows lie apart."""


@dataclass(frozen=True)
class Stored:
    """An array in a file, from ``offset`` on; ``member`` is its name in a zip that compresses it."""

    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    member: str | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one example."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def from_arrays(path: Path, label: str | None) -> Source:
    """One ``.npz``, one ``.npy`` (field ``x``), or a folder of ``.npy`` files, a field each.

    Raises:
        SourceError: unreadable, pickled, of unequal lengths or without examples.
    """
    with _readable(path):
        arrays = _found(path)
    lengths = {name: array.shape[0] if array.shape else 0 for name, array in arrays.items()}
    if not lengths or min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no array"
        expected, do = "arrays of one length above 0", "save arrays whose first axes have one length"
        raise SourceError(complaint(str(path), expected=expected, found=found, do=do))
    count = min(lengths.values())
    one_by_one = any(array.member is not None for array in arrays.values())
    return Source(
        str(path),
        partial(_examples, path, arrays, count),
        count,
        label or ("label" if "label" in arrays else None),
        batches=partial(_batches, path, arrays, count),
        borders=(0,) if one_by_one else None,
        bytes=sum(array.row_bytes for array in arrays.values()) * count,
        files=tuple(sorted({array.file for array in arrays.values()})),
    )


def _examples(path: Path, arrays: Mapping[str, Stored], count: int, start: int) -> Iterator[Example]:
    for batch in _batches(path, arrays, count, start, None):
        for number in range(len(batch)):
            yield batch.place(number), {name: values[number] for name, values in batch.values.items()}


def _batches(path: Path, arrays: Mapping[str, Stored], count: int, start: int, stop: int | None) -> Iterator[Batch]:
    rows = max(1, BATCH_BYTES // max(1, sum(array.row_bytes for array in arrays.values())))
    with _readable(path), contextlib.ExitStack() as opened:
        readers = {name: _reader(array, start, opened) for name, array in arrays.items()}
        end = count if stop is None else stop
        for first in range(start, end, rows):
            values = {name: read(first, min(rows, end - first)) for name, read in readers.items()}
            yield Batch(values, partial(_place, path, first))


def _place(path: Path, first: int, number: int) -> str:
    return f"{path}, example {first + number}"


def _reader(array: Stored, start: int, opened: contextlib.ExitStack) -> Callable[[int, int], NDArray[Any]]:
    """A function from the first example and their number to the examples."""
    if array.member is None:
        return partial(_mapped if array.fortran else _read, array)
    content = opened.enter_context(opened.enter_context(zipfile.ZipFile(array.file)).open(array.member))
    if array.fortran:  # its rows lie apart, so it is needed whole
        whole = np.lib.format.read_array(content, allow_pickle=False)
        return lambda first, count: whole[first : first + count]
    np.lib.format.read_magic(content)
    content.seek(array.offset + start * array.row_bytes)

    def unpack(_: int, count: int) -> NDArray[Any]:
        data = bytearray(count * array.row_bytes)
        done = 0
        while done < len(data):
            read = content.readinto(memoryview(data)[done:])  # type: ignore[attr-defined]  # IO lacks it, zip files do not
            if not read:
                raise EOFError(f"{array.member} ends early")
            done += read
        return np.frombuffer(data, array.dtype).reshape(count, *array.shape[1:])

    return unpack


def _read(array: Stored, first: int, count: int) -> NDArray[Any]:
    values = np.fromfile(
        array.file, array.dtype, count * math.prod(array.shape[1:]), offset=array.offset + first * array.row_bytes
    )
    return values.reshape(count, *array.shape[1:])


def _mapped(array: Stored, first: int, count: int) -> NDArray[Any]:
    return np.array(
        np.memmap(array.file, array.dtype, "r", array.offset, array.shape, "F")[first : first + count], order="C"
    )


def _found(path: Path) -> dict[str, Stored]:
    if path.is_dir():
        return {file.stem: _in_npy(file) for file in sorted(path.glob("*.npy"))}
    if path.suffix.lower() == ".npy":
        return {"x": _in_npy(path)}
    with zipfile.ZipFile(path) as archive:
        return {entry.filename.removesuffix(".npy"): _in_zip(path, archive, entry) for entry in archive.infolist()}


def _in_npy(file: Path) -> Stored:
    with file.open("rb") as opened:
        found = _header(file, opened)
        if file.stat().st_size < found.offset + found.shape[0] * found.row_bytes if found.shape else 0:
            raise ValueError(f"{file.stat().st_size} bytes for {found.dtype} of shape {found.shape}")
        return found


def _in_zip(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Stored:
    with archive.open(entry) as opened:
        if not entry.filename.endswith(".npy"):
            do = "remove it"
            raise SourceError(complaint(f"{path}, {entry.filename!r}", expected="an array", found="other bytes", do=do))
        found = _header(path, opened)
        if (claimed := found.offset + math.prod(found.shape) * found.dtype.itemsize) != entry.file_size:
            raise ValueError(f"{entry.file_size} bytes of {entry.filename!r} for {claimed}")
        if entry.compress_type != zipfile.ZIP_STORED:
            if found.fortran and claimed > MOST_WHOLE:
                raise ValueError(f"{claimed:,} bytes of {entry.filename!r}, compressed in Fortran's order")
            return Stored(path, found.dtype, found.shape, found.fortran, found.offset, entry.filename)
        while opened.read(BATCH_BYTES):  # the archive checks the checksum at the end
            pass
    with path.open("rb") as plain:
        plain.seek(entry.header_offset)
        local = plain.read(LOCAL_HEADER)
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    offset = entry.header_offset + LOCAL_HEADER + names + found.offset
    return Stored(path, found.dtype, found.shape, found.fortran, offset)


def _header(file: Path, opened: IO[bytes]) -> Stored:
    version = np.lib.format.read_magic(opened)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the npy format")
    shape, fortran, dtype = read(opened)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    return Stored(file, dtype, shape, fortran and len(shape) > 1, opened.tell())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(
            complaint(str(path), expected="arrays without pickled objects", found=one_line(error), do="save them anew")
        ) from None
