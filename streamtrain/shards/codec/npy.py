"""Arrays as `.npy` files: the headers, and the content, which is as long as they say."""

from __future__ import annotations

import functools
import io
import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import one_line

_parsing = threading.Lock()


def npy_form(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Type, shape, whether in Fortran's order, and where the content begins; which is as long as they say."""
    shape, fortran, dtype, start = _read_header(_header_of(data))
    if dtype.hasobject:
        raise ValueError("pickled objects")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - start
    if expected != found:
        raise ValueError(f"{found} bytes of content for {dtype} of shape {shape}")
    return dtype, shape, fortran, start


def _header_of(data: bytes) -> bytes:
    """All bytes before the content, as far as they are there."""
    size = (
        10 + int.from_bytes(data[8:10], "little") if data[6:7] == b"\1" else 12 + int.from_bytes(data[8:12], "little")
    )
    return data[:size]


@functools.lru_cache(1 << 12)
def _read_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran's order, type, and the header's length; by numpy, which bounds what it parses.

    By one thread at a time: numpy parses with `ast`, and where two threads do so, CPython 3.11 counts the depth
    of both as one and raises a SystemError (python/cpython#106905). That would be a bad example now and then.
    """
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the npy format")
    old = version == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    try:
        with _parsing:
            shape, fortran, dtype = read_header(stream)
    except Exception as error:  # numpy lets through whatever its parser raises, e.g. tokenize's errors
        raise ValueError(one_line(error)) from None
    return shape, fortran, dtype, stream.tell()


def read_npy(data: bytes) -> NDArray[Any]:
    """The array of an ``.npy`` member.

    Raises:
        ValueError: it is not one, or of another length than its header says.
    """
    dtype, shape, fortran, start = npy_form(data)
    content = memoryview(data)[start:] if len(data) > start else None  # an array of nothing has no buffer
    return np.ndarray(shape, dtype, content, order="F" if fortran else "C").copy("K")


def npy_header(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes before an array's content in ``.npy``, format 1.0."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    return stream.getvalue()
