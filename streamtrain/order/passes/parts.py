"""Training examples in parts, each with a share of every minibatch: how many it gives, and which it has given.

Two numberings. Stored: the data set's own. By part: all examples of the first part, then all of the second, and so on,
each part's in stored order; so what a part has given first is one run.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamtrain.order.passes.pattern import share_pattern
from streamtrain.values import Lane, Selection


@dataclass(frozen=True, eq=False)
class Parts:
    """See the module.

    Attributes:
        sizes: examples of each part; above 0.
        weights: their shares, as whole numbers above 0.
        members: the stored number of every example, part after part; ``None`` where the parts lie so in stored order.
        kind: what a part is, in words: ``class``.
    """

    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    members: NDArray[np.int64] | None = None
    kind: str = "part"

    @property
    def examples(self) -> int:
        """Of all parts."""
        return sum(self.sizes)

    @functools.cached_property
    def starts(self) -> NDArray[np.int64]:
        """By part: the first example of each."""
        return np.cumsum([0, *self.sizes[:-1]])

    @functools.cached_property
    def pattern(self) -> NDArray[np.int64]:
        """The part that each place of a period is of."""
        return share_pattern(self.weights)

    @functools.cached_property
    def in_period(self) -> NDArray[np.int64]:
        """Places of each part in a period."""
        return np.bincount(self.pattern, minlength=len(self.sizes))

    @functools.cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Of each place of a period: how many places of its part come before it."""
        ranks = np.empty(len(self.pattern), np.int64)
        for part in range(len(self.sizes)):
            at = np.flatnonzero(self.pattern == part)
            ranks[at] = np.arange(len(at))
        return ranks

    def given(self, places: int) -> NDArray[np.int64]:
        """How many of the first ``places`` each part has."""
        periods, rest = divmod(places, len(self.pattern))
        return periods * self.in_period + np.bincount(self.pattern[:rest], minlength=len(self.sizes))

    @functools.cached_property
    def once(self) -> int:
        """The most places in which no example comes twice: up to where the first part has no more."""
        return self.places_of(self.sizes)

    def places_of(self, examples: Sequence[int]) -> int:
        """The most first places for which so many examples of each part are enough."""
        found = []
        for part, count in enumerate(examples):
            periods, rest = divmod(count, int(self.in_period[part]))
            found.append(periods * len(self.pattern) + int(np.flatnonzero(self.pattern == part)[rest]))
        return min(found)

    def by_share(self, ranges: Sequence[Lane], wanted: int) -> list[tuple[list[Lane], int]]:
        """Of each part: its examples among these, by part, and how many it gives to ``wanted`` of all at its share.

        Fewer than are wanted, where a part has fewer.
        """
        ends = [*self.starts.tolist(), self.examples]
        own: list[list[Lane]] = [[] for _ in self.sizes]
        for part, (first, last) in enumerate(itertools.pairwise(ends)):
            for each in ranges:
                start, stop = max(each.start, first), min(each.stop, last)
                own[part] += [Lane(part, start, stop)] if start < stop else []
        there = [sum(each.stop - each.start for each in lanes) for lanes in own]
        counts = self.given(min(wanted, self.places_of(there)))
        return list(zip(own, counts.tolist(), strict=True))

    def used(self, places: int) -> tuple[Lane, ...]:
        """By part: the examples that come in the first ``places``; each part gives its stored order first."""
        taken = np.minimum(self.given(places), self.sizes).tolist()
        parts = enumerate(zip(self.starts.tolist(), taken, strict=True))
        return tuple(Lane(index, start, start + count) for index, (start, count) in parts if count)

    def select(self, start: int, stop: int) -> Selection:
        """The examples ``[start, stop)`` by part, as they are read."""
        if self.members is None:
            return Selection(0, ((start, stop),))
        return Selection(0, numbers=self.members[start:stop])

    def by_part(self, runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Runs of stored numbers as runs by part."""
        if self.members is None:
            return list(runs)
        places = self._places
        return [(place, place + 1) for start, stop in runs for place in places[start:stop].tolist()]

    @functools.cached_property
    def _places(self) -> NDArray[np.int64]:
        """The number by part of every stored example."""
        assert self.members is not None
        return np.argsort(self.members)
