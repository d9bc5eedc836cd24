"""From a source to sorted runs on disk: a range of it by any task, in any order, again only where unfinished."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.shuffling.encoded import Encoded, Fits, encoded_batch, encoded_rows, is_kept
from streamtrain.packing.shuffling.runs.held_examples import FEWEST, HeldExamples, RowTypes, sizes_of
from streamtrain.packing.shuffling.runs.run_notes import RunNotes
from streamtrain.packing.shuffling.runs.sorted_runs import Run, found_run, write_run
from streamtrain.packing.sources.source import Source
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.origins import BY_FRACTIONS, REPEATED
from streamtrain.shards.stored_order import sort_keys

FILL = 0.75
"""Share of a task's memory that its examples fill; the rest is for what they are read and written through."""

Done = Callable[[int], None]
"""Called with a number of further examples that are done."""
Range = tuple[int, int | None]
"""Examples ``[start, stop)`` of the source; ``None`` for its end."""


@dataclass(frozen=True)
class Scatter:
    """Makes the runs of a range; it and its ranges travel to other processes.

    Attributes:
        source: of the examples.
        encoders: of all fields, which have seen the first example.
        folder: of the runs.
        seed: of the shuffle.
        memory_bytes: bound on the examples in this task's memory.
        types: of all fields' values; ``None`` for those that travel as members of any size.
        assigned: file with the split of each example of the source, where they are given; see `splitting`.
        most_bad: examples that cannot be taken, at which a run ends with an error; ``None`` for any number.
    """

    source: Source
    encoders: Mapping[str, FieldEncoder]
    folder: Path
    seed: int
    memory_bytes: int
    types: RowTypes
    assigned: Path | None = None
    most_bad: int | None = None

    def __call__(self, part: Range, done: Done) -> None:
        """Makes those runs of the range that are not there.

        Raises:
            SourceError: an example that is not as it must be, named.
        """
        start, stop = part
        finished = list(finished_runs(self.folder, part))
        if finished:
            start = finished[-1].stop
            if finished[-1].last or start == stop:
                return
        end = self._make_runs(start, stop, done)
        if stop is not None and end != stop:
            found, do = f"{end} examples", "it changed while it was read: pack again"
            raise SourceError(complaint(self.source.name, expected=f"{stop} examples", found=found, do=do))

    def _make_runs(self, start: int, stop: int | None, done: Done) -> int:
        """Runs of the examples ``[start, stop)``; where the last one ends."""
        encoders = _begun(self.encoders)
        noted = self._notes(start)
        held = self._held(start, stop)

        def fits(examples: int, content: int) -> bool:
            return held.fits(examples, content)  # of the run that is filled just now

        for batch in self._columns(start, stop, encoders, fits):
            taken = 0
            size = len(batch.codes)
            while taken < size:
                end = held.fitting(batch, taken)
                held.add(batch, taken, end)
                noted.add(batch, taken, end)
                taken = end
                if taken < size or not held.fits(0, 0):
                    self._write(noted, held, encoders, last=False)
                    noted, held = self._notes(noted.stop), self._held(noted.stop, stop)
            done(size)
        if stop is None or noted.stop > noted.start:  # an empty run would stand in the place of the next range's first
            self._write(noted, held, encoders, last=stop is None)
        return noted.stop

    def _write(self, noted: RunNotes, held: HeldExamples, encoders: Mapping[str, FieldEncoder], *, last: bool) -> None:
        seen = {name: encoder.seen for name, encoder in encoders.items()}
        run = Run(noted.start, noted.stop, last, seen, noted.bad)
        codes = noted.codes
        keys = sort_keys(self.seed, run.start, run.stop, None if self.assigned is None else np.minimum(codes, REPEATED))
        kept = is_kept(codes)
        columns = held.columns()
        sizes = sizes_of(columns, encoders) if None in self.types.values() else None
        write_run(self.folder, run, keys if kept.all() else keys[kept], columns, sizes, noted.origins)
        for encoder in encoders.values():
            encoder.begin()

    def _held(self, start: int, stop: int | None) -> HeldExamples:
        return HeldExamples(self.types, int(self.memory_bytes * FILL), None if stop is None else stop - start)

    def _notes(self, start: int) -> RunNotes:
        return RunNotes(start, self.most_bad)

    def _codes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """What is known beforehand of these examples: their splits, and which are left out."""
        if self.assigned is None:
            return np.full(stop - start, BY_FRACTIONS, np.uint8)
        return np.fromfile(self.assigned, np.uint8, stop - start, offset=start)

    def _columns(
        self, start: int, stop: int | None, encoders: dict[str, FieldEncoder], fits: Fits
    ) -> Iterator[Encoded]:
        """The examples as columns, some at a time."""
        if self.source.batches is None:
            examples = itertools.islice(self.source.examples(start), None if stop is None else stop - start)
            loose = [name for name, kind in self.types.items() if kind is None]
            yield from encoded_rows(examples, self._codes_from(start), encoders, fits, loose)
            return
        for batch in self.source.batches(start, stop):
            yield from encoded_batch(batch, self._codes(start, start + len(batch)), encoders, fits)
            start += len(batch)

    def _codes_from(self, start: int) -> Iterator[int]:
        """The same of all from ``start`` on, one by one."""
        if self.assigned is None:
            yield from itertools.repeat(BY_FRACTIONS)
            return
        yield from self.assigned.read_bytes()[start:]
        found, do = "more", "it changed while it was read: pack again"
        expected = f"{self.assigned.stat().st_size} examples"
        raise SourceError(complaint(self.source.name, expected=expected, found=found, do=do))


def _begun(encoders: Mapping[str, FieldEncoder]) -> dict[str, FieldEncoder]:
    """Copies that hold examples to the first one's form, and count from nothing."""
    copies = copy.deepcopy(dict(encoders))
    for encoder in copies.values():
        encoder.begin()
    return copies


def finished_runs(folder: Path, part: Range) -> Iterator[Run]:
    """The runs of a range that are there, one after the other up to the first that is not."""
    start, stop = part
    while start != stop and (run := found_run(folder, start)) is not None:
        yield run
        if run.last:
            return
        start = run.stop


def ranges(source: Source, tasks: int, memory_bytes: int) -> tuple[Range, ...]:
    """The source in ranges for so many tasks with so much memory each: one, where it cannot be cut or need not be."""
    if source.count is None or tasks == 1 or source.borders == (0,):
        return ((0, source.count),)
    wanted = max(4 * tasks, int((source.bytes or 0) / (memory_bytes * FILL)))
    step = max(FEWEST, -(-source.count // wanted))
    starts = list(range(0, source.count, step))
    if source.borders is not None:
        borders = np.array(source.borders)
        starts = sorted({int(borders[np.searchsorted(borders, start, side="right") - 1]) for start in starts})
    return tuple(itertools.pairwise([*starts, source.count]))
