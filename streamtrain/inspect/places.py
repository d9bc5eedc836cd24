"""Where an example of a data set came from: its segment, its number in the source, and the file and row there."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ManifestError, complaint
from streamtrain.packing.report import Report, read_report, report_file
from streamtrain.shards import Manifest, stored_order
from streamtrain.shards.manifest import FRACTIONS
from streamtrain.shards.origins import Origins, origins_file, read_origins
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.unpacked import data_folder


@dataclass(frozen=True)
class Place:
    """Of one example.

    Attributes:
        segment: that it was packed in.
        stored: its place in the segment's stored order.
        number: its number in the source.
        place: the file and row there; ``None`` where the data set does not keep them.
    """

    segment: int
    stored: int
    number: int
    place: str | None


class AllOrigins:
    """Of all segments of a data set; each list is read when it is first asked for."""

    def __init__(self, url: str, manifest: Manifest) -> None:
        self._url = url
        self._manifest = manifest
        self._read = functools.lru_cache(maxsize=None)(self._list)

    def place(self, split: str, number: int) -> str | None:
        """File and row of an example of a split."""
        found = self.of(split, number)
        return None if found is None else found.place

    def of(self, split: str, number: int) -> Place | None:
        """Where an example of a split came from; ``None`` for foreign shards."""
        for index, segment in enumerate(self._manifest.segments):
            if number < segment.examples.get(split, 0):
                stored = segment.before(split) + number
                source = int(self._order(index)[stored])
                origins = self._read(index)
                return Place(index, stored, source, None if origins is None else origins.place(source))
            number -= segment.examples.get(split, 0)
        return None

    def find(self, name: str) -> tuple[str, int] | None:
        """Split and number there of the example from a place, e.g. ``cat/1.png`` or ``iris.csv, row 7``."""
        before = dict.fromkeys(self._manifest.splits, 0)
        for index, segment in enumerate(self._manifest.segments):
            origins = self._read(index)
            source = None if origins is None else origins.find(name)
            if source is not None:
                stored = np.flatnonzero(self._order(index) == source)
                if not len(stored):
                    do = "see the report for why"
                    raise ManifestError(complaint(name, expected="an example", found="one that was left out", do=do))
                number = int(stored[0])
                for split in self._manifest.splits:
                    if segment.before(split) <= number < segment.before(split) + segment.examples.get(split, 0):
                        return split, before[split] + number - segment.before(split)
            for split in before:
                before[split] += segment.examples.get(split, 0)
        return None

    @property
    def example_place(self) -> str:
        """Any place, to show what they look like."""
        origins = self._read(0) if self._manifest.segments else None
        return "photos/cat/1.jpg" if origins is None or not origins.places else origins.place(0)

    def _order(self, index: int) -> NDArray[np.int64]:
        """Stored position -> number in the source, of one segment."""
        segment = self._manifest.segments[index]
        origins = self._read(index)
        examples = sum(segment.examples.values())
        if origins is None:
            if segment.split_by != FRACTIONS:
                do = "restore it from a copy"
                where = f"{self._url}, {origins_file(index)}"
                raise ManifestError(complaint(where, expected="a list of origins", found="none", do=do))
            return stored_order(segment.seed, examples)
        order = origins.stored_order(segment.seed)
        if len(order) != examples:
            where, do = f"{self._url}, {origins_file(index)}", "restore it from a copy"
            raise ManifestError(complaint(where, expected=f"{examples} examples", found=str(len(order)), do=do))
        return order

    def _list(self, index: int) -> Origins | None:
        name = origins_file(index)
        data = _beside(self._url, name)
        return None if data is None else read_origins(data, name)  # none of what an earlier version packed


def reports_of(url: str, manifest: Manifest) -> list[Report]:
    """What became of the source of each segment, of those that have a report."""
    names = [report_file(index) for index in range(len(manifest.segments))]
    found = ((name, _beside(url, name)) for name in names)
    return [read_report(data, name) for name, data in found if data is not None]


def _beside(url: str, name: str) -> bytes | None:
    """A file beside the shards, if it is there."""
    folder = data_folder(url)
    if folder is None:
        return Store(url).read_if_there(name)
    return (folder / name).read_bytes() if (folder / name).exists() else None
