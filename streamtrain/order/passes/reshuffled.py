"""Which order the examples of the split take in each pass: the stored one, its shards permuted, or all permuted.

The first pass always takes the stored order, which is a uniformly random one already. A later pass maps number ``i``
of its own order to the stored order by arithmetic from (seed, pass): nothing is stored, and any ``i`` is found at once.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from streamtrain.order.randomness import MASK, lane_seed
from streamtrain.values import Selection

Reshuffle = Literal["stored", "shards", "examples"]
ROUNDS = 6


class Passes(Protocol):
    """The orders of all passes."""

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """Where the examples ``[start, stop)`` of this pass's order lie in the stored order."""


class StoredPasses:
    """Every pass takes the stored order."""

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """The same examples."""
        return Selection(pass_index, ((start, stop),))


class ShardPasses:
    """Later passes take the shards in a random order, each from its first example to its last.

    Args:
        starts: the first example of every shard, and the number of all: ascending, from 0.
        seed: of the permutations.

    Holds 16 bytes a shard for the pass that is asked for.
    """

    def __init__(self, starts: Sequence[int], seed: int) -> None:
        self._starts = np.asarray(starts, np.int64)
        self._seed = seed
        self._of_pass = functools.lru_cache(maxsize=2)(self._permuted)

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """Where they lie: a run of each shard that this part of the pass takes."""
        if pass_index == 0:
            return Selection(0, ((start, stop),))
        shards, begins = self._of_pass(pass_index)
        at = bisect.bisect_right(begins, start) - 1
        runs = []
        while start < stop:
            end = min(stop, begins[at + 1])
            first = int(self._starts[shards[at]]) + start - begins[at]
            if start < end:
                runs.append((first, first + end - start))
            start = end
            at = at + 1
        return Selection(pass_index, tuple(runs))

    def __reduce__(self) -> tuple[type[ShardPasses], tuple[Sequence[int], int]]:
        return ShardPasses, (self._starts.tolist(), self._seed)  # what is remembered of passes stays here

    def _permuted(self, pass_index: int) -> tuple[list[int], list[int]]:
        """The shards in this pass's order, and where each begins in it."""
        random = np.random.Philox(key=lane_seed(self._seed, pass_index, 0)).random_raw(len(self._starts) - 1)
        shards = np.argsort(random, kind="stable")
        begins = np.concatenate([[0], np.cumsum(np.diff(self._starts)[shards])])
        return shards.tolist(), begins.tolist()


class ExamplePasses:
    """Later passes take all examples in a random order: a Feistel network over their numbers, walked until it is in.

    Luby & Rackoff 1988 (the network), Black & Rogaway 2002 (cycle walking). A permutation of ``examples`` numbers
    that needs no memory.

    Args:
        examples: in the split.
        seed: of the permutations.
    """

    def __init__(self, examples: int, seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._half = half_bits(examples)

    def stored(self, pass_index: int, start: int, stop: int) -> Selection:
        """Where they lie: number by number, after the first pass."""
        if pass_index == 0:
            return Selection(0, ((start, stop),))
        keys = [np.uint64(lane_seed(self._seed, pass_index, turn)) for turn in range(1, ROUNDS + 1)]
        numbers = permuted(np.arange(start, stop, dtype=np.uint64), np.uint64(self._examples), self._half, keys)
        return Selection(pass_index, numbers=numbers.astype(np.int64))


def passes_of(reshuffle: Reshuffle, examples: int, starts: Sequence[int], seed: int) -> Passes:
    """The orders that a job asks for: ``starts`` as in `ShardPasses`, ``examples`` as in `ExamplePasses`."""
    if reshuffle == "shards":
        return ShardPasses(starts, seed)
    return ExamplePasses(examples, seed) if reshuffle == "examples" else StoredPasses()


def half_bits(examples: int) -> np.uint64:
    """Bits of each half of a network that holds so many numbers."""
    return np.uint64(max(1, -(-(examples - 1).bit_length() // 2)))


def permuted(
    numbers: NDArray[np.uint64],
    examples: np.uint64 | NDArray[np.uint64],
    half: np.uint64 | NDArray[np.uint64],
    keys: Sequence[np.uint64 | NDArray[np.uint64]],
) -> NDArray[np.uint64]:
    """The networks' numbers for these, each below its ``examples``; one network for all, or one for each number.

    Args:
        half: its `half_bits`.
        keys: of the rounds.
    """
    found = _network(numbers, half, keys)
    outside = np.flatnonzero(found >= examples)
    while outside.size:
        found[outside] = _network(found[outside], _at(half, outside), [_at(key, outside) for key in keys])
        outside = outside[found[outside] >= _at(examples, outside)]
    return found


def _network(
    numbers: NDArray[np.uint64], half: np.uint64 | NDArray[np.uint64], keys: Sequence[np.uint64 | NDArray[np.uint64]]
) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return (left << half) | right


def _at(of_network: np.uint64 | NDArray[np.uint64], numbers: NDArray[np.int64]) -> np.uint64 | NDArray[np.uint64]:
    return of_network[numbers] if isinstance(of_network, np.ndarray) else of_network


def mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (see `randomness`), element by element, modulo 2⁶⁴."""
    state = state + np.uint64(0x9E3779B97F4A7C15 & MASK)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
