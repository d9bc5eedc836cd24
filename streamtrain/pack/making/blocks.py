"""Blocks: many small examples of one shape in one sample of the tar, a column array a field (DESIGN, block)."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from streamtrain.errors import ConfigError, complaint
from streamtrain.pack.codec import FieldEncoder
from streamtrain.pack.making.options import PackOptions
from streamtrain.pack.making.writing import Sample

SMALL = 4096
"""Examples below this many bytes go in blocks, unless told otherwise: a tar spends 1,024 on each of their fields."""
MEMBER_BYTES = 1 << 20
MOST = 65536


def block_size(encoders: Mapping[str, FieldEncoder], options: PackOptions) -> int | None:
    """Examples of a block: a power of two whose largest member has at most 1 MiB; ``None`` where there are none.

    Raises:
        ConfigError: blocks are asked for, and a field has no fixed shape.
    """
    sizes = [encoder.row_bytes for encoder in encoders.values()]
    loose = next((name for name, size in zip(encoders, sizes, strict=True) if size is None), None)
    if options.blocks and loose is not None:
        expected, do = "fields of numbers or arrays of one shape", "leave blocks out"
        raise ConfigError(complaint("blocks", expected=expected, found=f"field {loose!r}", do=do))
    fixed = [size for size in sizes if size is not None]
    if options.blocks is False or loose is not None or (options.blocks is None and sum(fixed) >= SMALL):
        return None
    most = min(MOST, MEMBER_BYTES // max(1, *fixed), options.shard_examples or MOST, options.shard_bytes // sum(fixed))
    return 1 << int(math.log2(max(1, most)))


def in_blocks(
    examples: Iterator[tuple[str, list[bytes]]],
    encoders: Sequence[FieldEncoder],
    size: int,
    options: PackOptions,
    at_label: int | None,
) -> Iterator[Sample]:
    """Examples as blocks of ``size``; where shards have a fixed number of examples, each begins with a new one."""
    left = options.shard_examples
    while block := list(itertools.islice(examples, size if left is None else min(size, left))):
        if left is not None:
            left = (left - len(block)) or options.shard_examples
        columns = list(zip(*(encoded for _, encoded in block), strict=True))
        members = {e.block_member: e.block(column) for e, column in zip(encoders, columns, strict=True)}
        labels = () if at_label is None else tuple(int(data) for data in columns[at_label])
        yield Sample(block[0][0], block[-1][0], len(block), members, labels)


def npy_start(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The bytes before the content of an ``.npy`` file of format 1.0."""
    stream = io.BytesIO()
    form = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, form)
    return stream.getvalue()
