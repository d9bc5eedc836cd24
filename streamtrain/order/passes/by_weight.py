"""Passes in which an example comes as often as its weight says: systematic sampling, drawn anew in each pass.

The examples are laid end to end, each as long as its weight, on a line that is as long as a pass has places, and one
is taken at each whole number, shifted by a part of one (Madow 1949, *On the theory of systematic sampling*). So an
example of the ``w/W``-th part of all weights comes in a pass of ``n`` examples ``n·w/W`` times, rounded down or up. The
shifts of the passes are spread as evenly as can be (multiples of the golden ratio), so over passes it evens out. Which
place comes when is a random permutation of (seed, pass). Nothing grows with the number of passes.

An evaluation takes examples by another number: by when they came first. So those that came are one run of numbers, and
a measurement of many of them is read and computed in large batches; by stored number they lie singly.

Costs 24 bytes an example, and where risks are measured 17 more and the drawing of the passes up to the one in which the
last example has come. Ends on the line are sums in float64, and what they say is true up to their rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streamtrain.order.passes.reshuffled import ROUNDS, half_bits, permuted
from streamtrain.order.randomness import lane_seed
from streamtrain.values import Lane, Selection

GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's part behind the point, of 2⁶⁴."""


class Weights:
    """How often each training example comes.

    Args:
        weights: of each, by stored number: finite, at least 0, not all 0.
        seed: of the passes.

    Attributes:
        examples: as many as there are, which is how many a pass has.
        kind: what shares are of, in words.
    """

    kind = "weight"

    def __init__(self, weights: NDArray[np.float64], seed: int) -> None:
        self._seed = seed
        self.examples = len(weights)
        self._ends = np.cumsum(weights)
        self._ends *= self.examples / self._ends[-1]
        self._starts = np.concatenate([[0.0], self._ends[:-1]])
        self._half = half_bits(self.examples)
        self._most = 2 + int(self.expected.max())  # times that an example comes in a pass, and more

    @functools.cached_property
    def expected(self) -> NDArray[np.float64]:
        """How often each comes in a pass, in the mean over passes."""
        expected: NDArray[np.float64] = self._ends - self._starts
        return expected

    def draw(self, pass_index: int, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The examples in these places of a pass, and a number of its own for each time that one comes in the run."""
        keys = [np.uint64(lane_seed(self._seed, pass_index, turn)) for turn in range(1, ROUNDS + 1)]
        drawn = permuted(places.astype(np.uint64), np.uint64(self.examples), self._half, keys)
        at = drawn + self._shift(pass_index)
        numbers = np.minimum(np.searchsorted(self._ends, at, "right"), self._last)
        times = (at - self._starts[numbers]).astype(np.int64)
        return numbers, pass_index * self._most + times

    def used(self, places: int) -> tuple[Lane, ...]:
        """The examples that come in the first ``places``, over all passes, by when they came first."""
        passes, rest = divmod(places, self.examples)
        came = self.came(passes)
        came[self.draw(passes, np.arange(rest))[0]] = True
        return (Lane(0, 0, int(came.sum())),)

    def came(self, passes: int) -> NDArray[np.bool_]:
        """Of each stored example, whether it comes in these first passes."""
        if not passes:
            return np.zeros(self.examples, bool)
        shifts = np.sort([self._shift(pass_index) for pass_index in range(passes)])
        whole = np.floor(self._starts)
        # a whole number, or one more, plus a shift lies between start and end
        below = np.searchsorted(shifts, self._ends - whole, "left") > np.searchsorted(shifts, self._starts - whole)
        found: NDArray[np.bool_] = below | (self._ends - whole - 1 > shifts[0]) | (self.expected >= 1)
        return found

    def select(self, start: int, stop: int) -> Selection:
        """The examples ``[start, stop)`` by when they came first, as they are read: in stored order."""
        return Selection(0, numbers=np.sort(self._arrivals.first(stop)[start:]))

    def by_part(self, runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Runs of stored numbers, as `used` numbers them; without those that have not come in the passes looked at."""
        stored = np.concatenate([np.empty(0, np.int64), *(np.arange(*run) for run in runs)])
        places = self._arrivals.places(stored)
        return [(place, place + 1) for place in places.tolist()]

    def __getstate__(self) -> dict[str, object]:
        """Without what is remembered of the passes, which stays here."""
        return {name: value for name, value in self.__dict__.items() if name != "_arrivals"}

    @functools.cached_property
    def _arrivals(self) -> Arrivals:
        return Arrivals(self)

    @functools.cached_property
    def _last(self) -> int:
        """The last example that has a weight: rounding may put the last place behind its end."""
        return int(np.flatnonzero(self.expected)[-1])

    def _shift(self, pass_index: int) -> float:
        """Of all places of a pass, in [0, 1)."""
        words = (lane_seed(self._seed, 0, self.examples) + pass_index * GOLDEN) % 2**64
        return math.ldexp(words >> 11, -53)


class Arrivals:
    """The stored examples in the order in which they first come, pass after pass, as far as it was asked for."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._passes = 0
        self._came = np.zeros(weights.examples, bool)
        self._numbers = np.empty(0, np.int64)

    def first(self, count: int) -> NDArray[np.int64]:
        """So many that come first.

        Raises:
            IndexError: fewer than that have a weight.
        """
        if count > np.count_nonzero(self._weights.expected):
            raise IndexError(f"{count} examples, of which fewer have a weight above 0")
        while len(self._numbers) < count:
            self._look_at_a_pass()
        return self._numbers[:count]

    def places(self, stored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where these stand among those that have come in the passes looked at, of each that has."""
        found: NDArray[np.int64] = np.flatnonzero(np.isin(self._numbers, stored))
        return found

    def _look_at_a_pass(self) -> None:
        came = self._weights.came(self._passes + 1)
        new = came & ~self._came
        if new.any():
            drawn = self._weights.draw(self._passes, np.arange(self._weights.examples))[0]
            place = np.full(self._weights.examples, self._weights.examples)
            place[drawn[::-1]] = np.arange(self._weights.examples)[::-1]  # of several places the first stays
            added = np.flatnonzero(new)
            self._numbers = np.concatenate([self._numbers, added[np.argsort(place[added], kind="stable")]])
        self._came |= came
        self._passes += 1


class WeightedPasses:
    """Passes by weights: rows with an example of each lane, one below the other, are the places of a pass.

    Args:
        lane_starts: the first of each lane's examples.
    """

    def __init__(self, weights: Weights, lane_starts: NDArray[np.int64]) -> None:
        self._weights = weights
        self._lane_starts = lane_starts

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """Where the examples ``[start, stop)`` of this pass's order lie, and which time of its example each is."""
        numbers = np.arange(start, stop)
        lanes = np.searchsorted(self._lane_starts, numbers, "right") - 1
        places = (numbers - self._lane_starts[lanes]) * len(self._lane_starts) + lanes
        found, times = self._weights.draw(pass_index, places)
        return Selection(pass_index, numbers=found, passes=times)
