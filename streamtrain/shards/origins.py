"""Where each example came from: file, row or key in the source, as a compressed list beside the shards.

``about/NNNNNN.examples.gz`` is of segment NNNNNN: one line ``[examples, code, place]`` of JSON for consecutive
examples of the source whose places count up by one in their last number, e.g. ``[50, 0, "iris.csv, row 0"]``. A table
takes some bytes, a folder of files some bytes a file. Places are texts to show, and never used as paths.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ManifestError, complaint, one_line
from streamtrain.shards.stored_order import order_of, sort_keys

FOLDER = "about"
REPEATED, BAD, BY_FRACTIONS = 3, 4, 5
"""Codes beside the splits' numbers 0 to 2: left out as a repetition; as bad; taken, its split cut from the order."""
MOST_BYTES = 1 << 30
"""Of a list, unpacked: that of some ten million files."""
_NUMBER = re.compile(r"(?:0|[1-9]\d{0,17})$")


@dataclass
class Stretch:
    """Consecutive examples of one code, whose places count up from ``place``."""

    count: int
    code: int
    place: str

    def follows(self, code: int, place: str) -> bool:
        """Whether one more example, of this code and place, belongs to them."""
        return code == self.code and place == _counted_up(self.place, self.count)


class OriginLog:
    """Takes down where examples come from, in the source's order."""

    def __init__(self) -> None:
        self._raw = io.BytesIO()
        self._file = gzip.GzipFile(fileobj=self._raw, mode="wb", compresslevel=1, mtime=0)
        self._open: Stretch | None = None
        self._prefix = ""
        self._next = -1

    def add(self, place: str, code: int) -> None:
        """One more example."""
        held = self._open
        if held is not None and code == held.code and place == f"{self._prefix}{self._next}":
            held.count += 1
            self._next += 1
            return
        self._begin(Stretch(1, code, place))

    def add_batch(self, places: Callable[[int], str], codes: NDArray[np.uint8]) -> None:
        """Further examples; where places end in a number, it grows from one to the next."""
        count = len(codes)
        first, last = places(0), places(count - 1)
        if (codes == codes[0]).all() and last == _counted_up(first, count - 1):
            self.add(first, int(codes[0]))
            assert self._open is not None
            self._open.count += count - 1
            self._next += count - 1
            return
        for number, code in enumerate(codes.tolist()):
            self.add(places(number), code)

    def done(self) -> bytes:
        """The list."""
        self._flush()
        self._file.close()
        return self._raw.getvalue()

    def _begin(self, stretch: Stretch) -> None:
        self._flush()
        self._open = stretch
        found = _NUMBER.search(stretch.place)
        self._prefix = stretch.place[: found.start()] if found else ""
        self._next = int(found[0]) + 1 if found else -1

    def _flush(self) -> None:
        if self._open is not None:
            self._file.write(_line(self._open))
            self._open = None


def write_origins(file: Path, parts: Iterable[bytes], without: str) -> None:
    """Joins lists, given in the source's order; the same ones give the same bytes, however they were cut.

    Args:
        without: what is left out at the beginning of every place, e.g. the folder that the source lies in.
    """
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as packed:
        held: Stretch | None = None
        text = bytearray()
        for stretch in (stretch for part in parts for stretch in _stretches(part)):
            stretch.place = stretch.place.removeprefix(without)
            if held is not None and held.follows(stretch.code, stretch.place):
                held.count += stretch.count
                continue
            text += b"" if held is None else _line(held)
            held = stretch
            while len(text) >= 1 << 16:  # equal pieces, since the compressed bytes may follow from them
                packed.write(text[: 1 << 16])
                del text[: 1 << 16]
        packed.write(text + (b"" if held is None else _line(held)))


@dataclass(frozen=True, eq=False)
class Origins:
    """Where all examples of a segment came from; numbers are those of the source, from 0."""

    counts: NDArray[np.int64]
    codes: NDArray[np.uint8]
    places: tuple[str, ...]

    def place(self, number: int) -> str:
        """Of one example."""
        starts = np.cumsum(self.counts) - self.counts
        at = int(np.searchsorted(starts, number, side="right")) - 1
        return _counted_up(self.places[at], number - int(starts[at]))

    def find(self, name: str) -> int | None:
        """Number of the example whose place is ``name``, or ends in it after a slash."""
        start = 0
        found = _NUMBER.search(name)
        for count, place in zip(self.counts.tolist(), self.places, strict=True):
            if count == 1 or not found:
                within = 0
            else:
                number = _NUMBER.search(place)
                within = int(found[0]) - int(number[0]) if number else -1
            if 0 <= within < count and _is_called(_counted_up(place, within), name):
                return start + within
            start += count
        return None

    def stored_order(self, seed: int) -> NDArray[np.int64]:
        """Stored position -> number in the source, of the examples that were taken."""
        codes = np.repeat(self.codes, self.counts)
        taken = np.flatnonzero((codes < REPEATED) | (codes == BY_FRACTIONS))
        given = None if (codes == BY_FRACTIONS).any() else np.minimum(codes, REPEATED)
        return taken[order_of(sort_keys(seed, 0, len(codes), given)[taken])]


def origins_file(segment: int) -> str:
    """Name of a segment's list in the data set's folder."""
    return f"{FOLDER}/{segment:06d}.examples.gz"


def read_origins(data: bytes, where: str) -> Origins:
    """The list; nothing of it is trusted.

    Raises:
        ManifestError: it is damaged, or larger unpacked than `MOST_BYTES`.
    """
    try:
        found = list(_stretches(data))
        counts = np.array([stretch.count for stretch in found], np.int64)
        codes = np.array([stretch.code for stretch in found], np.uint8)
    except (OSError, EOFError, ValueError, TypeError, OverflowError, RecursionError) as error:
        do = "restore it from a copy"
        raise ManifestError(complaint(where, expected="a list of origins", found=one_line(error), do=do)) from None
    return Origins(counts, codes, tuple(stretch.place for stretch in found))


def _stretches(data: bytes) -> Iterator[Stretch]:
    read = 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
        while line := unpacked.readline(1 << 20):
            read += len(line)
            if read > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes")
            yield _stretch(json.loads(line))


def _stretch(entry: Any) -> Stretch:
    count, code, place = entry
    if not (isinstance(count, int) and isinstance(code, int) and isinstance(place, str)):
        raise TypeError("other than two numbers and a text")
    if not (0 < count < 1 << 48 and 0 <= code <= BY_FRACTIONS):
        raise ValueError(f"{count} examples of code {code}")
    return Stretch(count, code, place)


def _line(stretch: Stretch) -> bytes:
    return json.dumps([stretch.count, stretch.code, stretch.place]).encode() + b"\n"


def _counted_up(place: str, by: int) -> str:
    found = _NUMBER.search(place)
    return f"{place[: found.start()]}{int(found[0]) + by}" if found else place if by == 0 else ""


def _is_called(place: str, name: str) -> bool:
    return place == name or place.endswith(f"/{name}")
