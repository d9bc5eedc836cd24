"""What a task notes of the examples of a run, beside what it keeps of them: places, and which could not be taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError
from streamtrain.packing.shuffling.bad_examples import refused
from streamtrain.shards.origins import BAD, OriginLog


class RunNotes:
    """Of the examples ``[start, stop)`` of the source.

    Args:
        start: number of the first.
        most_bad: that many that cannot be taken end the packing at once; ``None`` for any number.
    """

    def __init__(self, start: int, most_bad: int | None) -> None:
        self.start = self.stop = start
        self.bad: list[tuple[str, str]] = []
        self._most_bad = most_bad
        self._codes: list[NDArray[np.uint8]] = []
        self._single = bytearray()
        self._log = OriginLog()

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The code of every example: see `shards.origins`."""
        self._join()
        return np.concatenate(self._codes) if self._codes else np.empty(0, np.uint8)

    @property
    def origins(self) -> bytes:
        """Where they come from; nothing is added after."""
        return self._log.done()

    def add(self, place: str, code: int) -> None:
        """One more example."""
        self._single.append(code)
        self._log.add(place, code)
        self.stop += 1

    def add_bad(self, place: str, error: SourceError) -> None:
        """One more, that cannot be taken.

        Raises:
            SourceError: they are too many.
        """
        self.add(place, BAD)
        self._note(place, str(error))

    def add_batch(
        self, place: Callable[[int], str], first: int, codes: NDArray[np.uint8], reasons: Mapping[int, str]
    ) -> None:
        """Further examples, from number ``first`` of a batch on; ``reasons`` are of its bad ones by their number."""
        self._join()
        self._codes.append(codes)
        self._log.add_batch(lambda number: place(first + number), codes)
        self.stop += len(codes)
        for number in sorted(number for number in reasons if first <= number < first + len(codes)):
            self._note(place(number), reasons[number])

    def _note(self, place: str, reason: str) -> None:
        self.bad.append((place, reason))
        if self._most_bad is not None and len(self.bad) >= self._most_bad:
            raise refused(self.bad, more=True)

    def _join(self) -> None:
        if self._single:
            self._codes.append(np.frombuffer(bytes(self._single), np.uint8))
            self._single.clear()
