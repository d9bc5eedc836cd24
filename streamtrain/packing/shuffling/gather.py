"""From sorted runs to shards: any shard by any task, in any order, again only where unfinished."""

from __future__ import annotations

import dataclasses
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.packing.options import PackOptions
from streamtrain.packing.shuffling.blocks import block_member, loose_members, sample_stride, samples_table
from streamtrain.packing.shuffling.runs.held_examples import LOOSE, SORTING, RowTypes
from streamtrain.packing.shuffling.runs.sorted_runs import PIECE_BYTES, Runs, Window
from streamtrain.packing.shuffling.scatter import FILL, Done
from streamtrain.shards.codec import FieldEncoder, Ragged
from streamtrain.shards.codec.ragged import slices
from streamtrain.shards.shard import BLOCK, END, Content
from streamtrain.shards.shard_file import ShardFile
from streamtrain.shards.shard_list import Shard, shard_name
from streamtrain.store import PARTIAL


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be: shard ``number`` of ``split`` holds ``[start, stop)`` of the segment's stored order."""

    split: str
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Made:
    """A finished shard, and examples of each class in it."""

    shard: Shard
    classes: Mapping[int, int]


@dataclass(frozen=True)
class Gather:
    """Writes shards; it and its plans travel to other processes.

    Attributes:
        runs: of all examples.
        encoders: of all fields, which have seen all examples.
        folder: of the data set that is being made.
        marks: folder where finished shards are noted, and unfinished ones lie.
        memory_bytes: bound on the examples in this task's memory.
        types: of all fields' values; ``None`` for those that travel as members of any size.
        block: examples of a block, if there are blocks.
        first_key, digits: the first example's key, and the digits of all.
        label: the field whose values are counted, if one is.
        means: what stands for NaN in some fields, an entry each or one number.
    """

    runs: Runs
    encoders: Mapping[str, FieldEncoder]
    folder: Path
    marks: Path
    memory_bytes: int
    types: RowTypes
    block: int | None
    first_key: int
    digits: int
    label: str | None
    means: Mapping[str, NDArray[np.float64]]

    @property
    def in_rows(self) -> bool:
        """Whether all fields have a fixed size."""
        return None not in self.types.values()

    def __call__(self, part: Sequence[ShardPlan], done: Done) -> None:
        """Writes those shards that are not there."""
        for plan in part:
            if self.made(plan) is None:
                self._write(plan, done)

    def made(self, plan: ShardPlan) -> Made | None:
        """The shard, where it is finished."""
        name = shard_name(plan.split, plan.number)
        try:
            mark = json.loads(self._mark(plan).read_bytes())
            whole = (self.folder / name).stat().st_size == mark["shard"]["bytes"]
        except FileNotFoundError:
            return None
        counts = {int(value): count for value, count in mark["classes"].items()}
        return Made(Shard(**mark["shard"]), counts) if whole else None

    def key(self, position: int) -> str:
        """The key of an example, by its position in the segment's stored order."""
        return f"{self.first_key + position:0{self.digits}d}"

    def _mark(self, plan: ShardPlan) -> Path:
        return self.marks / f"{plan.split}-{plan.number:06d}.json"

    def _write(self, plan: ShardPlan, done: Done) -> None:
        file = ShardFile(self.folder, shard_name(plan.split, plan.number), self.marks)
        try:
            fill = self._fill_with_members
            if self.block is not None:
                fill = self._fill_with_loose_blocks
            if self.in_rows:
                fill = self._fill_with_samples if self.block is None else self._fill_with_blocks
            fill(file, plan, done)
            shard = file.close(self.key(plan.start), self.key(plan.stop - 1))
        except BaseException:
            file.discard()
            raise
        mark = {"shard": dataclasses.asdict(shard), "classes": file.classes}
        partial = self.marks / f".{plan.split}-{plan.number:06d}.{secrets.token_hex(4)}{PARTIAL}"
        partial.write_text(json.dumps(mark))
        partial.rename(self._mark(plan))

    def _fill_with_blocks(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        assert self.block is not None
        for first, stop in self._steps(plan, self.block):
            window = self.runs.window(first, stop)
            columns = self._rows(window)
            for start in range(0, stop - first, self.block):
                rows = window.order[start : start + self.block]
                members = {f"{name}.npy": block_member(values, rows) for name, values in columns.items()}
                file.sample(self.key(first + start), members, len(rows))
                self._count(file, columns, rows)
                done(len(rows))

    def _fill_with_samples(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        size = max(1, PIECE_BYTES // sample_stride(self.encoders))
        for first, stop in self._steps(plan, size):
            window = self.runs.window(first, stop)
            columns = self._rows(window)
            for start in range(0, stop - first, size):
                rows = window.order[start : start + size]
                ordered = {name: values[rows] for name, values in columns.items()}
                file.table(samples_table(self.encoders, ordered, self.first_key + first + start, self.digits))
                if self.label is not None:
                    file.count(ordered[self.label])
                done(len(rows))

    def _fill_with_members(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        for first, stop in self._fitting(plan, 1):
            window = self.runs.window(first, stop)
            columns = self._columns(window)
            members = {e.member: _members(e, columns[name]) for name, e in self.encoders.items()}
            for position, row in enumerate(window.order.tolist(), first):
                file.sample(self.key(position), {name: member(row) for name, member in members.items()})
            self._count(file, columns, window.order)
            done(stop - first)

    def _fill_with_loose_blocks(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        assert self.block is not None
        for first, stop in self._fitting(plan, self.block):
            window = self.runs.window(first, stop)
            columns = self._columns(window)
            for start in range(0, stop - first, self.block):
                rows = window.order[start : start + self.block]
                file.sample(self.key(first + start), loose_members(self.encoders, columns, rows), len(rows))
                self._count(file, columns, rows)
                done(len(rows))

    def _columns(self, window: Window) -> dict[str, NDArray[Any] | Ragged]:
        """All fields of a window, to be put in order."""
        rows = self._rows(window)
        return {name: self._loose(window, name) if kind is None else rows[name] for name, kind in self.types.items()}

    def _loose(self, window: Window, name: str) -> NDArray[Any] | Ragged:
        """A field of any size; numbers that were taken over in decimal digits as numbers."""
        members = window.ragged(name)
        return np.array(list(members), np.bytes_).astype(np.int64) if self.encoders[name].counts else members

    def _rows(self, window: Window) -> dict[str, NDArray[Any]]:
        """The fields of fixed size."""
        kinds = self._row_types().items()
        return {name: self._filled(name, window.column(name, kind)) for name, kind in kinds}

    def _filled(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A column with means for what is missing."""
        if name in self.means:
            missing = np.isnan(values)
            values[missing] = np.broadcast_to(self.means[name], values.shape)[missing]
        return values

    def _count(self, file: ShardFile, columns: Mapping[str, Any], rows: NDArray[np.int64]) -> None:
        """Counts the classes of these rows."""
        if self.label is not None:
            file.count(columns[self.label][rows])

    def _row_types(self) -> dict[str, np.dtype[Any]]:
        return {name: kind for name, kind in self.types.items() if kind is not None}

    def _steps(self, plan: ShardPlan, multiple: int) -> Iterator[tuple[int, int]]:
        """The plan's range in parts that fit in memory, each but the last of a multiple of so many examples."""
        each = SORTING + LOOSE * (len(self.types) - len(self._row_types()))
        each += sum(kind.itemsize for kind in self._row_types().values())
        step = max(1, int(self.memory_bytes * FILL) // each // multiple) * multiple
        for start in range(plan.start, plan.stop, step):
            yield start, min(start + step, plan.stop)

    def _fitting(self, plan: ShardPlan, multiple: int) -> Iterator[tuple[int, int]]:
        """The same where examples differ in size: at least a multiple each, however large its examples are."""
        limit = int(self.memory_bytes * FILL) // 2
        for start, stop in self._steps(plan, multiple):
            ends = np.cumsum(self.runs.window(start, stop).sizes("encoded"))
            done = 0
            while done < len(ends):
                fit = int(np.searchsorted(ends, limit + (ends[done - 1] if done else 0), side="right"))
                end = fit if fit == len(ends) else done + max(multiple, (fit - done) // multiple * multiple)
                end = min(end, len(ends))
                yield start + done, start + end
                done = end


def _members(encoder: FieldEncoder, column: NDArray[Any] | Ragged) -> Callable[[int], Content]:
    """A function from a row to the member of its example."""
    if not isinstance(column, Ragged):
        return lambda row: encoder.stored(column[row])
    return slices(column).__getitem__


def shard_plans(
    gather: Gather, counts: Mapping[str, int], options: PackOptions, first_shards: Mapping[str, int]
) -> list[ShardPlan]:
    """The shards of every split, which take consecutive ranges of the stored order."""
    plans = []
    done = 0
    for split, count in counts.items():
        edges = [done, *_edges(gather, done, done + count, options), done + count]
        first = first_shards.get(split, 0)
        plans += [
            ShardPlan(split, number, start, stop)
            for number, (start, stop) in enumerate(itertools.pairwise(edges), first)
        ]
        done += count
    return plans


def _edges(gather: Gather, start: int, stop: int, options: PackOptions) -> Iterator[int]:
    """Where shards end in ``[start, stop)``, but for the last."""
    if options.shard_examples is not None:
        return iter(range(start + options.shard_examples, stop, options.shard_examples))
    if not gather.in_rows:
        if gather.block is not None:
            return _edges_of_blocks(gather, start, stop, options.shard_bytes)
        return _edges_by_size(gather, start, stop, options.shard_bytes)
    size = sample_stride(gather.encoders)
    of_sample = 1
    if gather.block is not None:
        rows = {name: np.empty((1, *kind.shape), kind.base) for name, kind in gather._row_types().items()}
        one = np.zeros(gather.block, np.int64)
        members = [len(block_member(values, one)) for values in rows.values()]
        size = sum(BLOCK + length + -length % BLOCK for length in members)
        of_sample = gather.block
    step = max(1, (options.shard_bytes - len(END)) // size) * of_sample
    return iter(range(start + step, stop, step))


def _edges_by_size(gather: Gather, start: int, stop: int, shard_bytes: int) -> Iterator[int]:
    used = len(END)
    step = max(1, int(gather.memory_bytes * FILL) // (2 * SORTING))
    for first in range(start, stop, step):
        window = gather.runs.window(first, min(first + step, stop))
        ends = np.cumsum(window.sizes("in_tar"))
        done = 0
        before = 0
        while done < len(ends):
            fit = max(done, int(np.searchsorted(ends, before + shard_bytes - used, side="right")))
            if fit == done and used == len(END):
                fit = done + 1
            used += int(ends[fit - 1]) - before if fit > done else 0
            if fit < len(ends):
                yield first + fit
                used = len(END)
            done = fit
            before = int(ends[fit - 1]) if fit else 0


def _edges_of_blocks(gather: Gather, start: int, stop: int, shard_bytes: int) -> Iterator[int]:
    """After as many blocks as fit, by what their examples take encoded: a little more than they will."""
    assert gather.block is not None
    step = max(1, int(gather.memory_bytes * FILL) // (2 * SORTING) // gather.block) * gather.block
    used = 0
    begun = start
    for first in range(start, stop, step):
        window = gather.runs.window(first, min(first + step, stop))
        lengths = window.sizes("encoded")
        sizes = np.add.reduceat(lengths, np.arange(0, len(lengths), gather.block))
        for number, size in enumerate(sizes.tolist()):
            at = first + number * gather.block
            if at > begun and used + size > shard_bytes:
                yield at
                used = 0
                begun = at
            used += size
