"""Places given to parts at exact shares: a period of places, found once and repeated.

In any first ``m`` places a part with share ``s`` has ``⌊s·m⌋`` or ``⌈s·m⌉`` of them, so it is never a whole example
from its share. That its ``j``-th place lies in ``[⌊(j-1)/s⌋, ⌈j/s⌉)`` is the same said place by place (Baruah, Cohen,
Plaxton & Varvel 1996, *Proportionate progress*); such places exist, and taking the earliest deadline first finds them.
Costs a heap's turn for each place of a period.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def share_pattern(weights: Sequence[int]) -> NDArray[np.int64]:
    """The part of each place of a period, in which part ``i`` has ``weights[i]`` places, or these by their divisor.

    Args:
        weights: shares as whole numbers above 0.
    """
    divisor = math.gcd(*weights)
    return _pattern(tuple(weight // divisor for weight in weights))


@functools.lru_cache(maxsize=4)
def _pattern(counts: tuple[int, ...]) -> NDArray[np.int64]:
    if max(counts) == 1:
        return np.arange(len(counts), dtype=np.int64)
    places = sum(counts)
    coming = [(0, part, 0) for part in range(len(counts))]  # from which place on, of which part, its how-manieth
    ready: list[tuple[int, int, int]] = []  # before which place, and the same
    pattern = np.empty(places, np.int64)
    for place in range(places):
        while coming and coming[0][0] <= place:
            _, part, index = heapq.heappop(coming)
            heapq.heappush(ready, (-(-(index + 1) * places // counts[part]), part, index))
        _, part, index = heapq.heappop(ready)
        pattern[place] = part
        if index + 1 < counts[part]:
            heapq.heappush(coming, ((index + 1) * places // counts[part], part, index + 1))
    return pattern
