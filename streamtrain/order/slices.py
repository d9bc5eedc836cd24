"""Which examples an evaluation uses: runs of the stored order, evenly spread over it.

The stored order is a uniform shuffle, so any fixed positions are a uniformly random part. Runs keep
reading sequential; spreading them keeps the part from being only what the pass used first or last.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamtrain.order.lanes import lane
from streamtrain.values import Lane

PARTS, LARGEST_SLICE = 64, 500
"""Slices that few examples are cut into; and the most examples that a worker evaluates at once."""


def evaluation_slices(ranges: Sequence[Lane], wanted: int, slice_size: int) -> tuple[tuple[int, int], ...]:
    """Disjoint ``(start, stop)`` inside ``ranges``, each of at most ``slice_size`` examples.

    They hold ``wanted`` examples in all, or every example of the ranges once where these have no more.
    """
    examples = sum(r.stop - r.start for r in ranges)
    wanted = min(wanted, examples)
    count = -(-wanted // slice_size)
    slices: list[tuple[int, int]] = []
    for index in range(count):
        room, part = lane(examples, count, index), lane(wanted, count, index)
        slices += _inside(ranges, room.start, room.start + part.stop - part.start)
    return tuple(slices)


def evaluation_slice(examples: int) -> int:
    """Examples of a slice, so that ``examples`` make at least 50 of them, as far as they reach, and none is too large.

    Two measurements on the same examples are compared slice by slice, which takes some dozens of them.
    """
    return max(1, min(LARGEST_SLICE, -(-examples // PARTS)))


def _inside(ranges: Sequence[Lane], start: int, stop: int) -> list[tuple[int, int]]:
    """The pieces of ``[start, stop)``, counted along the ranges laid end to end."""
    pieces, offset = [], 0
    for r in ranges:
        length = r.stop - r.start
        first, last = max(start - offset, 0), min(stop - offset, length)
        if first < last:
            pieces.append((r.start + first, r.start + last))
        offset += length
    return pieces
