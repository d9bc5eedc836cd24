"""Passes over parts at given shares, each part a pass of its own that goes on where the last minibatch left it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.order.lanes import lanes_of
from streamtrain.order.passes.parts import Parts
from streamtrain.order.passes.reshuffled import ROUNDS, Reshuffle, half_bits, mixed, permuted
from streamtrain.order.randomness import lane_seed
from streamtrain.values import Selection


class PartPasses:
    """See the module.

    A minibatch takes the next examples of every lane: rows with an example of each, one below the other. The rows are
    the places in which parts come, so a minibatch of any size is a run of places, and has each part's share. Which
    lane has which place of a row is turned by (seed, pass, row): no lane is of one part.

    Args:
        examples: of a pass, that lanes are ranges of.
        used: of these, the first of every lane.
        lanes: number of lanes.
        reshuffle: order of a part's own passes after its first, which is in stored order; not ``shards``.
        seed: of the orders.
    """

    def __init__(self, parts: Parts, examples: int, used: int, lanes: int, reshuffle: Reshuffle, seed: int) -> None:
        self._parts = parts
        self._used = used
        self._lanes = lanes
        self._reshuffle = reshuffle
        self._seed = seed
        self._lane_starts = np.array([lane.start for lane in lanes_of(examples, lanes)])
        self._sizes = np.array(parts.sizes)
        self._halves = np.array([half_bits(size) for size in parts.sizes])

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """Where the examples ``[start, stop)`` of this pass's order lie, and in which pass of its part each comes."""
        parts = self._parts
        places = pass_index * self._used + self._places(pass_index, np.arange(start, stop))
        periods, at = np.divmod(places, len(parts.pattern))
        part = parts.pattern[at]
        own_passes, within = np.divmod(periods * parts.in_period[part] + parts.ranks[at], self._sizes[part])
        if self._reshuffle == "examples":
            self._permute(part, own_passes, within)
        numbers = parts.starts[part] + within
        return Selection(
            pass_index, numbers=numbers if parts.members is None else parts.members[numbers], passes=own_passes
        )

    def _places(self, pass_index: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of a pass in which these examples of its order come."""
        lane = np.searchsorted(self._lane_starts, numbers, "right") - 1
        row = numbers - self._lane_starts[lane]
        width = np.minimum(self._lanes, self._used - row * self._lanes)  # of the last row, perhaps fewer
        turned = mixed(row.astype(np.uint64) ^ np.uint64(lane_seed(self._seed, pass_index, 0)))
        turns = (turned % width.astype(np.uint64)).astype(np.int64)
        places: NDArray[np.int64] = row * self._lanes + (lane + turns) % width
        return places

    def _permute(self, part: NDArray[np.int64], own_passes: NDArray[np.int64], within: NDArray[np.int64]) -> None:
        """Permutes what comes in a part's later passes."""
        later = np.flatnonzero(own_passes)
        if not later.size:
            return
        part = part[later]
        base = mixed(part.astype(np.uint64) ^ np.uint64(lane_seed(self._seed, 0, len(self._sizes))))
        base = mixed(base ^ own_passes[later].astype(np.uint64))
        keys = [mixed(base ^ np.uint64(turn)) for turn in range(1, ROUNDS + 1)]
        numbers = within[later].astype(np.uint64)
        within[later] = permuted(numbers, self._sizes.astype(np.uint64)[part], self._halves[part], keys)
