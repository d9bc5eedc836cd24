"""How examples become samples of a tar: blocks of many, as column arrays, or one by one.

A block of ``n`` examples is a sample whose member ``FIELD.npy`` holds that field of all of them, first axis the
example; its key is its first example's. Where a field has no fixed size, as text, ``FIELD.txt.npy`` holds the
examples' bytes end to end, and ``FIELD.txt.lengths.npy`` how many each has.

One by one, examples of fixed size are samples of one layout, so many are laid out at once as the rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, complaint
from streamtrain.images.kinds import is_image
from streamtrain.packing.options import PackOptions
from streamtrain.packing.shuffling.runs.sorted_runs import Runs
from streamtrain.shards.codec import FieldEncoder, Ragged, npy_header, read_npy
from streamtrain.shards.shard import BLOCK, MEMBER_LIMIT, header

SMALL = 4096
"""Examples below this many bytes go in blocks by default: a tar spends some 1,000 on each of their fields."""
MEMBER_BYTES = 1 << 20
FEWEST, MOST = 16, 1 << 16

Bytes = NDArray[np.uint8]


def block_size(encoders: Mapping[str, FieldEncoder], options: PackOptions) -> int | None:
    """Examples of a block, or ``None`` for none, or where some field has no fixed size.

    Members that are taken over from other tars stay as they are, unless blocks are asked for.

    Raises:
        ConfigError: blocks are asked for, and examples are too large for them.
    """
    sizes = [kind.itemsize for kind in (encoder.row_type for encoder in encoders.values()) if kind is not None]
    if len(sizes) < len(encoders):
        return None
    taken_over = any(encoder.taken_over for encoder in encoders.values())
    by_default = not taken_over and sum(sizes) < SMALL
    return _fitting(max(sizes), sum(sizes), options, max(sizes), by_default=by_default)


def loose_block_size(encoders: Mapping[str, FieldEncoder], options: PackOptions, runs: Runs) -> int | None:
    """The same where some field has none, from the sizes of all examples.

    Images stay files of their own, unless blocks are asked for; so do examples of which one is larger than a block.

    Raises:
        ConfigError: blocks are asked for, and examples are too large for them.
    """
    total, largest = runs.bytes_encoded()
    mean = total // max(1, runs.examples)
    as_they_are = any(encoder.taken_over or is_image(encoder.member) for encoder in encoders.values())
    by_default = not as_they_are and mean < SMALL and largest <= MEMBER_BYTES
    return _fitting(mean, mean, options, largest, by_default=by_default)


def _fitting(of_member: int, of_example: int, options: PackOptions, largest: int, *, by_default: bool) -> int | None:
    """A power of two, so that the largest member has about 1 MiB at most, and a block fits in a shard."""
    if not (by_default if options.blocks is None else options.blocks):
        return None
    if largest * FEWEST >= MEMBER_LIMIT:
        expected, found = f"examples below {MEMBER_LIMIT // FEWEST:,} bytes", f"one of {largest:,}"
        raise ConfigError(complaint("blocks", expected=expected, found=found, do="leave blocks out"))
    most = MEMBER_BYTES // max(1, of_member)
    if options.shard_examples is None:
        most = min(most, options.shard_bytes // max(1, of_example))
    return min(MOST, max(FEWEST, 1 << max(0, most.bit_length() - 1)))


def loose_members(
    encoders: Mapping[str, FieldEncoder], columns: Mapping[str, NDArray[Any] | Ragged], rows: NDArray[np.int64]
) -> dict[str, memoryview]:
    """The members of a block of those rows of the columns."""
    members: dict[str, memoryview] = {}
    varied = any(encoder.row_type is None for encoder in encoders.values())  # else they are read as blocks of one form
    for name, encoder in encoders.items():
        values = columns[name]
        if not isinstance(values, Ragged):
            members[f"{name}.npy"] = _npy(_narrowed(values[rows]) if encoder.counts and varied else values[rows])
            continue
        taken = values.take(rows)
        if encoder.row_type is not None:  # taken over, and their headers may differ
            members[f"{name}.npy"] = _npy(_as_one(encoder.row_type, taken))
            continue
        members[f"{encoder.member}.npy"] = _npy(taken.content)
        members[f"{encoder.member}.lengths.npy"] = _npy(
            taken.lengths.astype(np.min_scalar_type(int(taken.lengths.max())))
        )
    return members


def _narrowed(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """In the narrowest type that holds all of them."""
    low, high = int(numbers.min()), int(numbers.max())
    return numbers.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)), copy=False)


def _as_one(kind: np.dtype[Any], members: Ragged) -> NDArray[Any]:
    """The arrays of members, first axis the member."""
    return np.stack([read_npy(data) for data in members]).astype(kind.base, copy=False)


def _npy(values: NDArray[Any]) -> memoryview:
    return memoryview(npy_header(values) + values.tobytes())


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
