"""Which examples an evaluation uses: short runs of the stored order, spread evenly over the examples that were used.

The examples are laid end to end, as a ring, and cut into rooms of one size. Each room gives one run, which begins at a
place drawn by arithmetic from the seed and the room, and goes on at the room's start where it meets its end. So every
example is taken with the same probability, and every part of the pass has its share: what the parameters learned first
counts as much as what they learned last. Runs keep reading sequential.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from streamtrain.order.lanes import lane
from streamtrain.order.randomness import lane_seed
from streamtrain.values import Lane

PARTS, RUNS, LARGEST_SLICE = 64, 128, 500
"""Slices that few examples are cut into; runs of a random part; and the most examples of a slice.

Fewer runs than 128 show in the standard error where the loss differs much along the pass.
"""
SHARED = 16
"""Batches that slices make at least, so that several workers have some."""


def evaluation_slices(
    ranges: Sequence[Lane], wanted: int, slice_size: int, seed: int = 0, *, whole: bool = False
) -> tuple[tuple[int, int], ...]:
    """Disjoint ``(start, stop)`` inside ``ranges``, each of at most ``slice_size`` examples.

    They hold ``wanted`` examples in all, or every example of the ranges once where these have no more. ``seed`` draws
    the places; where all are wanted there is nothing to draw.

    Args:
        whole: all of ``slice_size`` examples, as far as these go into the ranges: for measures of whole minibatches.
    """
    examples = sum(r.stop - r.start for r in ranges)
    wanted = min(wanted, examples)
    if not wanted:
        return ()
    if whole:
        return _groups(ranges, wanted, slice_size, seed)
    if wanted == examples:
        return _whole(ranges, examples, slice_size)
    ends = _ends(ranges)
    count = -(-wanted // min(slice_size, -(-wanted // RUNS)))
    turn = lane_seed(seed, count, count) % examples  # rooms differ by an example; so none lies in a larger one always
    slices: list[tuple[int, int]] = []
    for index in range(count):
        room, taken = lane(examples, count, index), lane(wanted, count, index)
        size = room.stop - room.start
        length = taken.stop - taken.start
        begin = lane_seed(seed, index, count) % size
        over = max(0, begin + length - size)  # goes on at the room's start: its edges are taken as often as its middle
        for first, last in ((0, over), (begin, begin + length - over)):
            start, stop = turn + room.start + first, turn + room.start + last
            slices += _inside(ranges, ends, min(start, examples), min(stop, examples))
            slices += _inside(ranges, ends, max(start - examples, 0), max(stop - examples, 0))
    return tuple(slices)


def _groups(ranges: Sequence[Lane], wanted: int, size: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Neighbours of one number, one drawn of each of as many rooms as there are groups wanted; at least one."""
    starts = [start for r in ranges for start in range(r.start, r.stop - size + 1, size)]
    if not starts:  # of fewer updates than lanes: the longest range is all that there is of one piece
        longest = max(ranges, key=lambda r: r.stop - r.start)
        return ((longest.start, longest.stop),)
    count = min(len(starts), max(1, round(wanted / size)))
    rooms = (lane(len(starts), count, index) for index in range(count))
    chosen = (starts[room.start + lane_seed(seed, room.index, count) % (room.stop - room.start)] for room in rooms)
    return tuple((start, start + size) for start in chosen)


def _whole(ranges: Sequence[Lane], examples: int, slice_size: int) -> tuple[tuple[int, int], ...]:
    """All examples once."""
    ends = _ends(ranges)
    count = -(-examples // slice_size)
    rooms = (lane(examples, count, index) for index in range(count))
    return tuple(piece for room in rooms for piece in _inside(ranges, ends, room.start, room.stop))


def evaluation_slice(examples: int, minibatch: int | None = None) -> int:
    """Examples of a slice, so that ``examples`` make at least 50 of them, as far as they reach, and none is too large.

    Two measurements on the same examples are compared slice by slice, which takes some dozens of them.

    Args:
        minibatch: examples of one, where a loss is over whole ones: slices are about as large, all alike.
    """
    if minibatch is not None:
        return -(-examples // max(1, round(examples / minibatch)))
    return max(1, min(LARGEST_SLICE, -(-examples // PARTS)))


def evaluation_batches(slices: Sequence[tuple[int, int]], most: int) -> list[Sequence[tuple[int, int]]]:
    """The slices in their order, those together that go through the model at once, whoever takes them.

    Args:
        most: examples of slices that go together; a slice of more goes alone.
    """
    sizes = [stop - start for start, stop in slices]
    most = min(most, -(-sum(sizes) // SHARED))
    batches: list[Sequence[tuple[int, int]]] = []
    first = held = 0
    for place, size in enumerate(sizes):
        if held and held + size > most:
            batches.append(slices[first:place])
            first, held = place, 0
        held += size
    return [*batches, slices[first:]] if slices else []


def _ends(ranges: Sequence[Lane]) -> list[int]:
    """Where each ends, with all laid end to end."""
    return list(accumulate(r.stop - r.start for r in ranges))


def _inside(ranges: Sequence[Lane], ends: Sequence[int], start: int, stop: int) -> list[tuple[int, int]]:
    """The pieces of ``[start, stop)``, counted along the ranges laid end to end, which end at ``ends``."""
    pieces = []
    while start < stop:
        at = bisect_right(ends, start)
        last = min(stop, ends[at])
        offset = ranges[at].stop - ends[at]
        pieces.append((start + offset, last + offset))
        start = last
    return pieces
