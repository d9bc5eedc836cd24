"""`pack`: a source to a data set, shuffled once and uniformly, out of core.

The same seed and input give the same bytes.
"""

from __future__ import annotations

import itertools
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamtrain.errors import SourceError, complaint
from streamtrain.pack.codec import FieldEncoder
from streamtrain.pack.making.blocks import block_size, in_blocks
from streamtrain.pack.making.columns import Stored, column_blocks, fits
from streamtrain.pack.making.options import PackOptions
from streamtrain.pack.making.shuffle import Shuffle, stored_order
from streamtrain.pack.making.writing import Sample, write_split
from streamtrain.pack.manifest import SPLITS, Field, Manifest, Segment, Split, write_manifest
from streamtrain.pack.sources import open_source
from streamtrain.pack.sources.source import Source
from streamtrain.store import new_folder

Progress = Callable[[str, int, int | None], None]
"""Called with the phase, examples done in it, and examples in all where that is known."""
REPORT_EVERY = 1000
MEMBER_LIMIT = 8 << 30
"""USTAR's bound on a member, in bytes."""

_LENGTH = struct.Struct("<Q")


def pack(
    source: str, dest: str | Path, options: PackOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """Makes the data set ``dest`` out of ``source``; it appears whole or not at all.

    Args:
        source: see `streamtrain.pack.sources`.
        dest: a folder that is new or empty.

    Returns:
        The data set's manifest.

    Raises:
        ConfigError: an option, or the destination. SourceError: the source, or an example in it.
    """
    options = options or PackOptions()
    report = progress or (lambda *_: None)
    opened = open_source(str(source), options.label)
    with new_folder(Path(dest)) as folder:
        made = make(folder, opened, options, report, Numbering())
        manifest = Manifest(
            fields=tuple(made.fields),
            splits=made.splits,
            order="uniform",
            segments=(made.segment,),
            label=opened.label,
            block=made.block,
        )
        write_manifest(folder, manifest)
    return manifest


@dataclass(frozen=True)
class Numbering:
    """Where a segment's keys and shards begin, after what the data set has already; and the size of its blocks."""

    first_key: int = 0
    digits: int = 0
    first_shards: Mapping[str, int] = field(default_factory=dict)
    block: int | None = None


@dataclass(frozen=True)
class Made:
    """A segment's shards and what they hold."""

    fields: list[Field]
    splits: dict[str, Split]
    segment: Segment
    block: int | None


def make(folder: Path, source: Source, options: PackOptions, report: Progress, numbering: Numbering) -> Made:
    """Shuffles the source and writes its shards into ``folder``."""
    encoders = _encoders_of_columns(source)
    size = numbering.block or block_size(encoders, options) if encoders else None
    name = Path(source.name).name or source.name
    if source.columns is not None and size is not None and fits(source.columns, options):
        counts = _split_counts(source.name, source.count or 0, options.splits)
        splits = _write_columns(folder, source, encoders, counts, options, report, numbering, size)
    else:
        scratch = folder / "scratch"
        scratch.mkdir()
        shuffle = Shuffle(options.seed, options.memory_bytes, scratch)
        encoders = _scatter(source, shuffle, report)
        size = block_size(encoders, options) and (numbering.block or block_size(encoders, options))
        counts = _split_counts(source.name, shuffle.examples, options.splits)
        splits = _write(folder, shuffle, encoders, counts, options, source.label, report, numbering, size)
        shutil.rmtree(scratch)
    fields = [encoder.field if size is None else encoder.block_field for encoder in encoders.values()]
    return Made(fields, splits, Segment(counts, options.seed, name), size)


def _scatter(source: Source, shuffle: Shuffle, report: Progress) -> dict[str, FieldEncoder]:
    """Encodes all examples into the shuffle; the encoders then know every field's form."""
    encoders: dict[str, FieldEncoder] = {}
    for number, (where, values) in enumerate(source.examples()):
        if number == 0:
            _check_names(source.name, values, source.label)
            encoders = {name: FieldEncoder(name, source.classes.get(name)) for name in sorted(values)}
        if values.keys() != encoders.keys():
            expected, found = ", ".join(encoders), ", ".join(sorted(values))
            raise SourceError(complaint(where, expected=f"the fields {expected}", found=found, do="mend the source"))
        shuffle.add(_payload(where, [encoder.encode(values[name], where) for name, encoder in encoders.items()]))
        if number % REPORT_EVERY == 0:
            report("reading", number, source.count)
    if not encoders:
        raise SourceError(complaint(source.name, expected="examples", found="none", do="check the source"))
    report("reading", shuffle.examples, source.count)
    return encoders


def _check_names(source: str, values: dict[str, Any], label: str | None) -> None:
    for name in values:
        if not re.fullmatch("[a-z0-9_-]{1,64}", name):
            expected = "names of a-z, 0-9, _ and -, since they become extensions in the tars"
            raise SourceError(complaint(f"{source}, field {name!r}", expected=expected, found=name, do="rename it"))
    if label is not None and label not in values:
        raise SourceError(
            complaint(source, expected=f"a field {label!r}", found=", ".join(sorted(values)), do="set --label")
        )


def _payload(where: str, members: list[bytes]) -> bytes:
    largest = max(map(len, members))
    if largest >= MEMBER_LIMIT:
        raise SourceError(complaint(where, expected="members below 8 GiB", found=f"{largest} bytes", do="split it up"))
    return b"".join(part for data in members for part in (_LENGTH.pack(len(data)), data))


def _members(payload: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(payload):
        (size,) = _LENGTH.unpack_from(payload, start)
        start += _LENGTH.size + size
        yield payload[start - size : start]


def _split_counts(source: str, examples: int, fractions: tuple[float, float, float]) -> dict[str, int]:
    """Examples of every split that is not empty: rounded, and the last one gets the rest, so that none is lost."""
    last = max(index for index, fraction in enumerate(fractions) if fraction > 0)
    counts: list[int] = []
    for index, fraction in enumerate(fractions):
        left = examples - sum(counts)
        counts.append(left if index == last else min(round(fraction * examples), left))
    for name, fraction, count in zip(SPLITS, fractions, counts, strict=True):
        if fraction > 0 and count == 0:
            do = "use more data or other --splits"
            expected = f"at least one example for {name} ({fraction:g} of all)"
            raise SourceError(complaint(source, expected=expected, found=f"{examples} examples in all", do=do))
    return {name: count for name, count, fraction in zip(SPLITS, counts, fractions, strict=True) if fraction > 0}


def _write(
    folder: Path,
    shuffle: Shuffle,
    encoders: dict[str, FieldEncoder],
    counts: dict[str, int],
    options: PackOptions,
    label: str | None,
    report: Progress,
    numbering: Numbering,
    size: int | None,
) -> dict[str, Split]:
    """Writes every split's shards from consecutive ranges of the stored order."""
    digits = max(numbering.digits, len(str(numbering.first_key + shuffle.examples - 1)))
    examples = _keyed(shuffle, report, numbering.first_key, digits)
    at_label = list(encoders).index(label) if label is not None and encoders[label].counts else None
    splits = {}
    for split, count in counts.items():
        (folder / split).mkdir(exist_ok=True)
        of_split = itertools.islice(examples, count)
        if size is None:
            samples = _alone(of_split, encoders, at_label)
        else:
            samples = in_blocks(of_split, list(encoders.values()), size, options, at_label)
        first = numbering.first_shards.get(split, 0)
        splits[split] = write_split(folder, split, samples, options, first_shard=first)
    report("writing", shuffle.examples, shuffle.examples)
    return splits


def _write_columns(
    folder: Path,
    source: Source,
    encoders: dict[str, FieldEncoder],
    counts: dict[str, int],
    options: PackOptions,
    report: Progress,
    numbering: Numbering,
    size: int,
) -> dict[str, Split]:
    """The same, for arrays in memory."""
    assert source.columns is not None
    examples, done, splits = sum(counts.values()), 0, {}
    order = stored_order(options.seed, examples)
    digits = max(numbering.digits, len(str(numbering.first_key + examples - 1)))
    for split, count in counts.items():
        (folder / split).mkdir(exist_ok=True)
        part = Stored(order[done : done + count], numbering.first_key + done, digits, source.label)
        samples = column_blocks(source.columns, encoders, part, size, options)
        first = numbering.first_shards.get(split, 0)
        splits[split] = write_split(folder, split, samples, options, first_shard=first)
        done += count
        report("writing", done, examples)
    return splits


def _encoders_of_columns(source: Source) -> dict[str, FieldEncoder]:
    """Encoders that have taken the source's arrays; none where it is not arrays."""
    if source.columns is None or any(column.dtype.kind not in "biufc" for column in source.columns.values()):
        return {}
    _check_names(source.name, dict(source.columns), source.label)
    encoders = {name: FieldEncoder(name, source.classes.get(name)) for name in sorted(source.columns)}
    for name, encoder in encoders.items():
        encoder.column(source.columns[name], source.name)
    return encoders


def _alone(
    examples: Iterator[tuple[str, list[bytes]]], encoders: dict[str, FieldEncoder], at_label: int | None
) -> Iterator[Sample]:
    """Every example as a sample."""
    fields = [(encoder.member, encoder.finish) for encoder in encoders.values()]
    for key, encoded in examples:
        members = {name: finish(data) for (name, finish), data in zip(fields, encoded, strict=True)}
        yield Sample(key, key, 1, members, () if at_label is None else (int(encoded[at_label]),))


def _keyed(shuffle: Shuffle, report: Progress, first: int, digits: int) -> Iterator[tuple[str, list[bytes]]]:
    """Key and encoded members of all examples in stored order."""
    for number, payload in enumerate(shuffle):
        if number % REPORT_EVERY == 0:
            report("writing", number, shuffle.examples)
        yield f"{first + number:0{digits}d}", list(_members(payload))
