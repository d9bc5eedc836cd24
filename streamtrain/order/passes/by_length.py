"""Passes whose minibatches are of neighbours in length, within windows of another pass's order.

A window is what the next `WINDOW` minibatches would take. Its examples are sorted by length and cut into as many
minibatches, which come in a random order, as do the examples within each: no lane, and no part of a window, has the
short ones. The short last minibatch of a pass stays the last, and is cut out at a random place. All draws follow from
(seed, pass, window), so a pass uses the same examples as the order that it is made from, each once.

Costs a sort of a window each time that one is come to, and 8 bytes for each of its examples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamtrain.order.passes.reshuffled import Passes
from streamtrain.order.randomness import lane_seed
from streamtrain.values import Lane, Selection

WINDOW = 100
"""Minibatches of a window: each has a hundredth of the lengths that it holds."""


class LengthPasses:
    """See the module.

    Args:
        base: the order that windows are laid over.
        lengths: of every example, by stored number.
        ranges: the examples that a pass uses, by lane.
        batch_size: of the largest minibatch that there may be; a multiple of the lanes. Smaller ones are neighbours as
            well, out of a part of such a minibatch.
        seed: of the draws.
    """

    def __init__(
        self, base: Passes, lengths: NDArray[np.int64], ranges: Sequence[Lane], batch_size: int, seed: int
    ) -> None:
        self._given = base, lengths, ranges, batch_size, seed
        self._base = base
        self._lengths = lengths
        self._ranges = ranges
        self._batch_size = batch_size
        self._seed = seed
        self._lane_starts = np.array([lane.start for lane in ranges])
        self._rows = WINDOW * batch_size // len(ranges)
        self._of_window = functools.lru_cache(maxsize=2)(self._sorted)

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """Where the examples ``[start, stop)`` of this pass's order lie: number by number."""
        numbers = np.arange(start, stop)
        lanes = np.searchsorted(self._lane_starts, numbers, "right") - 1
        windows, rows = np.divmod(numbers - self._lane_starts[lanes], self._rows)
        places = rows * len(self._ranges) + lanes
        found = np.empty(len(numbers), np.int64)
        for window in np.unique(windows).tolist():
            at = windows == window
            found[at] = self._of_window(pass_index, window)[places[at]]
        return Selection(pass_index, numbers=found)

    def used(self, places: int) -> tuple[Lane, ...]:
        """The stored examples that the first ``places`` of the first pass take: whole windows, and a part of one."""
        window, rest = divmod(places, self._rows * len(self._ranges))
        whole = [Lane(r.index, r.start, min(r.start + window * self._rows, r.stop)) for r in self._ranges]
        some = np.sort(self._of_window(0, window)[:rest]) if rest else np.empty(0, np.int64)
        pieces = np.split(some, np.flatnonzero(np.diff(some) > 1) + 1) if rest else []
        return (*whole, *(Lane(0, int(piece[0]), int(piece[-1]) + 1) for piece in pieces))

    def __reduce__(self) -> tuple[type[LengthPasses], tuple[object, ...]]:
        return LengthPasses, self._given  # what is remembered of windows stays here

    def _sorted(self, pass_index: int, window: int) -> NDArray[np.int64]:
        """The stored examples of a window, in the order of their places."""
        first = window * self._rows
        parts = [(r.start + first, min(r.start + first + self._rows, r.stop)) for r in self._ranges]
        stored = np.concatenate([self._base.stored(pass_index, *part).each() for part in parts if part[0] < part[1]])
        by_length = stored[np.argsort(self._lengths[stored], kind="stable")]
        count, rest = divmod(len(stored), self._batch_size)
        key = lane_seed(lane_seed(self._seed, pass_index, 0), window, 1)
        draws = np.random.Philox(key=key).random_raw(1 + count + len(stored))
        cut = int(draws[0] % (count + 1)) * self._batch_size
        last = by_length[cut : cut + rest][np.argsort(draws[1 : 1 + rest])]
        others = np.delete(by_length, slice(cut, cut + rest)).reshape(count, self._batch_size)
        within = np.argsort(draws[1 + rest : 1 + len(stored)].reshape(others.shape), axis=1)
        shuffled = np.take_along_axis(others, within, axis=1)
        return np.concatenate([shuffled[np.argsort(draws[1 + len(stored) :])].ravel(), last])
