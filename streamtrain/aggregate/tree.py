"""The one fixed binary tree in which everything is summed over the lanes (promise 5).

A node over ``n`` lanes splits at the largest power of two below ``n``. So every aligned run of
``2^k`` lanes is a whole subtree, which its worker may add up before anything travels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

Node = tuple[int, int]
"""The lanes ``[start, stop)`` under a node of the tree."""


def split(lanes: int) -> int:
    """Lanes in the left subtree of a node over ``lanes >= 2``."""
    return 1 << ((lanes - 1).bit_length() - 1)


def tree_sum_(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of equally shaped ``parts`` (one a lane, in lane order), made in the first of them; others are used up."""
    if len(parts) == 1:
        return parts[0]
    left = split(len(parts))
    return tree_sum_(parts[:left]).add_(tree_sum_(parts[left:]))


def whole_subtrees(lanes: int, hosted: range) -> tuple[Node, ...]:
    """The largest nodes of the tree over ``lanes`` whose lanes are all in ``hosted``, in lane order."""

    def visit(start: int, stop: int) -> Iterator[Node]:
        if stop <= hosted.start or hosted.stop <= start:
            return
        if hosted.start <= start and stop <= hosted.stop:
            yield start, stop
            return
        middle = start + split(stop - start)
        yield from visit(start, middle)
        yield from visit(middle, stop)

    return tuple(visit(0, lanes))


def left_nodes(node: Node, lane: int) -> tuple[Node, ...]:
    """The nodes under ``node`` to whose sums a lane's part is added when it is there, the first to be added first.

    Lanes come in order, so these are whole by then: the left siblings of all nodes that the lane is the last of. What
    is left of sums after any lane is then no more than the tree is deep.
    """
    start, stop = node
    found: list[Node] = []
    while stop - start > 1:
        middle = start + split(stop - start)
        if lane < middle:
            stop = middle
            found.clear()
        else:
            found.append((start, middle))
            start = middle
    return tuple(reversed(found))


def right_turns(node: Node, lane: int) -> int:
    """How often the way from ``node`` down to a lane goes right: of sums that wait at once each has another number."""
    start, stop = node
    turns = 0
    while stop - start > 1:
        middle = start + split(stop - start)
        start, stop, turns = (start, middle, turns) if lane < middle else (middle, stop, turns + 1)
    return turns


def node_sum_(node: Node, parts: Mapping[Node, torch.Tensor]) -> torch.Tensor:
    """Sum of a node out of smaller ones', with the bits of `tree_sum_`; made in the first, others are used up."""
    if node in parts:
        return parts[node]
    start, stop = node
    middle = start + split(stop - start)
    return node_sum_((start, middle), parts).add_(node_sum_((middle, stop), parts))


def take_mean(
    lanes: int, nodes: Mapping[Node, torch.Tensor], weight: float | torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """The tree's sum out of whole subtrees' sums, divided by ``weight``; the bits of `tree_sum_` over all lanes.

    Made in ``out``; inner nodes' sums are made in their first parts.
    """
    if (0, lanes) in nodes:
        return _divide(nodes[0, lanes], weight, out)
    middle = split(lanes)
    total = torch.add(node_sum_((0, middle), nodes), node_sum_((middle, lanes), nodes), out=out)
    return _divide(total, weight, out)


def _divide(total: torch.Tensor, weight: float | torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    if isinstance(weight, torch.Tensor) or math.frexp(weight)[0] != 0.5:
        return torch.div(total, weight, out=out)
    return torch.mul(total, 1 / weight, out=out)  # a power of two: the same bits, and faster
