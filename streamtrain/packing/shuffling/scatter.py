"""From a source to sorted runs on disk: a range of it by any task, in any order, again only where unfinished."""

from __future__ import annotations

import copy
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.shuffling.encoded import Encoded, encoded_batch, encoded_members, encoded_rows, is_kept
from streamtrain.packing.shuffling.run_notes import RunNotes
from streamtrain.packing.shuffling.sorted_runs import Run, found_run, write_run
from streamtrain.packing.sources.source import BATCH_BYTES, Example, Source
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.origins import BY_FRACTIONS, REPEATED
from streamtrain.shards.shard import BLOCK, MEMBER_LIMIT
from streamtrain.shards.stored_order import sort_keys

FILL = 0.75
"""Share of a task's memory that its examples fill; the rest is for what they are read and written through."""
FEWEST = 16
"""Examples of a run, however little memory there is."""
SORTING = 40
"""Bytes that sorting needs for each example."""
HOLDING = 240
"""Bytes of Python's about each encoded example."""

Done = Callable[[int], None]
"""Called with a number of further examples that are done."""
Range = tuple[int, int | None]
"""Examples ``[start, stop)`` of the source; ``None`` for its end."""

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Scatter:
    """Makes the runs of a range; it and its ranges travel to other processes.

    Attributes:
        source: of the examples.
        encoders: of all fields, which have seen the first example.
        folder: of the runs.
        seed: of the shuffle.
        memory_bytes: bound on the examples in this task's memory.
        in_rows: whether all fields have a fixed size, and travel as arrays.
        assigned: file with the split of each example of the source, where they are given; see `splitting`.
        most_bad: examples that cannot be taken, at which a run ends with an error; ``None`` for any number.
    """

    source: Source
    encoders: Mapping[str, FieldEncoder]
    folder: Path
    seed: int
    memory_bytes: int
    in_rows: bool
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
        end = (self._runs_of_rows if self.in_rows else self._runs_of_payloads)(start, stop, done)
        if stop is not None and end != stop:
            found, do = f"{end} examples", "it changed while it was read: pack again"
            raise SourceError(complaint(self.source.name, expected=f"{stop} examples", found=found, do=do))

    def _runs_of_rows(self, start: int, stop: int | None, done: Done) -> int:
        types = {name: encoder.row_type for name, encoder in self.encoders.items()}
        row_bytes = sum(kind.itemsize for kind in types.values() if kind is not None)
        most = max(FEWEST, int(self.memory_bytes * FILL) // (row_bytes + SORTING))
        encoders = _begun(self.encoders)
        held = {name: np.empty(most if stop is None else min(most, stop - start), kind) for name, kind in types.items()}
        noted = self._notes(start)
        filled = 0
        for batch in self._columns(start, stop, encoders):
            taken, size = 0, len(batch.codes)
            while taken < size:
                if filled == most:
                    self._write_rows(noted, held, filled, encoders, last=False)
                    noted, filled = self._notes(noted.stop), 0
                passed = batch.fitting(taken, most - filled)
                kept = batch.kept[taken:passed]
                end = filled + int(np.count_nonzero(kept))
                for name, values in batch.values.items():
                    held[name][filled:end] = values[taken:passed] if kept.all() else values[taken:passed][kept]
                noted.add_batch(batch.place, taken, batch.codes[taken:passed], batch.reasons)
                taken, filled = passed, end
            done(size)
        self._write_rows(noted, held, filled, encoders, last=stop is None)
        return noted.stop

    def _write_rows(
        self,
        noted: RunNotes,
        held: Mapping[str, NDArray[Any]],
        filled: int,
        encoders: Mapping[str, FieldEncoder],
        *,
        last: bool,
    ) -> None:
        self._write(noted, {name: values[:filled] for name, values in held.items()}, encoders, None, last=last)

    def _write(
        self,
        noted: RunNotes,
        columns: Mapping[str, NDArray[Any]],
        encoders: Mapping[str, FieldEncoder],
        payloads: list[bytes] | None,
        *,
        last: bool,
    ) -> None:
        seen = {name: encoder.seen for name, encoder in encoders.items()}
        run = Run(noted.start, noted.stop, last, seen, noted.bad)
        codes = noted.codes
        keys = sort_keys(self.seed, run.start, run.stop, None if self.assigned is None else np.minimum(codes, REPEATED))
        kept = is_kept(codes)
        write_run(self.folder, run, keys if kept.all() else keys[kept], columns, payloads, noted.origins)
        for encoder in encoders.values():
            encoder.begin()

    def _notes(self, start: int) -> RunNotes:
        return RunNotes(start, self.most_bad)

    def _codes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """What is known beforehand of these examples: their splits, and which are left out."""
        if self.assigned is None:
            return np.full(stop - start, BY_FRACTIONS, np.uint8)
        return np.fromfile(self.assigned, np.uint8, stop - start, offset=start)

    def _columns(self, start: int, stop: int | None, encoders: dict[str, FieldEncoder]) -> Iterator[Encoded]:
        """The examples as arrays of the fields' row types, some at a time."""
        if self.source.batches is not None:
            for batch in self.source.batches(start, stop):
                yield encoded_batch(batch, self._codes(start, start + len(batch)), encoders)
                start += len(batch)
            return
        examples = self._examples(start, stop)
        row_bytes = sum(encoder.row_type.itemsize for encoder in encoders.values() if encoder.row_type is not None)
        size = max(1, min(1000, BATCH_BYTES // max(1, row_bytes)))
        while group := list(itertools.islice(examples, size)):
            yield encoded_rows(group, self._codes(start, start + len(group)), encoders)
            start += len(group)

    def _examples(self, start: int, stop: int | None) -> Iterator[Example]:
        """The source's examples."""
        count = None if stop is None else stop - start
        return itertools.islice(self.source.examples(start), count)

    def _runs_of_payloads(self, start: int, stop: int | None, done: Done) -> int:
        encoders = _begun(self.encoders)
        payloads: list[bytes] = []
        tar_bytes: list[int] = []
        noted = self._notes(start)
        splits = None if self.assigned is None else np.memmap(self.assigned, np.uint8, "r")
        held, since = 0, 0
        for where, values in self._examples(start, stop):
            if held >= self.memory_bytes * FILL and len(payloads) >= FEWEST:
                self._write_payloads(noted, payloads, tar_bytes, encoders, last=False)
                noted, held = self._notes(noted.stop), 0
                payloads, tar_bytes = [], []
            code = BY_FRACTIONS if splits is None else int(splits[noted.stop])
            members = encoded_members(values, where, encoders) if is_kept(code) else None
            if isinstance(members, SourceError):
                noted.add_bad(where, members)
            else:
                noted.add(where, code)
            if isinstance(members, list):
                payloads.append(_payload(where, members))
                # an integer takes one block, in whichever form it is finished
                tar_bytes.append(sum(BLOCK + len(data) + -len(data) % BLOCK for data in members))
                held += len(payloads[-1]) + HOLDING
            since += 1
            if since == FEWEST:
                done(since)
                since = 0
        done(since)
        self._write_payloads(noted, payloads, tar_bytes, encoders, last=stop is None)
        return noted.stop

    def _write_payloads(
        self,
        noted: RunNotes,
        payloads: list[bytes],
        tar_bytes: list[int],
        encoders: Mapping[str, FieldEncoder],
        *,
        last: bool,
    ) -> None:
        lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
        columns = {"tar_bytes": np.array(tar_bytes, np.int64), "length": lengths}
        self._write(noted, columns, encoders, payloads, last=last)


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


def members_of(payload: memoryview) -> list[bytes]:
    """An example's encoded members, in the order of its fields."""
    start, members = 0, []
    while start < len(payload):
        (size,) = _LENGTH.unpack_from(payload, start)
        start += _LENGTH.size + size
        members.append(bytes(payload[start - size : start]))
    return members


def _payload(where: str, members: list[bytes]) -> bytes:
    largest = max(map(len, members))
    if largest >= MEMBER_LIMIT:
        raise SourceError(complaint(where, expected="members below 8 GiB", found=f"{largest} bytes", do="split it up"))
    return b"".join(part for data in members for part in (_LENGTH.pack(len(data)), data))
