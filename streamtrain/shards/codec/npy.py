"""Arrays as `.npy` files: the headers, and the content, which is as long as they say."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import one_line


def npy_form(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Type, shape, whether in Fortran's order, and where the content begins; which is as long as they say."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the npy format")
    old = version == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read_header(stream)
    except Exception as error:  # numpy lets through whatever its parser raises, e.g. tokenize's errors
        raise ValueError(one_line(error)) from None
    if dtype.hasobject:
        raise ValueError("pickled objects")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != found:
        raise ValueError(f"{found} bytes of content for {dtype} of shape {shape}")
    return dtype, shape, fortran, stream.tell()


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
