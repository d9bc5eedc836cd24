"""What a task notes of the examples of a run, beside what it keeps of them: places, and which could not be taken."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.packing.shuffling.encoded import Encoded
from streamtrain.packing.shuffling.runs.bad_examples import RefusedExamples
from streamtrain.shards.origins import OriginLog


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
        self._log = OriginLog()

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The code of every example: see `shards.origins`."""
        return np.concatenate(self._codes) if self._codes else np.empty(0, np.uint8)

    @property
    def origins(self) -> bytes:
        """Where they come from; nothing is added after."""
        return self._log.done()

    def add(self, batch: Encoded, first: int, stop: int) -> None:
        """Further examples: ``[first, stop)`` of a batch.

        Raises:
            SourceError: too many of them cannot be taken.
        """
        if first == stop:
            return
        codes = batch.codes[first:stop]
        self._codes.append(codes)
        if batch.in_a_row:
            self._log.add_batch(lambda number: batch.place(first + number), codes)
        else:
            for number, code in enumerate(codes.tolist(), first):
                self._log.add(batch.place(number), code)
        self.stop += len(codes)
        for number in sorted(number for number in batch.reasons if first <= number < stop):
            self._note(batch.place(number), batch.reasons[number])

    def _note(self, place: str, reason: str) -> None:
        self.bad.append((place, reason))
        if self._most_bad is not None and len(self.bad) >= self._most_bad:
            raise RefusedExamples(self.bad, more=True)
