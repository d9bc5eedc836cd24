"""Training examples that passes offered and no update took: late parts, and minibatches that were passed over.

Held as runs of the stored order, so what it costs grows with the number of such parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamtrain.stored import Stored
from streamtrain.values import Lane, Selection

Run = tuple[int, int]


@dataclass
class Unused(Stored):
    """Pass after pass.

    Attributes:
        before: in no pass that is done; ``None`` before the first is.
        present: not in the pass that goes on, so far.
    """

    before: list[Run] | None = None
    present: list[Run] = field(default_factory=list)

    def add(self, selection: Selection) -> None:
        """These examples of the present pass were not used."""
        if selection.numbers is None:
            self.present += selection.runs
        elif len(numbers := np.sort(selection.numbers)):
            cuts = np.flatnonzero(np.diff(numbers) > 1)
            starts = numbers[np.r_[0, cuts + 1]]
            stops = numbers[np.r_[cuts, len(numbers) - 1]] + 1
            self.present += zip(starts.tolist(), stops.tolist(), strict=True)
        self.present = merged(self.present)

    def end_pass(self) -> None:
        """The next pass offers all of them again."""
        self.before = self.present if self.before is None else common(self.before, self.present)
        self.present = []

    @property
    def runs(self) -> list[Run]:
        """Examples of which it is not sure that any update took them: in no pass that is done, or not in the first."""
        return self.present if self.before is None else self.before


def merged(runs: Iterable[Run]) -> list[Run]:
    """The same examples as the fewest runs, in order."""
    found: list[Run] = []
    for start, stop in sorted(runs):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def common(one: Sequence[Run], other: Sequence[Run]) -> list[Run]:
    """The examples in both; each is merged."""
    found = []
    first = 0
    second = 0
    while first < len(one) and second < len(other):
        start, stop = max(one[first][0], other[second][0]), min(one[first][1], other[second][1])
        if start < stop:
            found.append((start, stop))
        if one[first][1] < other[second][1]:
            first += 1
        else:
            second += 1
    return found


def without(ranges: Sequence[Lane], runs: Iterable[Run]) -> tuple[Lane, ...]:
    """What is left of ``ranges`` without the examples of ``runs``, in order."""
    left: list[Lane] = []
    out = merged(runs)
    for each in ranges:
        start = each.start
        for first, last in common([(each.start, each.stop)], out):
            left.append(Lane(each.index, start, first))
            start = last
        left.append(Lane(each.index, start, each.stop))
    return tuple(each for each in left if each.start < each.stop)
