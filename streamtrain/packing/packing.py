"""`pack`: a source to a data set, shuffled once and uniformly, out of core.

Three phases, each a set of parts that any number of tasks do in any order: ranges of the source are scattered to
sorted runs on disk, shards are gathered from the runs, and the manifest comes last. A part appears whole or not at
all, so after a kill the same command goes on where it was. The same seed and input give the same bytes, whatever the
memory and the number of tasks. The examples in memory take at most ``memory_bytes``; beside them a process needs
`PROCESS_BYTES`.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, SourceError, complaint
from streamtrain.packing import append as growing
from streamtrain.packing.blocks import block_size, loose_block_size
from streamtrain.packing.options import PackOptions
from streamtrain.packing.report import SHOWN, Report, all_columns, report_file, to_json
from streamtrain.packing.shuffling import bad_examples
from streamtrain.packing.shuffling.column_moments import column_moments
from streamtrain.packing.shuffling.encoded import encoded_members
from streamtrain.packing.shuffling.gather import Gather, Made, ShardPlan, shard_plans
from streamtrain.packing.shuffling.scatter import Done, Scatter, finished_runs, ranges
from streamtrain.packing.shuffling.scratch import check_new, command_digest, scratch_folder
from streamtrain.packing.shuffling.sorted_runs import Runs, run_folder
from streamtrain.packing.sources import open_source
from streamtrain.packing.sources.sized_images import with_sized_images
from streamtrain.packing.sources.source import Source
from streamtrain.packing.splitting import Assigned, assigned, split_counts, without_field
from streamtrain.packing.spread import Here, Spread
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.manifest import FRACTIONS, SPLITS, Field, Manifest, Segment, Split
from streamtrain.shards.origins import origins_file, write_origins
from streamtrain.shards.shard_list import ShardList

PROCESS_BYTES = 192 << 20
"""Memory of a process beside its examples: the interpreter, numpy, pyarrow, and what is read and written through."""

MOST_SHARDS = 16
"""Shards of one part."""

Progress = Callable[[str, int, int | None], None]
"""Called with the phase, examples done in it, and examples in all where that is known."""


def pack(
    source: str | Path,
    dest: str | Path,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Manifest:
    """Makes the data set ``dest`` out of ``source``; it appears whole or not at all.

    Plain WebDataset reads what it writes. Small examples of fixed size are in blocks, which are unbatched so::

        blocks = wds.WebDataset(files, shardshuffle=False).decode().to_tuple("image.npy", "label.npy")
        examples = (example for columns in blocks for example in zip(*columns))

    Args:
        source: see `streamtrain.packing.sources`.
        dest: a folder that is new or empty.
        spread: who does the parts; by default this process, for any number of tasks (`run.fleet.cluster.pack_tasks`).

    Returns:
        The data set's manifest.

    Raises:
        ConfigError: an option, or the destination. SourceError: the source, or an example in it.
        StoreError: the disk.
    """
    options = options or PackOptions()
    if options.fractions[0] <= 0:
        do = "change them, e.g. --splits 0.8 0.1 0.1 (--append adds to a data set)"
        expected, found = "three fractions that sum to 1, the first above 0", f"{options.fractions[0]:g} first"
        raise ConfigError(complaint("splits", expected=expected, found=found, do=do))
    check_new(Path(dest))
    return _made(str(source), Path(dest), options, None, progress, spread)


def append(
    source: str | Path,
    dest: str | Path,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Manifest:
    """Adds ``source`` to the data set ``dest`` as one more segment; it is there wholly or not at all.

    The data set says whether there are blocks, and of what size. Its keys, and every split's shards, are numbered
    on. Where an earlier segment had the same seed, the next one is taken that none had.

    Args, and Raises: as of `pack`, and ManifestError: there is no data set, or it is damaged.
    """
    options, before = options or PackOptions(), growing.opened(Path(dest))
    taken = {segment.seed for segment in before.segments}
    seed = next(seed for seed in itertools.count(options.seed) if seed not in taken)
    return _made(str(source), Path(dest), dataclasses.replace(options, seed=seed), before, progress, spread)


def _made(
    source: str,
    dest: Path,
    options: PackOptions,
    before: Manifest | None,
    progress: Progress | None,
    spread: Spread | None,
) -> Manifest:
    label = options.label or (before.label if before else None)
    named = () if options.split_column is None else (options.split_column,)  # it becomes no field
    columns = tuple(name for name in options.columns if name not in named)
    wanted = dataclasses.replace(options, label=label, columns=columns, drop=(*options.drop, *named))
    opened = with_sized_images(open_source(source, wanted, before), options)
    if before is not None:
        opened = growing.continued(opened, before, dest)
    spread = spread or Here()
    options = dataclasses.replace(options, tasks=options.tasks or spread.tasks(opened.bytes))
    with scratch_folder(dest, command_digest(opened, options, before)) as folder:
        making = _Making(opened, options, before, folder, spread, progress or (lambda *_: None))
        manifest = making.made(dest)
        growing.publish(folder / "data", dest, manifest, before)
    return manifest


class _Making:
    """One data set, or one segment of it, on its way."""

    def __init__(
        self,
        source: Source,
        options: PackOptions,
        before: Manifest | None,
        folder: Path,
        spread: Spread,
        progress: Progress,
    ) -> None:
        self._source, self._options, self._before, self._folder = source, options, before, folder
        self._spread, self._progress = spread, progress
        self._tasks = options.tasks or 1
        self._memory_bytes = max(1, options.memory_bytes // self._tasks)
        self._assigned: Assigned | None = None
        self._bad: bad_examples.Bad = ()

    def made(self, dest: Path) -> Manifest:
        """The manifest of the data set whose shards are then in ``folder/data``."""
        _check_memory(self._source, self._options.memory_bytes)
        self._assigned = assigned(self._source, self._options)
        if self._options.split_column is not None:
            self._source = without_field(self._source, self._options.split_column)
        encoders = _encoders(self._source)
        if self._before is None:
            block = block_size(encoders, self._options)
        else:
            block = growing.block_size(encoders, self._before, dest)
            growing.check_fields(copy.deepcopy(encoders), self._before, dest)  # what the first example tells already
        in_rows = all(e.row_type is not None and (block or not e.taken_over) for e in encoders.values())
        runs = self._scatter(encoders, in_rows)
        if self._before is not None:
            growing.check_fields(encoders, self._before, dest)
        elif not in_rows:
            block = loose_block_size(encoders, self._options, runs)
        counts = self._counts(runs)
        label = self._source.label
        gather = Gather(
            runs,
            encoders,
            folder=self._folder / "data",
            marks=self._folder / "shards",
            memory_bytes=self._memory_bytes,
            in_rows=in_rows,
            block=block,
            first_key=0 if self._before is None else self._before.examples,
            digits=growing.digits(self._before, runs.examples),
            label=label if label is not None and encoders[label].counts else None,
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

    def _scatter(self, encoders: dict[str, FieldEncoder], in_rows: bool) -> Runs:
        """All examples as runs; the encoders then have seen them."""
        folder = self._folder / "runs"
        folder.mkdir(exist_ok=True)
        stop = self._options.on_bad_example == "stop"
        scatter = Scatter(
            self._source,
            encoders,
            folder,
            self._options.seed,
            self._memory_bytes,
            in_rows,
            assigned=self._assigned_file(),
            most_bad=bad_examples.MOST if stop else None,
        )
        parts = ranges(self._source, self._tasks, self._memory_bytes)
        there = sum(run.stop - run.start for part in parts for run in finished_runs(folder, part))
        self._in_parts("reading", scatter, parts, there, self._source.count)
        runs = [run for part in parts for run in finished_runs(folder, part)]
        self._bad = [bad for run in runs for bad in run.bad]
        if self._bad and stop:
            raise bad_examples.refused(self._bad)
        for run in runs:
            for name, encoder in encoders.items():
                encoder.absorb(run.seen[name])
        folders = [run_folder(folder, run.start) for run in runs]
        self._note_origins(folders)
        return Runs.of(folders)

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
            bad_examples.write_list(file.with_name(f"{number:06d}.left_out.jsonl"), self._bad, above)

    def _report(self, fields: Sequence[Field], counts: Mapping[str, int]) -> None:
        """Writes what became of the source, beside the shards to be."""
        without = str(Path(self._source.name).parent) + "/"
        report = Report(
            source=self._called,
            columns=all_columns(self._source, fields, counts),
            examples=counts,
            split_by=self._split_by,
            repeated=0 if self._assigned is None else self._assigned.repeated,
            bad=len(self._bad),
            shown=bad_examples.shown(self._bad, without)[:SHOWN],
        )
        number = 0 if self._before is None else len(self._before.segments)
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
        size = max(1, min(MOST_SHARDS, len(left) // (8 * self._tasks)))
        parts = [left[start : start + size] for start in range(0, len(left), size)]
        self._in_parts("writing", gather, parts, there, gather.runs.examples)
        return {split: _split(gather, [plan for plan in plans if plan.split == split]) for split in counts}

    def _in_parts(
        self, phase: str, function: Callable[[Any, Done], None], parts: Sequence[Any], there: int, total: int | None
    ) -> None:
        """A phase, of which ``there`` examples are done already."""
        finished = there
        self._progress(phase, finished, total)

        def done(examples: int) -> None:
            nonlocal finished
            finished += examples
            self._progress(phase, finished, total)

        (self._spread if min(len(parts), self._tasks) > 1 else Here())(function, parts, self._tasks, done)
        self._progress(phase, finished, finished)


def _split(gather: Gather, plans: Sequence[ShardPlan]) -> Split:
    made: list[Made] = [found for plan in plans if (found := gather.made(plan)) is not None]
    assert len(made) == len(plans)
    classes: Counter[int] = Counter()
    for shard in made:
        classes.update(shard.classes)
    return Split(ShardList(shard.shard for shard in made), dict(classes))


def _check_memory(source: Source, memory_bytes: int) -> None:
    """Raises `SourceError` where an example takes more than all shall: a few bytes on disk may hold it compressed."""
    each, most = (source.bytes or 0) // (source.count or 1), max(memory_bytes, PROCESS_BYTES)
    if each > most:
        expected, do = f"examples of at most {most:,} bytes", "raise --memory-bytes, or make them smaller"
        raise SourceError(complaint(source.name, expected=expected, found=f"{each:,} bytes each", do=do))


def _encoders(source: Source) -> dict[str, FieldEncoder]:
    """An encoder for each field, which has seen the first example that can be taken.

    Raises:
        SourceError: there is no example, or fields that cannot be.
    """
    bad: list[tuple[str, str]] = []
    for where, values in source.examples(0):
        _check_names(source.name, values, source.label)
        encoders = {
            name: FieldEncoder(name, source.classes.get(name), source.notes.get(name)) for name in sorted(values)
        }
        found = encoded_members(values, where, encoders)
        if not isinstance(found, SourceError):
            return encoders
        bad.append((where, str(found)))
        if len(bad) == bad_examples.MOST:
            break
    if bad:
        raise bad_examples.refused(bad)
    raise SourceError(complaint(source.name, expected="examples", found="none", do="check the source"))


def _check_names(source: str, values: dict[str, Any], label: str | None) -> None:
    for name in values:
        if not re.fullmatch("[a-z0-9_-]{1,64}", name):
            expected = "names of a-z, 0-9, _ and -, since they become extensions in the tars"
            raise SourceError(complaint(f"{source}, field {name!r}", expected=expected, found=name, do="rename it"))
    if label is not None and label not in values:
        found = ", ".join(sorted(values))
        raise SourceError(complaint(source, expected=f"a field {label!r}", found=found, do="set --label"))
