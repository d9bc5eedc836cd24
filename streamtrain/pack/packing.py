"""`pack`: a source to a data set, shuffled once and uniformly, out of core.

The same seed and input give the same bytes.
"""

from __future__ import annotations

import itertools
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamtrain.errors import SourceError, complaint
from streamtrain.pack.codec import FieldEncoder
from streamtrain.pack.manifest import SPLITS, Manifest, Segment, Split, write_manifest
from streamtrain.pack.options import PackOptions
from streamtrain.pack.shard import BLOCK, ShardWriter
from streamtrain.pack.shard_list import ShardList, shard_name
from streamtrain.pack.shuffle import Shuffle
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
        scratch = folder / "scratch"
        scratch.mkdir()
        shuffle = Shuffle(options.seed, options.memory_bytes, scratch)
        encoders = _scatter(opened, shuffle, report)
        counts = _split_counts(opened.name, shuffle.examples, options.splits)
        splits = _write(folder, shuffle, encoders, counts, options, opened.label, report)
        shutil.rmtree(scratch)
        manifest = Manifest(
            fields=tuple(encoder.field for encoder in encoders.values()),
            splits=splits,
            order="uniform",
            segments=(Segment(counts, options.seed, Path(opened.name).name or opened.name),),
            label=opened.label,
        )
        write_manifest(folder, manifest)
    return manifest


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
) -> dict[str, Split]:
    """Writes every split's shards from consecutive ranges of the stored order."""
    examples = _keyed(shuffle, report)
    splits = {}
    for split, count in counts.items():
        (folder / split).mkdir()
        splits[split] = _write_split(folder, split, itertools.islice(examples, count), encoders, options, label)
    report("writing", shuffle.examples, shuffle.examples)
    return splits


def _write_split(
    folder: Path,
    split: str,
    examples: Iterator[tuple[str, list[bytes]]],
    encoders: dict[str, FieldEncoder],
    options: PackOptions,
    label: str | None,
) -> Split:
    at_label = list(encoders).index(label) if label is not None and encoders[label].counts else None
    fields = [(encoder.member, encoder.finish) for encoder in encoders.values()]
    classes: Counter[int] = Counter()
    shards = ShardList()
    writer = None
    try:
        for key, encoded in examples:
            members = {name: finish(data) for (name, finish), data in zip(fields, encoded, strict=True)}
            size = sum(BLOCK + len(data) + -len(data) % BLOCK for data in members.values())
            if writer is not None and _full(writer, size, options):
                shards.append(writer.close(shard_name(split, len(shards))))
                writer = None
            writer = writer or ShardWriter(folder / shard_name(split, len(shards)))
            writer.write(key, members)
            if at_label is not None:
                classes[int(encoded[at_label])] += 1
        if writer is not None:
            shards.append(writer.close(shard_name(split, len(shards))))
    finally:
        if writer is not None:
            writer.discard()
    return Split(shards, dict(classes))


def _keyed(shuffle: Shuffle, report: Progress) -> Iterator[tuple[str, list[bytes]]]:
    """Key and encoded members of all examples in stored order."""
    digits = len(str(shuffle.examples - 1))
    for number, payload in enumerate(shuffle):
        if number % REPORT_EVERY == 0:
            report("writing", number, shuffle.examples)
        yield f"{number:0{digits}d}", list(_members(payload))


def _full(writer: ShardWriter, size: int, options: PackOptions) -> bool:
    if options.shard_examples is not None:
        return writer.examples >= options.shard_examples
    return writer.bytes + size > options.shard_bytes
