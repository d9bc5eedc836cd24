"""A mixture's data sets as one: a manifest that has the examples of all, part after part.

What is refused here would be trained on as something else: a label that means one class here and another there.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Mixture
from streamtrain.order import Parts
from streamtrain.shards import Field, Manifest, Split
from streamtrain.shards.shard_list import ShardList
from streamtrain.store import local_path, masked
from streamtrain.stream.fetch.mixed_files import MixedFiles
from streamtrain.stream.fetch.unpacked import data_folder
from streamtrain.stream.opening import open_dataset

NEEDED = ("train", "validation")


class Source(NamedTuple):
    """One data set of a mixture: where it is, as messages name it; where its shards can be mapped; its manifest."""

    place: str
    folder: Path
    manifest: Manifest


def open_sources(mixture: Mixture, needed: Sequence[str] = NEEDED) -> tuple[Source, ...]:
    """All of a mixture's data sets.

    Args:
        needed: splits that have examples in each.

    Raises:
        ConfigError: one is behind a URL, or has no examples. DataError: it is not there, or damaged.
    """
    found = []
    for url in mixture.urls:
        place = masked(str(local_path(url) or url))
        folder = data_folder(url)
        if folder is None:
            do = "copy it to a folder that all nodes see: every worker reads from all parts"
            raise ConfigError(
                complaint(f"st.Mixture, {place}", expected="a data set in a folder", found="a URL", do=do)
            )
        source = Source(place, folder, open_dataset(url))
        for split in needed:
            if split not in source.manifest.splits or not source.manifest.splits[split].examples:
                counts = ", ".join(f"{name} {s.examples:,}" for name, s in source.manifest.splits.items())
                do = f"pack it with a {split} split, e.g. --splits 0.8 0.1 0.1, or leave it out"
                expected = f"examples in the {split} split of {place}"
                raise ConfigError(complaint("st.Mixture", expected=expected, found=counts, do=do))
        found.append(source)
    return tuple(found)


def joined_manifest(sources: Sequence[Source], names: Sequence[str]) -> Manifest:
    """One manifest of all: of the fields that each has, and the splits in which each has examples.

    Shards are named by the part's number and their file in it, so the digest is of contents, not of places.

    Args:
        names: fields that have to be in all of them, and of one form.

    Raises:
        ConfigError: they are not.
    """
    first = sources[0].manifest
    fields = []
    for field in first.fields:
        others = [(source.place, source.manifest.field_named(field.name)) for source in sources[1:]]
        if field.name in names:
            _check_alike(sources[0].place, field, others)
        there = [other for _, other in others if other is not None and form_of(other) == form_of(field)]
        if len(there) == len(others):
            fields.append(_joined_field([field, *there]))
    for name in names:
        if first.field_named(name) is None and any(s.manifest.field_named(name) for s in sources):
            found = ", ".join(field.name for field in first.fields)
            do = "leave the field or the data set out"
            where = f"st.Mixture, {sources[0].place}"
            raise ConfigError(complaint(where, expected=f"a field {name!r}", found=found, do=do))
    manifests = [source.manifest for source in sources]
    splits = [name for name in first.splits if all(m.splits.get(name, EMPTY).examples for m in manifests)]
    return Manifest(
        fields=tuple(fields),
        splits={name: _joined_split([manifest.splits[name] for manifest in manifests]) for name in splits},
        order="uniform" if all(manifest.order == "uniform" for manifest in manifests) else "unknown",
        segments=tuple(s for m in manifests for s in m.segments) if all(m.segments for m in manifests) else (),
        label=first.label if all(manifest.label == first.label for manifest in manifests) else None,
    )


def names_of(sources: Sequence[Source]) -> tuple[str, ...]:
    """A short name of each, fit for a curve's: its folder's, with its number where several have it."""
    names = [re.sub(r"[^A-Za-z0-9_.-]", "_", Path(source.place).name) for source in sources]
    numbered = [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names, 1)]
    if len(set(numbered)) == len(numbered):
        return tuple(numbered)
    return tuple(f"{number}_{name}" for number, name in enumerate(names, 1))


def mixed_files(place: str, sources: Sequence[Source], *, verify: bool) -> MixedFiles:
    """The shards of all; ``verify`` as in `MixedFiles`."""
    return MixedFiles(place, [(source.folder, source.manifest) for source in sources], verify=verify)


def parts_of(mixture: Mixture, sources: Sequence[Source], split: str) -> Parts:
    """A split of the mixture in parts, with their shares."""
    return Parts(tuple(source.manifest.splits[split].examples for source in sources), mixture.weights)


EMPTY = Split(ShardList())


def form_of(field: Field) -> dict[str, object]:
    """What examples of all parts have to have in common for them to be one field."""
    common = ("dtype", "shape", "classes", "columns", "unit")
    kind = "images" if field.images is not None else "others"
    return {"kind": kind, **{name: getattr(field, name) for name in common}}


def _check_alike(place: str, field: Field, others: Sequence[tuple[str, Field | None]]) -> None:
    for other_place, other in others:
        where = f"st.Mixture, {other_place}"
        if other is None:
            do = "leave the field or the data set out"
            raise ConfigError(complaint(where, expected=f"a field {field.name!r} as in {place}", found="none", do=do))
        mine, its = form_of(field), form_of(other)
        for name in mine:
            if field.images is not None and other.images is not None and name in ("dtype", "shape"):
                continue  # what `pack` has seen of the images is checked for all together
            if mine[name] != its[name]:
                expected, found = (f"{name} {_words(each[name])}" for each in (mine, its))
                do = "pack them alike, or leave one out"
                where = f"{where}, field {field.name!r}"
                raise ConfigError(complaint(where, expected=f"{expected} as in {place}", found=found, do=do))


def _words(value: object) -> str:
    return (
        ", ".join(map(str, value)) if isinstance(value, tuple) and value and isinstance(value[0], str) else str(value)
    )


def _joined_field(fields: Sequence[Field]) -> Field:
    lows, highs = ([getattr(field, name) for field in fields] for name in ("low", "high"))
    images = [field.images for field in fields if field.images is not None]
    whole = sum(images[1:], images[0]) if len(images) == len(fields) else None
    members = [field.member for field in fields]
    return dataclasses.replace(
        fields[0],
        member=members[0] if len(set(members)) == 1 else _hardest(members),
        dtype=fields[0].dtype if whole is None else whole.dtype,
        shape=fields[0].shape if whole is None else whole.shape,
        low=None if None in lows else min(lows),
        high=None if None in highs else max(highs),
        moments=None,
        images=whole,
    )


def _hardest(members: Sequence[str]) -> str:
    """Of several ways in which a field is stored, one that has to be decoded, if there is one."""
    return next((member for member in members if member.rpartition(".")[2] not in ("npy", "cls")), members[0])


def _joined_split(splits: Sequence[Split]) -> Split:
    shards = ShardList(
        dataclasses.replace(shard, file=f"{part}/{shard.file}")
        for part, split in enumerate(splits)
        for shard in split.shards
    )
    counts = sum((Counter(split.class_counts) for split in splits), Counter[int]())
    return Split(shards, dict(counts))
