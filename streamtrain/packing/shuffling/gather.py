"""From sorted runs to shards: any shard by any task, in any order, again only where unfinished."""

from __future__ import annotations

import dataclasses
import itertools
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamtrain.packing.blocks import block_member, loose_members, sample_stride, samples_table
from streamtrain.packing.options import PackOptions
from streamtrain.packing.shuffling.scatter import FILL, HOLDING, SORTING, Done, members_of
from streamtrain.packing.shuffling.sorted_runs import PIECE_BYTES, Runs
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.shard import BLOCK, END
from streamtrain.shards.shard_file import ShardFile
from streamtrain.shards.shard_list import Shard, shard_name
from streamtrain.store import PARTIAL

LENGTH = np.dtype(np.int64)


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
        in_rows: whether the examples travel as arrays.
        block: examples of a block, if there are blocks.
        first_key, digits: the first example's key, and the digits of all.
        label: the field whose values are counted, if one is.
    """

    runs: Runs
    encoders: Mapping[str, FieldEncoder]
    folder: Path
    marks: Path
    memory_bytes: int
    in_rows: bool
    block: int | None
    first_key: int
    digits: int
    label: str | None

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
            fill = self._fill_with_payloads
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
        for first, stop in self._steps(plan, self.block, 0):
            window = self.runs.window(first, stop)
            columns = {name: window.column(name, kind) for name, kind in self._row_types().items()}
            for start in range(0, stop - first, self.block):
                rows = window.order[start : start + self.block]
                members = {f"{name}.npy": block_member(values, rows) for name, values in columns.items()}
                file.sample(self.key(first + start), members, len(rows))
                if self.label is not None:
                    file.count(columns[self.label][rows])
                done(len(rows))

    def _fill_with_samples(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        size = max(1, PIECE_BYTES // sample_stride(self.encoders))
        for first, stop in self._steps(plan, size, 0):
            window = self.runs.window(first, stop)
            columns = {name: window.column(name, kind) for name, kind in self._row_types().items()}
            for start in range(0, stop - first, size):
                rows = window.order[start : start + size]
                ordered = {name: values[rows] for name, values in columns.items()}
                file.table(samples_table(self.encoders, ordered, self.first_key + first + start, self.digits))
                if self.label is not None:
                    file.count(ordered[self.label])
                done(len(rows))

    def _fill_with_payloads(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        fields = [(encoder.member, encoder.finish) for encoder in self.encoders.values()]
        for position, encoded in enumerate(self._encoded(plan, file, done), plan.start):
            members = {name: finish(data) for (name, finish), data in zip(fields, encoded, strict=True)}
            file.sample(self.key(position), members)

    def _fill_with_loose_blocks(self, file: ShardFile, plan: ShardPlan, done: Done) -> None:
        assert self.block is not None
        examples, first = self._encoded(plan, file, done), plan.start
        while held := list(itertools.islice(examples, self.block)):
            file.sample(self.key(first), loose_members(self.encoders, held), len(held))
            first += len(held)

    def _encoded(self, plan: ShardPlan, file: ShardFile, done: Done) -> Iterator[list[bytes]]:
        """The plan's examples, the members of each as they were encoded; their classes are counted."""
        at_label = None if self.label is None else list(self.encoders).index(self.label)
        for first, stop in self._steps(plan, 1, HOLDING):
            for start, end in self._fitting(first, stop):
                for payload in self.runs.window(start, end).payloads():
                    encoded = members_of(payload)
                    if at_label is not None:
                        file.count((int(encoded[at_label]),))
                    yield encoded
                done(end - start)

    def _row_types(self) -> dict[str, np.dtype[np.generic]]:
        types = {name: encoder.row_type for name, encoder in self.encoders.items()}
        return {name: kind for name, kind in types.items() if kind is not None}

    def _steps(self, plan: ShardPlan, multiple: int, overhead: int) -> Iterator[tuple[int, int]]:
        """The plan's range in parts that fit in memory, each but the last of a multiple of so many examples."""
        each = SORTING + overhead + sum(kind.itemsize for kind in self._row_types().values() if self.in_rows)
        step = max(1, int(self.memory_bytes * FILL) // each // multiple) * multiple
        for start in range(plan.start, plan.stop, step):
            yield start, min(start + step, plan.stop)

    def _fitting(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The range in parts whose payloads fit in memory together, or which are one example."""
        window = self.runs.window(start, stop)
        ends = np.cumsum(window.column("length", LENGTH)[window.order])
        done = 0
        while done < stop - start:
            limit = (ends[done - 1] if done else 0) + int(self.memory_bytes * FILL) // 2
            end = max(done + 1, int(np.searchsorted(ends, limit, side="right")))
            yield start + done, start + end
            done = end


def shard_plans(
    gather: Gather, counts: Mapping[str, int], options: PackOptions, first_shards: Mapping[str, int]
) -> list[ShardPlan]:
    """The shards of every split, which take consecutive ranges of the stored order."""
    plans, done = [], 0
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
    size, of_sample = sample_stride(gather.encoders), 1
    if gather.block is not None:
        rows = {name: np.empty((1, *kind.shape), kind.base) for name, kind in gather._row_types().items()}
        one = np.zeros(gather.block, np.int64)
        members = [len(block_member(values, one)) for values in rows.values()]
        size, of_sample = sum(BLOCK + length + -length % BLOCK for length in members), gather.block
    step = max(1, (options.shard_bytes - len(END)) // size) * of_sample
    return iter(range(start + step, stop, step))


def _edges_by_size(gather: Gather, start: int, stop: int, shard_bytes: int) -> Iterator[int]:
    used = len(END)
    step = max(1, int(gather.memory_bytes * FILL) // (2 * SORTING))
    for first in range(start, stop, step):
        window = gather.runs.window(first, min(first + step, stop))
        ends = np.cumsum(window.column("tar_bytes", LENGTH)[window.order])
        done, before = 0, 0
        while done < len(ends):
            fit = max(done, int(np.searchsorted(ends, before + shard_bytes - used, side="right")))
            if fit == done and used == len(END):
                fit = done + 1
            used += int(ends[fit - 1]) - before if fit > done else 0
            if fit < len(ends):
                yield first + fit
                used = len(END)
            done, before = fit, int(ends[fit - 1]) if fit else 0


def _edges_of_blocks(gather: Gather, start: int, stop: int, shard_bytes: int) -> Iterator[int]:
    """After as many blocks as fit, by what their examples take encoded: a little more than they will."""
    assert gather.block is not None
    step = max(1, int(gather.memory_bytes * FILL) // (2 * SORTING) // gather.block) * gather.block
    used, begun = 0, start
    for first in range(start, stop, step):
        window = gather.runs.window(first, min(first + step, stop))
        lengths = window.column("length", LENGTH)[window.order]
        sizes = np.add.reduceat(lengths, np.arange(0, len(lengths), gather.block))
        for number, size in enumerate(sizes.tolist()):
            at = first + number * gather.block
            if at > begun and used + size > shard_bytes:
                yield at
                used, begun = 0, at
            used += size
