"""Everything that is decided before a run starts, as one value that every process gets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamtrain.aggregate.descent.rules import with_optimizer
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.errors import ConfigError, ManifestError, complaint
from streamtrain.images.kinds import is_image
from streamtrain.job import BatchSize, Epochs, Job, Online
from streamtrain.order import (
    Later,
    LengthPasses,
    Order,
    PartPasses,
    Parts,
    Passes,
    Reshuffle,
    SegmentedOrder,
    StoredPasses,
    WeightedPasses,
    Weights,
    passes_of,
    select_lanes,
    without,
)
from streamtrain.shards import Manifest
from streamtrain.store import local_path, masked
from streamtrain.stream.examples import Decoding
from streamtrain.stream.examples.augmenting import Augmentation
from streamtrain.stream.fetch.shard_files import ShardFiles
from streamtrain.stream.opening import fetched_files, open_dataset, shards_of
from streamtrain.stream.reader import Reader
from streamtrain.stream.whole.held_out import HeldOut, check_part, held_out_examples, open_held_out
from streamtrain.stream.whole.lengths import lengths_of_job
from streamtrain.stream.whole.mixed import Source, joined_manifest, mixed_files, names_of, open_sources, parts_of
from streamtrain.stream.whole.weighing import balanced_of_job
from streamtrain.values import Lane, Selection, Skip

MEASURING = 0.1
"""Part of the work that measuring takes where a job does not say on how many examples."""
MEASURED_ONLINE = 10
"""Measurements of a run in one pass where a job does not say."""
LEAST_MEASURED, GROUPS_MEASURED = 1000, 16
"""Held-out examples, and minibatches of losses over whole ones, that are looked at however little is trained."""


@dataclass(frozen=True)
class Plan:
    """See the module.

    ``place`` is the data set's, as messages name it; ``order`` is of the training split; ``streamed``
    says whether workers get streamers; ``left_out`` are training examples that nobody may read, by stored number;
    ``parts`` have shares of every minibatch, where the job gives some; ``sources`` are a mixture's data sets;
    ``others`` are the held-out sets beside the validation split, by name;
    ``lengths`` are the training examples', by stored number, where minibatches are of neighbours in length;
    ``labels_as_stored`` and ``example_bytes``: as the trial found.
    """

    job: Job
    place: str
    manifest: Manifest
    order: Order | SegmentedOrder
    streamed: bool
    left_out: Mapping[int, Skip] = field(default_factory=dict)
    parts: Parts | Weights | None = None
    sources: tuple[Source, ...] = ()
    others: Mapping[str, HeldOut] = field(default_factory=dict)
    lengths: NDArray[np.int64] | None = field(default=None, compare=False)
    labels_as_stored: bool = True
    example_bytes: float = 0.0

    @property
    def passes(self) -> int:
        """The most passes that the run may make."""
        return 1 if isinstance(self.job.mode, Online) else self.job.mode.max_passes

    @property
    def used_up(self) -> str:
        """Why a pass in which no example comes twice ends, in words."""
        return "the training split is used up" if self.parts is None else f"a {self.parts.kind} is used up"

    @property
    def total_steps(self) -> int:
        """Steps of the longest possible run."""
        whole = self.order.steps_before(self.passes)
        return whole if self.job.max_steps is None else min(whole, self.job.max_steps)

    @property
    def total_examples(self) -> int:
        """Uses of examples in these."""
        return self.order.examples_before(self.order.position(self.total_steps))

    @property
    def scheduled_steps(self) -> int:
        """Of the longest possible run, if all its minibatches were of the first size: schedules count these."""
        return self.order.steps_of_size(self.total_steps, self.job.first_batch_size)

    @functools.cached_property
    def rate_of(self) -> LearningRate:
        """The learning rate of an optimizer's update that comes after so many others."""
        job = self.job
        return LearningRate(job.schedule, job.batch_size, self.scheduled_steps, self.order)

    def reader(self, split: str, *, lanes: bool = False) -> Reader:
        """A reader of the job's fields of one split; ``lanes`` is for the one that a worker's lanes are read with."""
        other = self.others.get(split)
        if other is not None and other.place is not None:
            job = dataclasses.replace(self.job, data=dataclasses.replace(self.job.data, url=other.place, balance=None))
            return reader_of(job, other.manifest, other.split)
        data = self.job.data
        files: ShardFiles
        if self.sources:
            files = mixed_files(self.place, self.sources, verify=data.verify)
        else:
            fetched = functools.partial(fetched_files, self.job, self.manifest, lanes=lanes)
            files = shards_of(data.place, fetched, verify=data.verify)
        reader = reader_of(self.job, self.manifest, split, files)
        if split == "train":
            reader.leave_out(self.left_out)
        return reader

    @property
    def fields(self) -> tuple[str, ...]:
        """The stored fields that are read."""
        return self.job.data.fields_read(field.name for field in self.manifest.fields)

    @property
    def augmentation(self) -> Augmentation | None:
        """What changes training examples for the lanes, and for nobody else."""
        function = self.job.data.augment
        return None if function is None else Augmentation(function, self.job.seed)

    def left(self, lanes: range, step: int) -> list[tuple[int, int]]:
        """Training examples that these lanes read from global ``step`` on, as runs; none where that is no part of all.

        In later passes of another order, and where parts have shares or lengths count, a lane may read anything.
        """
        reshuffled = isinstance(self.job.mode, Epochs) and self.job.mode.reshuffle != "stored"
        if reshuffled or self.parts is not None or self.lengths is not None:
            return []
        return self.order.left(lanes, self.order.position(step).step if self.passes == 1 else 0)

    def selections(self, lanes: range, step: int) -> Iterator[Selection]:
        """What the worker that hosts ``lanes`` reads from global ``step`` to the end of the longest possible run."""
        return select_lanes(self.order, self.pass_orders, lanes, step, self.total_steps)

    @property
    def pass_orders(self) -> Passes:
        """Which order each pass takes."""
        mode = self.job.mode
        shards = self.manifest.splits["train"].shards
        reshuffle: Reshuffle = mode.reshuffle if isinstance(mode, Epochs) else "stored"
        order = self.order
        if isinstance(self.parts, Weights):
            return WeightedPasses(self.parts, np.array([lane.start for lane in order.ranges]))
        if self.parts is not None:
            return PartPasses(self.parts, order.examples, order.used, order.lanes, reshuffle, self.job.seed)
        starts = [shards.start(index) for index in range(len(shards) + 1)] if reshuffle == "shards" else []
        passes = passes_of(reshuffle, self.order.examples, starts, self.job.seed)
        return passes if self.lengths is None else self._by_length(passes, self.lengths)

    def _by_length(self, base: Passes, lengths: NDArray[np.int64]) -> LengthPasses:
        sizes = self.job.batch_size
        largest = max(sizes.all) if isinstance(sizes, BatchSize) else sizes
        return LengthPasses(base, lengths, self.order.ranges, largest, self.job.seed)

    def select(self, split: str, start: int, stop: int) -> Selection:
        """The examples ``[start, stop)`` of an evaluation; of the training split by part, where it has parts."""
        if self.parts is not None and split == "train":
            return self.parts.select(start, stop)
        return Selection(0, ((start, stop),))

    def by_share(self, split: str, ranges: Sequence[Lane], wanted: int) -> list[tuple[Sequence[Lane], int]]:
        """Of which examples of an evaluation's, as `select` numbers them, how many are looked at.

        Of a mixture as many of each data set as its share says, so that the mean over all is the mixture's.
        """
        mixture = self.job.data.mixture
        if mixture is None or self.held_out_set(split).place is not None:
            return [(ranges, wanted)]
        return [*parts_of(mixture, self.sources, split).by_share(ranges, wanted)]

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of a mixture's data sets, as curves have them."""
        return names_of(self.sources)

    def held_out_set(self, split: str) -> HeldOut:
        """A split of the data set, or another set that is measured, by its name."""
        return self.others.get(split) or HeldOut(split, self.manifest)

    def held_out(self, split: str = "validation", *, whole: bool = False) -> int:
        """Examples of a held-out set that one measurement looks at; ``whole``: that the job lets it look at."""
        examples = held_out_examples(self.job, self.held_out_set(split), self.sources)
        evaluate = self.job.evaluate
        by_default = evaluate.examples is None and evaluate.until is None and not whole
        return min(examples, self._affordable if by_default else evaluate.examples or examples)

    @property
    def measured_every(self) -> int:
        """Examples used between two measurements; of data that grow, in their first segment, for one part to last."""
        mode = self.job.mode
        if not isinstance(mode, Online):
            return self.job.evaluate.every or self.order.used
        new = self.manifest.segments[0].examples.get("train", 0) if mode.follow else self.order.used
        return self.job.evaluate.every or mode.evaluate_every or max(1, -(-new // MEASURED_ONLINE))

    @property
    def _affordable(self) -> int:
        """Examples of each held-out set that take a tenth of the time: of work, the same on any machine.

        Training takes about three forwards an example (Deep Learning, 6.5.8, counts a backward as two), measuring one;
        it looks at as many training examples as at those of the validation split.
        """
        forwards = 3 * self.measured_every * MEASURING / (1 - MEASURING)
        fewest = max(LEAST_MEASURED, GROUPS_MEASURED * (self.job.loss_group or 0))
        return max(fewest, int(forwards / (2 + len(self.others))))

    @property
    def ranges(self) -> tuple[Lane, ...]:
        """The training examples that a run uses, as `select` numbers them."""
        return self.order.ranges if self.parts is None else self.parts.used(self.passes * self.order.used)

    def used_before(self, step: int, out: Sequence[tuple[int, int]]) -> tuple[Lane, ...]:
        """The training examples that the first ``step`` updates took, as `select` numbers them.

        Args:
            out: stored numbers, as runs, of those that they did not take after all.
        """
        places = self.order.examples_before(self.order.position(step))
        if self.lengths is not None and places < self.order.used:
            return without(self._by_length(StoredPasses(), self.lengths).used(places), out)
        if self.parts is None:
            return without(self.order.used_before(step), out)
        return without(self.parts.used(places), self.parts.by_part(out))


def plan(job: Job) -> Plan:
    """Opens the data set and fixes the order.

    Raises:
        ConfigError, DataError: the job and the data set do not fit.
    """
    job = with_optimizer(job)
    mixture = job.data.mixture
    sources: tuple[Source, ...] = ()
    if mixture is not None:
        place = masked(str(mixture))
        sources = open_sources(mixture)
        manifest = joined_manifest(sources, _names_read(job, sources[0].manifest))
    else:
        place = masked(str(local_path(job.data.place) or job.data.place))
        manifest = open_dataset(job.data.place)
    for split in ("train", "validation"):
        if split not in manifest.splits or not manifest.splits[split].examples:
            found = ", ".join(f"{name} {s.examples:,}" for name, s in manifest.splits.items())
            do = "pack it with a validation split, e.g. --splits 0.8 0.1 0.1"
            raise ConfigError(complaint(place, expected=f"examples in the {split} split", found=found, do=do))
    others = {name: open_held_out(job, manifest, place, name) for name in job.evaluate.others}
    check_part(job, {"validation": HeldOut("validation", manifest), **others}, place, sources)
    parts: Parts | Weights | None = None if mixture is None else parts_of(mixture, sources, "train")
    if job.data.balance is not None:
        parts = balanced_of_job(job, job.data.balance, place, manifest)
    examples = _examples_of_pass(job, manifest, parts)
    wanted = job.mode.max_examples if isinstance(job.mode, Online) else None
    if wanted is not None and wanted > examples:
        bound = f"at most the {examples:,} training examples of {place}"
        if parts is not None:
            bound = (
                f"at most {examples:,}, in which no example of {place} comes twice and each {parts.kind} has its share"
            )
        do = "lower it or pack more data"
        raise ConfigError(complaint("mode.max_examples", expected=bound, found=f"{wanted:,}", do=do))
    later = job.batch_size.later if isinstance(job.batch_size, BatchSize) else ()
    order = _order(job, manifest, wanted or examples, later, parts)
    if job.objective is not None:
        job = reads_all(job, manifest)
    names = job.data.fields_read(field.name for field in manifest.fields)
    fields = [manifest.field_named(name) for name in names]
    encoded = any(f is not None and f.member.rpartition(".")[2] not in ("npy", "cls") for f in fields)
    functions = job.data.map, job.data.augment, job.data.collate
    by_example = encoded or any(each is not None for each in functions)
    streamed = by_example and not job.pooled  # of a pool nobody knows ahead who reads what
    lengths = None if job.data.by_length is None else lengths_of_job(job, job.data.by_length, place, manifest)
    return Plan(job, place, manifest, order, streamed, parts=parts, sources=sources, others=others, lengths=lengths)


def _names_read(job: Job, manifest: Manifest) -> tuple[str, ...]:
    """The fields that the job takes of a data set with this manifest."""
    stored = [field.name for field in manifest.fields]
    if job.objective is not None:
        return job.data.extra or tuple(stored)
    return job.data.fields_read(stored)


def _examples_of_pass(job: Job, manifest: Manifest, parts: Parts | Weights | None) -> int:
    """Examples of a pass: those of the training split; in online mode as many as come until a part is used up."""
    if isinstance(parts, Parts) and isinstance(job.mode, Online):
        return parts.once
    return manifest.splits["train"].examples


def reader_of(job: Job, manifest: Manifest, split: str, files: ShardFiles | None = None) -> Reader:
    """A reader of the job's fields of one split; ``files`` are the shards', by default of the job's one data set."""
    data = job.data
    if files is None:
        files = shards_of(data.place, functools.partial(fetched_files, job, manifest, lanes=False), verify=data.verify)
    decoding = Decoding(
        data.map,
        data.image_size,
        data.decode_threads,
        data.on_bad_example,
        data.image_mode,
        data.image_background,
        data.collate,
    )
    return Reader(files, manifest, split, data.fields_read(field.name for field in manifest.fields), decoding)


def reads_all(job: Job, manifest: Manifest) -> Job:
    """The job that reads all fields of numbers or images, and all for a function of examples, unless it names some."""
    all_fields = job.data.map is not None or callable(job.data.collate)
    numbers = (each.name for each in manifest.fields if each.dtype is not None or is_image(each.member) or all_fields)
    read = job.data.extra or tuple(numbers)
    return dataclasses.replace(job, data=dataclasses.replace(job.data, inputs=(), target=(), extra=read))


def grown(plan: Plan) -> Plan | None:
    """The plan of the same run over the data set as it is now, where training examples were added; else ``None``.

    Raises:
        DataError: the data set is no longer the one that the run began with, and more.
    """
    manifest = open_dataset(plan.job.data.place)
    before = plan.manifest.segments
    if manifest.segments[: len(before)] != before or manifest.fields != plan.manifest.fields:
        expected, do = "the data set that the run began with, and more segments", "start a new run"
        raise ManifestError(complaint(plan.place, expected=expected, found="another data set", do=do))
    examples = manifest.splits["train"].examples
    if examples == plan.order.examples:
        return None
    return dataclasses.replace(plan, manifest=manifest, order=_order(plan.job, manifest, examples, plan.order.later))


def resized(plan: Plan, later: Sequence[tuple[int, int]]) -> Plan:
    """The plan of the same run with these batch sizes after the first."""
    order = _order(plan.job, plan.manifest, plan.order.used, tuple(later), plan.parts)
    return dataclasses.replace(plan, order=order)


def _order(
    job: Job, manifest: Manifest, used: int, later: Later, parts: Parts | Weights | None = None
) -> Order | SegmentedOrder:
    examples = _examples_of_pass(job, manifest, parts)
    if not (isinstance(job.mode, Online) and job.mode.follow):
        return Order(examples, job.lane_count, job.first_batch_size, used, later)
    segments = [segment.examples.get("train", 0) for segment in manifest.segments]
    if not segments:
        do = "pack it, and let it grow by `streamtrain pack --append`"
        raise ConfigError(complaint("mode.follow", expected="a data set that pack made", found="foreign shards", do=do))
    return SegmentedOrder(segments, job.lane_count, job.first_batch_size, later)
