"""How examples of fixed size become samples of a tar: blocks of many, as column arrays, or one by one.

A block of ``n`` examples is a sample whose member ``FIELD.npy`` holds that field of all of them, first axis the
example; its key is its first example's. One by one, all samples have one layout, so many are laid out at once as
the rows of a table of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, complaint
from streamtrain.packing.options import PackOptions
from streamtrain.shards.codec import FieldEncoder, npy_header
from streamtrain.shards.shard import BLOCK, MEMBER_LIMIT, header

SMALL = 4096
"""Examples below this many bytes go in blocks by default: a tar spends some 1,000 on each of their fields."""
MEMBER_BYTES = 1 << 20
FEWEST, MOST = 16, 1 << 16

Bytes = NDArray[np.uint8]


def block_size(encoders: Mapping[str, FieldEncoder], options: PackOptions) -> int | None:
    """Examples of a block, or ``None`` for none: a power of two, so that the largest member has about 1 MiB at most.

    Members that are taken over from other tars stay as they are, unless blocks are asked for.

    Raises:
        ConfigError: blocks are asked for, and a field has no fixed size.
    """
    types = {name: encoder.row_type for name, encoder in encoders.items()}
    sizes = [kind.itemsize for kind in types.values() if kind is not None]
    fixed = len(sizes) == len(types) and max(sizes) * FEWEST < MEMBER_LIMIT
    if options.blocks and not fixed:
        loose = next((name for name, kind in types.items() if kind is None), "of more than 512 MiB")
        expected, do = "fields of numbers or arrays of one shape", "leave blocks out"
        raise ConfigError(complaint("blocks", expected=expected, found=f"field {loose!r}", do=do))
    taken_over = any(encoder.taken_over for encoder in encoders.values())
    by_default = fixed and not taken_over and sum(sizes) < SMALL
    if not (by_default if options.blocks is None else options.blocks):
        return None
    most = MEMBER_BYTES // max(1, *sizes)
    if options.shard_examples is None:
        most = min(most, options.shard_bytes // max(1, sum(sizes)))
    return min(MOST, max(FEWEST, 1 << max(0, most.bit_length() - 1)))


def block_member(values: NDArray[Any], rows: NDArray[np.int64]) -> memoryview:
    """The ``.npy`` of those rows of a column."""
    head = npy_header(np.broadcast_to(values[:1], (len(rows), *values.shape[1:])))
    member = np.empty(len(head) + len(rows) * (values.nbytes // len(values)), np.uint8)
    member[: len(head)] = np.frombuffer(head, np.uint8)
    content = member[len(head) :].view(values.dtype).reshape(len(rows), *values.shape[1:])
    np.take(values, rows, axis=0, out=content, mode="clip")
    return member.data


def sample_stride(encoders: Mapping[str, FieldEncoder]) -> int:
    """Bytes of a tar that one example takes, where all take the same."""
    return sum(BLOCK + size + -size % BLOCK for size in (_member_bytes(encoder) for encoder in encoders.values()))


def samples_table(
    encoders: Mapping[str, FieldEncoder], columns: Mapping[str, NDArray[Any]], first_key: int, digits: int
) -> Bytes:
    """A sample of the tar for every example, shape (examples, stride); their keys are numbers in a row."""
    count = len(next(iter(columns.values())))
    table = np.zeros((count, sample_stride(encoders)), np.uint8)
    keys = _decimal(np.arange(first_key, first_key + count, dtype=np.int64), digits)
    at = 0
    for name in sorted(encoders, key=lambda name: encoders[name].member):
        encoder, size = encoders[name], _member_bytes(encoders[name])
        start = at + BLOCK
        head = header(f"{'0' * digits}.{encoder.member}".encode("ascii"), size)
        table[:, at:start] = np.frombuffer(head, np.uint8)
        table[:, at : at + digits] = keys
        checksum = int(head[148:154], 8) + (keys - np.uint8(ord("0"))).sum(axis=1, dtype=np.int64)
        table[:, at + 148 : at + 154] = _decimal(checksum, 6, base=8)
        _fill(table[:, start : start + size], encoder, columns[name])
        at = start + size + -size % BLOCK
    return table


def _fill(content: Bytes, encoder: FieldEncoder, values: NDArray[Any]) -> None:
    if encoder.counts and encoder.member.endswith(".cls"):
        content[:] = _decimal(values, content.shape[1])
        return
    head = encoder.stored(values[0])[: content.shape[1] - values[0].nbytes]
    content[:, : len(head)] = np.frombuffer(head, np.uint8)
    content[:, len(head) :] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _member_bytes(encoder: FieldEncoder) -> int:
    kind = encoder.row_type
    assert kind is not None
    return len(encoder.stored(np.zeros((), kind)))


def _decimal(numbers: NDArray[np.int64], digits: int, base: int = 10) -> Bytes:
    """The numbers' digits in ASCII, shape (numbers, digits)."""
    powers: Sequence[int] = [base**place for place in range(digits - 1, -1, -1)]
    return np.stack([numbers // power % base for power in powers], axis=1).astype(np.uint8) + np.uint8(ord("0"))
