"""One data set, or one segment of it, on its way: from a source that is open to shards and their manifest.

Three phases, each a set of parts that any number of tasks do in any order: ranges of the source are scattered to
sorted runs on disk, shards are gathered from the runs, and the manifest comes last. A part appears whole or not at
all. The examples in memory take at most ``memory_bytes``; beside them a process needs `PROCESS_BYTES`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing import append as growing
from streamtrain.packing.options import PackOptions
from streamtrain.packing.report import SHOWN, Report, all_columns, left_out_file, report_file, to_json
from streamtrain.packing.shuffling.blocks import block_size, loose_block_size
from streamtrain.packing.shuffling.column_moments import column_moments, training_means
from streamtrain.packing.shuffling.encoded import first_encoders
from streamtrain.packing.shuffling.gather import Gather, Made, ShardPlan, shard_plans
from streamtrain.packing.shuffling.phases import Phases
from streamtrain.packing.shuffling.runs import bad_examples
from streamtrain.packing.shuffling.runs.held_examples import RowTypes
from streamtrain.packing.shuffling.runs.sorted_runs import Runs, run_folder
from streamtrain.packing.shuffling.scatter import Scatter
from streamtrain.packing.sources.source import Source
from streamtrain.packing.splitting import Assigned, assigned, split_counts, without_field
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.manifest import FRACTIONS, SPLITS, Field, Manifest, Segment, Split
from streamtrain.shards.origins import origins_file, write_origins
from streamtrain.shards.shard_list import ShardList

PROCESS_BYTES = 192 << 20
"""Memory of a process beside its examples: the interpreter, numpy, pyarrow, and what is read and written through."""

MOST_SHARDS = 16
"""Shards of one part."""


class DatasetMaker:
    """Makes what the options say out of ``source``, in ``folder``; ``before`` is the data set that it is added to."""

    def __init__(
        self,
        source: Source,
        options: PackOptions,
        before: Manifest | None,
        folder: Path,
        phases: Phases,
    ) -> None:
        self._source = source
        self._options = options
        self._before = before
        self._folder = folder
        self._phases = phases
        self._assigned: Assigned | None = None
        self._bad: bad_examples.Bad = ()

    def make(self, dest: Path) -> Manifest:
        """The manifest of the data set whose shards are then in ``folder/data``."""
        _check_memory(self._source, self._options.memory_bytes)
        self._assigned = assigned(self._source, self._options)
        if self._options.split_column is not None:
            self._source = without_field(self._source, self._options.split_column)
        encoders = first_encoders(self._source)
        if self._before is None:
            block = block_size(encoders, self._options)
        else:
            block = growing.block_size(encoders, self._before, dest)
            growing.check_fields(copy.deepcopy(encoders), self._before, dest)  # what the first example tells already
        types = {name: e.row_type if block or not e.taken_over else None for name, e in encoders.items()}
        runs = self._scatter(encoders, types)
        if self._before is not None:
            growing.check_fields(encoders, self._before, dest)
        elif None in types.values():
            block = loose_block_size(encoders, self._options, runs)
        counts = self._counts(runs)
        label = self._source.label
        gather = Gather(
            runs,
            encoders,
            folder=self._folder / "data",
            marks=self._folder / "shards",
            memory_bytes=self._phases.task_bytes,
            types=types,
            block=block,
            first_key=0 if self._before is None else self._before.examples,
            digits=growing.digits(self._before, runs.examples),
            label=label if label is not None and encoders[label].counts else None,
            means=self._means(runs, types, counts.get("train", 0)),
        )
        fields = tuple(encoder.field(in_blocks=block is not None) for encoder in encoders.values())
        self._report(fields, counts)
        splits = self._gather(gather, counts)
        train = [] if "train" not in splits else [shard.file for shard in splits["train"].shards]
        moments = column_moments(self._folder / "data", train, fields)
        manifest = Manifest(
            fields=tuple(dataclasses.replace(field, moments=moments.get(field.name)) for field in fields),
            splits=splits,
            order="uniform",
            segments=(Segment(counts, self._options.seed, self._called, self._split_by),),
            label=label,
            block=block,
        )
        return manifest if self._before is None else growing.joined(self._before, manifest)

    def _scatter(self, encoders: dict[str, FieldEncoder], types: RowTypes) -> Runs:
        """All examples as runs; the encoders then have seen them."""
        folder = self._folder / "runs"
        scatter = Scatter(
            self._source,
            encoders,
            folder,
            self._options.seed,
            self._phases.task_bytes,
            types,
            assigned=self._assigned_file(),
            most_bad=bad_examples.MOST if self._options.on_bad_example == "stop" else None,
        )
        runs = self._phases.scatter("reading", scatter)
        self._bad = [*self._source.left_out, *(bad for run in runs for bad in run.bad)]
        for run in runs:
            for name, encoder in encoders.items():
                encoder.absorb(run.seen[name])
        folders = [run_folder(folder, run.start) for run in runs]
        self._note_origins(folders)
        return Runs.of(folders)

    def _means(self, runs: Runs, types: RowTypes, train: int) -> dict[str, NDArray[np.float64]]:
        """What stands for missing values, by field: means of the training examples, of the data set's where it grows.

        Raises:
            SourceError: a column without a value in any training example.
        """
        means = {}
        for name, notes in self._source.notes.items():
            entries = list(notes.means)
            kind = types.get(name)
            if not entries or kind is None:
                continue
            known = None if self._before is None else self._before.field_named(name)
            found = np.full(kind.shape, np.nan).reshape(-1)
            if known is not None and known.moments is not None:
                found[entries] = [known.moments[entry][1] for entry in entries]
            else:
                found[entries] = training_means(runs, name, kind, entries, train)
            empty = [entry for entry in entries if np.isnan(found[entry])]
            if empty:
                column = name if notes.columns is None else notes.columns[empty[0]]
                where, do = f"{self._source.name}, column {column!r}", "set --missing nan or drop"
                expected = "a training row with a value, for the mean"
                raise SourceError(complaint(where, expected=expected, found="none", do=do))
            means[name] = found.reshape(kind.shape)
        return means

    def _assigned_file(self) -> Path | None:
        """Where the tasks find each example's split, where the splits are given."""
        if self._assigned is None:
            return None
        file = self._folder / "splits"
        file.write_bytes(self._assigned.splits.tobytes())
        return file

    def _note_origins(self, runs: Sequence[Path]) -> None:
        """Writes where the examples come from, and which could not be taken, beside the shards to be."""
        number = 0 if self._before is None else len(self._before.segments)
        file = self._folder / "data" / origins_file(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        above = str(Path(self._source.name).parent) + "/"
        write_origins(file, ((run / "origins").read_bytes() for run in runs), above)
        if self._bad:
            bad_examples.write_list(self._folder / "data" / left_out_file(number), self._bad, above)

    def _report(self, fields: Sequence[Field], counts: Mapping[str, int]) -> None:
        """Writes what became of the source, beside the shards to be."""
        without = str(Path(self._source.name).parent) + "/"
        number = 0 if self._before is None else len(self._before.segments)
        report = Report(
            source=self._called,
            columns=all_columns(self._source, fields, counts),
            examples=counts,
            split_by=self._split_by,
            repeated=0 if self._assigned is None else self._assigned.repeated,
            bad=len(self._bad),
            shown=bad_examples.shown(self._bad, without)[:SHOWN],
            listed=left_out_file(number) if self._bad else "",
            counted=self._source.counted,
        )
        (self._folder / "data" / report_file(number)).write_bytes(to_json(report))

    def _counts(self, runs: Runs) -> dict[str, int]:
        """Examples of every split that is not empty."""
        if self._assigned is None:
            return split_counts(self._source.name, runs.examples, self._options.fractions)
        counts = {name: count for name, count in zip(SPLITS, runs.of_splits(), strict=True) if count}
        if not counts or (self._before is None and "train" not in counts):
            found, do = ", ".join(counts) or "none", "give it some, or set --splits"
            raise SourceError(complaint(self._source.name, expected="examples for train", found=found, do=do))
        return counts

    @property
    def _called(self) -> str:
        return Path(self._source.name).name or self._source.name

    @property
    def _split_by(self) -> str:
        return FRACTIONS if self._assigned is None else self._assigned.how

    def _gather(self, gather: Gather, counts: Mapping[str, int]) -> dict[str, Split]:
        """All shards."""
        gather.marks.mkdir(exist_ok=True)
        for split in counts:
            (gather.folder / split).mkdir(parents=True, exist_ok=True)
        first_shards = {} if self._before is None else {s: len(v.shards) for s, v in self._before.splits.items()}
        plans = shard_plans(gather, counts, self._options, first_shards)
        left = [plan for plan in plans if gather.made(plan) is None]
        there = gather.runs.examples - sum(plan.stop - plan.start for plan in left)
        size = max(1, min(MOST_SHARDS, len(left) // (8 * self._phases.tasks)))
        parts = [left[start : start + size] for start in range(0, len(left), size)]
        self._phases("writing", gather, parts, there, gather.runs.examples)
        return {split: _split(gather, [plan for plan in plans if plan.split == split]) for split in counts}


def _split(gather: Gather, plans: Sequence[ShardPlan]) -> Split:
    made: list[Made] = [found for plan in plans if (found := gather.made(plan)) is not None]
    assert len(made) == len(plans)
    classes: Counter[int] = Counter()
    for shard in made:
        classes.update(shard.classes)
    return Split(ShardList(shard.shard for shard in made), dict(classes))


def _check_memory(source: Source, memory_bytes: int) -> None:
    """Raises `SourceError` where an example takes more than all shall: a few bytes on disk may hold it compressed."""
    each = (source.bytes or 0) // (source.count or 1)
    most = max(memory_bytes, PROCESS_BYTES)
    if each > most:
        expected, do = f"examples of at most {most:,} bytes", "raise --memory-bytes, or make them smaller"
        raise SourceError(complaint(source.name, expected=expected, found=f"{each:,} bytes each", do=do))
