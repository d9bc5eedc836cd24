"""Lanes: equal, contiguous ranges of the stored order, whatever the number of workers.

Where the examples do not divide by the lanes, the first lanes have one more. So the ranges of the
first ``m`` examples of every lane are prefixes of the ranges of all (used for ``max_examples``).
"""

from __future__ import annotations

from streamtrain.values import Lane


def lane_size(examples: int, lanes: int, index: int) -> int:
    """Examples of lane ``index``: ``⌊examples/lanes⌋``, and one more in the first ``examples mod lanes``."""
    return examples // lanes + (index < examples % lanes)


def lane(examples: int, lanes: int, index: int) -> Lane:
    """Lane ``index`` of ``lanes`` over ``examples`` examples."""
    start = index * (examples // lanes) + min(index, examples % lanes)
    return Lane(index, start, start + lane_size(examples, lanes, index))


def lanes_of(examples: int, lanes: int) -> tuple[Lane, ...]:
    """All lanes, which together cover ``[0, examples)`` once."""
    return tuple(lane(examples, lanes, index) for index in range(lanes))
