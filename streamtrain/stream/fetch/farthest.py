"""What of a known sequence of uses to fetch, to keep and to drop: what is used farthest from now leaves.

With units of one size no other choice fetches less (L. A. Bélády, "A study of replacement algorithms for a
virtual-storage computer", 1966); what comes and is used later than all that is kept is not kept at all. Arithmetic
only: which bytes lie where is `planned`'s business. Holds what is looked ahead: some tens of bytes a use.
"""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

FAR = sys.maxsize
"""When a unit is used that is not among those looked ahead."""
LOOKED_AHEAD = 1 << 18
"""Uses that are looked ahead at most."""


class Visit(NamedTuple):
    """One use of a unit: whether it has to come, whether it is kept afterwards, and which leave before that."""

    unit: int
    comes: bool
    stays: bool
    leaving: tuple[int, ...]


def visits(
    uses: Iterable[int], size_of: Callable[[int], int], room: int, looked_ahead: int = LOOKED_AHEAD
) -> Iterator[Visit]:
    """The uses, one after the other, such that what is kept never has more than ``room`` bytes.

    Args:
        uses: units in the order of their use; may be endless.
        size_of: a unit's bytes.
        looked_ahead: uses. For random orders of ``n`` units as many are enough: with room for the part ``c`` of them,
            those stay that are used again within about ``n·√(2c)``.
    """
    plan = _Plan(uses, size_of, room, max(looked_ahead, 1))
    while (visit := plan.next()) is not None:
        yield visit


class _Plan:
    def __init__(self, uses: Iterable[int], size_of: Callable[[int], int], room: int, looked_ahead: int) -> None:
        self._uses = enumerate(uses)
        self._size_of = size_of
        self._room = room
        self._looked_ahead = looked_ahead
        self._now = 0
        self._coming: deque[int] = deque()
        self._last: dict[int, int] = {}  # the last use of each unit in it
        self._after: dict[int, int] = {}  # of a use in it that of the same unit which follows
        self._kept: dict[int, int] = {}  # when each is used next
        self._used = 0  # their bytes
        self._farthest: list[tuple[int, int]] = []  # a heap of (-when, unit); entries that are not so any more stay

    def next(self) -> Visit | None:
        """The next use; ``None`` after the last."""
        self._look_ahead()
        if not self._coming:
            return None
        unit = self._coming.popleft()
        after = self._after.pop(self._now, FAR)
        if after == FAR:
            del self._last[unit]
        self._now += 1
        if unit in self._kept:
            self._keep(unit, after)
            return Visit(unit, False, True, ())
        size = self._size_of(unit)
        leaving = tuple(self._make_room(size, after))
        stays = self._used + size <= self._room
        if stays:
            self._used += size
            self._keep(unit, after)
        return Visit(unit, True, stays, leaving)

    def _look_ahead(self) -> None:
        while len(self._coming) < self._looked_ahead:
            when, unit = next(self._uses, (FAR, 0))
            if when == FAR:
                return
            self._coming.append(unit)
            before = self._last.get(unit)
            if before is not None:
                self._after[before] = when
            elif unit in self._kept:  # until now it was thought to be far
                self._keep(unit, when)
            self._last[unit] = when

    def _keep(self, unit: int, after: int) -> None:
        self._kept[unit] = after
        heapq.heappush(self._farthest, (-after, unit))
        if len(self._farthest) > 4 * len(self._kept) + 64:
            self._farthest = [(-when, each) for each, when in self._kept.items()]
            heapq.heapify(self._farthest)

    def _make_room(self, size: int, after: int) -> Iterator[int]:
        """Lets go of what is used later than ``after``, until so many bytes have room."""
        while self._used + size > self._room and self._farthest:
            when, unit = self._farthest[0]
            if self._kept.get(unit) != -when:
                heapq.heappop(self._farthest)
            elif -when <= after:
                return
            else:
                heapq.heappop(self._farthest)
                del self._kept[unit]
                self._used -= self._size_of(unit)
                yield unit
