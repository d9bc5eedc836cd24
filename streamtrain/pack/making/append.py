"""`pack --append`: a new segment, shuffled in itself, for a data set that grows.

The new shards take the next numbers of every split, and only then the manifest is replaced, by one rename: readers
see the data set as it was or with the whole segment. What a killed append leaves is not in the manifest, and the
next one writes over it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
from pathlib import Path

from streamtrain.errors import ConfigError, SourceError, complaint
from streamtrain.pack.making.options import PackOptions
from streamtrain.pack.making.packing import Made, Numbering, Progress, make
from streamtrain.pack.manifest import SPLITS, Field, Manifest, Split, read_manifest, write_manifest
from streamtrain.pack.shard_list import ShardList
from streamtrain.pack.sources import open_source
from streamtrain.store import new_folder

NEW = ".segment"
"""Folder, in the data set's, for shards on their way."""


def append(
    source: str, dest: str | Path, options: PackOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """Adds the examples of ``source`` to the data set ``dest`` as a new segment.

    Args:
        source: see `streamtrain.pack.sources`; its examples must have the data set's fields.
        options: as in `pack`; the data set says whether there are blocks, and of what size.

    Returns:
        The data set's manifest with the new segment.

    Raises:
        ManifestError: there is no data set. ConfigError: somebody else is appending.
        SourceError: the source, an example in it, or other fields than the data set has.
    """
    folder, report = Path(dest), progress or (lambda *_: None)
    read_manifest(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found, do = "another one at work", "wait until it is done"
            raise ConfigError(complaint(str(folder), expected="one append at a time", found=found, do=do)) from None
        return _append(source, folder, options or PackOptions(), report)
    finally:
        os.close(descriptor)


def _append(source: str, folder: Path, options: PackOptions, report: Progress) -> Manifest:
    before = read_manifest(folder)
    if not before.segments:
        expected, do = "a data set that pack made", "pack it first"
        raise ConfigError(complaint(str(folder), expected=expected, found="foreign shards", do=do))
    options = dataclasses.replace(options, blocks=before.block is not None)
    opened = open_source(source, options.label or before.label)
    digits = len(next(split.shards[0].first_key for split in before.splits.values() if split.examples))
    shards = {name: len(split.shards) for name, split in before.splits.items()}
    numbering = Numbering(before.examples, digits, shards, before.block)
    with new_folder(folder / NEW) as partial:
        made = make(partial, opened, options, report, numbering)
        manifest = _grown(before, made, opened.name)
        for split in made.splits:
            (folder / split).mkdir(exist_ok=True)
            for file in sorted((partial / split).iterdir()):
                file.replace(folder / split / file.name)
    shutil.rmtree(folder / NEW)
    write_manifest(folder, manifest)
    return manifest


def _grown(before: Manifest, made: Made, source: str) -> Manifest:
    if [field.name for field in before.fields] != [field.name for field in made.fields]:
        expected, found = (", ".join(f.name for f in fields) for fields in (before.fields, made.fields))
        raise SourceError(complaint(source, expected=f"the fields {expected}", found=found, do="bring them to these"))
    fields = tuple(_joined(*pair, source) for pair in zip(before.fields, made.fields, strict=True))
    splits = {}
    for name in SPLITS:
        old, new = before.splits.get(name), made.splits.get(name)
        parts = [split for split in (old, new) if split is not None]
        if parts:
            counts: dict[int, int] = {}
            for part in parts:
                counts |= {value: counts.get(value, 0) + count for value, count in part.class_counts.items()}
            splits[name] = Split(ShardList(shard for part in parts for shard in part.shards), counts)
    return dataclasses.replace(before, fields=fields, splits=splits, segments=(*before.segments, made.segment))


def _joined(old: Field, new: Field, source: str) -> Field:
    """The field over both; raises where a reader could not take them for one."""
    if (old.member, old.dtype) != (new.member, new.dtype) or (old.shape != new.shape and not _varies(old, new)):
        expected, found = (f".{f.member}, {f.dtype} of shape {f.shape}" for f in (old, new))
        where, do = f"{source}, field {old.name!r}", "bring them to the data set's form"
        raise SourceError(complaint(where, expected=expected, found=found, do=do))
    if old.classes != new.classes:
        expected, found = (", ".join(f.classes or ("none",)) for f in (old, new))
        where, do = f"{source}, field {old.name!r}", "give the new examples the same classes"
        raise SourceError(complaint(where, expected=f"the classes {expected}", found=found, do=do))
    low = None if old.low is None or new.low is None else min(old.low, new.low)
    high = None if old.high is None or new.high is None else max(old.high, new.high)
    return dataclasses.replace(old, shape=old.shape if old.shape == new.shape else None, low=low, high=high)


def _varies(old: Field, new: Field) -> bool:
    """Whether other shapes are no matter: images are decoded one by one."""
    return old.member.rpartition(".")[2] not in ("npy", "cls") and new.dtype is not None
