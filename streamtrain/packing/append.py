"""A data set that grows: one more segment, shuffled by itself; its fields, keys and shards continue the earlier ones.

Shards come first and the manifest last, in one step: who reads meanwhile sees the old data set or the new one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, ManifestError, SourceError, complaint
from streamtrain.images.kinds import is_image
from streamtrain.packing.shuffling.column_moments import joined_moments
from streamtrain.packing.sources.source import Batch, Example, Source
from streamtrain.shards.codec import FieldEncoder
from streamtrain.shards.index import index_name
from streamtrain.shards.manifest import SPLITS, Field, Manifest, Split, read_manifest, write_manifest
from streamtrain.shards.origins import FOLDER
from streamtrain.shards.shard_list import ShardList, shard_name


def opened(dest: Path) -> Manifest:
    """The data set to add to.

    Raises:
        ManifestError: there is none, or it is damaged.
    """
    before = read_manifest(dest)
    if not before.segments:
        do = "pack it first"
        raise ManifestError(complaint(str(dest), expected="a data set that pack made", found="foreign shards", do=do))
    return before


def continued(source: Source, before: Manifest, dest: Path) -> Source:
    """The source with the data set's label, and its classes by the numbers that they have there.

    Raises:
        SourceError: a class that the data set does not know. ConfigError: another label.
    """
    if source.label != before.label:
        found, do = f"{source.label!r}", "leave it out"
        raise ConfigError(complaint("label", expected=f"{before.label!r} as in {dest}", found=found, do=do))
    numbers: dict[str, NDArray[np.int64]] = {}
    classes = dict(source.classes)
    for name, names in source.classes.items():
        field = before.field_named(name)
        known = None if field is None else field.classes
        if known is None or known == names:
            continue
        new = [value for value in names if value not in known]
        if new:
            where, expected = f"{source.name}, field {name!r}", f"the classes of {dest}: {', '.join(known)}"
            do = "pack all of it again, or leave them out"
            raise SourceError(complaint(where, expected=expected, found=", ".join(new), do=do))
        numbers[name] = np.array([known.index(value) for value in names], np.int64)
        classes[name] = known
    if not numbers:
        return source
    return dataclasses.replace(
        source,
        classes=classes,
        examples=partial(_renumbered_examples, source, numbers),
        batches=None if source.batches is None else partial(_renumbered_batches, source, numbers),
    )


def block_size(encoders: Mapping[str, FieldEncoder], before: Manifest, dest: Path) -> int | None:
    """The data set's; raises `SourceError` where the source's fields do not go in blocks, and the data set's do."""
    any_size = {field.name for field in before.fields if field.shape is None or not field.member.endswith(".npy")}
    loose = next((n for n, encoder in encoders.items() if encoder.row_type is None and n not in any_size), None)
    if before.block is not None and loose is not None:
        found, do = f"field {loose!r} of other values", "bring it to that form"
        raise SourceError(complaint(str(dest), expected="integers and arrays of one shape", found=found, do=do))
    return before.block


def check_fields(encoders: Mapping[str, FieldEncoder], before: Manifest, dest: Path) -> None:
    """Holds the new examples to the data set's fields, and lets the encoders take in the earlier ranges.

    Raises:
        SourceError: other fields, members, types, shapes or classes; names the field.
    """
    if encoders.keys() != {field.name for field in before.fields}:
        expected, there = ", ".join(field.name for field in before.fields), ", ".join(encoders)
        do = "give the examples these fields, or pack all of it again"
        raise SourceError(complaint(str(dest), expected=f"the fields {expected}", found=there, do=do))
    for field in before.fields:
        varies = field.dtype is not None and field.shape is None
        encoders[field.name].absorb({"low": field.low, "high": field.high, "varies": varies, "images": None})
        encoders[field.name].continue_images(field)
    found = {name: encoder.field(in_blocks=before.block is not None) for name, encoder in encoders.items()}
    for field in before.fields:
        there, here = _form(field), _form(found[field.name])
        if there != here:
            where, do = f"{dest}, field {field.name!r}", "convert it to that in the source, or pack all of it again"
            raise SourceError(complaint(where, expected=there, found=here, do=do))


def digits(before: Manifest | None, examples: int) -> int:
    """Digits of the new keys: at least those of the earlier ones, so that numbers and keys are the same thing."""
    if before is None:
        return len(str(examples - 1))
    earlier = max(len(split.shards[0].first_key) for split in before.splits.values() if len(split.shards))
    return max(earlier, len(str(before.examples + examples - 1)))


def joined(before: Manifest, new: Manifest) -> Manifest:
    """The data set with its new segment."""
    splits = {}
    for name in SPLITS:
        parts = [manifest.splits[name] for manifest in (before, new) if name in manifest.splits]
        if parts:
            classes = sum((Counter(part.class_counts) for part in parts), Counter[int]())
            splits[name] = Split(ShardList(shard for part in parts for shard in part.shards), dict(classes))
    fields = tuple(_joined_field(before.field_named(field.name), field) for field in new.fields)
    return dataclasses.replace(before, fields=fields, splits=splits, segments=(*before.segments, *new.segments))


def publish(made: Path, dest: Path, manifest: Manifest, before: Manifest | None) -> None:
    """Puts what was made in its place; its manifest last."""
    if before is None:
        write_manifest(made, manifest)
        if dest.exists():
            dest.rmdir()
        made.rename(dest)
        return
    for name, split in manifest.splits.items():
        (dest / name).mkdir(exist_ok=True)
        first = len(before.splits[name].shards) if name in before.splits else 0
        for number in itertools.count(first):
            files = [shard_name(name, number), index_name(shard_name(name, number))]
            left = [file for file in files if (dest / file).exists()]
            if number >= len(split.shards) and not left:
                break
            for file in left:  # by a process that was killed right here: no manifest names it
                (dest / file).unlink()
            for file in files:
                if (made / file).exists():
                    (made / file).rename(dest / file)
    (dest / FOLDER).mkdir(exist_ok=True)
    for about in sorted((made / FOLDER).iterdir()):
        about.replace(dest / FOLDER / about.name)
    write_manifest(dest, manifest)


def _renumbered_examples(source: Source, numbers: Mapping[str, NDArray[np.int64]], start: int) -> Iterator[Example]:
    for where, values in source.examples(start):
        yield where, values | {name: int(known[values[name]]) for name, known in numbers.items()}


def _renumbered_batches(
    source: Source, numbers: Mapping[str, NDArray[np.int64]], start: int, stop: int | None
) -> Iterator[Batch]:
    assert source.batches is not None
    for batch in source.batches(start, stop):
        yield Batch(
            {**batch.values, **{n: known[np.asarray(batch.values[n])] for n, known in numbers.items()}}, batch.place
        )


def _form(field: Field) -> str:
    if is_image(field.member):  # of any encoding, kind and size
        return f".{field.member}"
    shape = "any shape" if field.shape is None else f"shape {field.shape}"
    classes = "" if field.classes is None else f", classes {', '.join(field.classes)}"
    return f".{field.member}, {field.dtype} of {shape}{classes}"


def _joined_field(known: Field | None, new: Field) -> Field:
    if known is None:
        return new
    return dataclasses.replace(new, classes=known.classes, moments=joined_moments(known.moments, new.moments))
