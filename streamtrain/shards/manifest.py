"""The card of a data set: what its examples hold, where its shards are, and how it was shuffled.

A data set is a folder: ``manifest.json`` and ``<split>/<number>.tar``. No path is ever taken from
the manifest: a shard's place follows from its split and number. `pack` writes the manifest last, so
a folder without one is not a finished data set.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from streamtrain.errors import ManifestError, complaint
from streamtrain.images.facts import ImageFacts, parse_facts
from streamtrain.shards.shard_list import ShardList, check_shard_sizes
from streamtrain.store import write_whole
from streamtrain.store.remote import Store

VERSION = 2
FILE = "manifest.json"
MOST_BYTES = 1 << 30
"""Of a manifest: that of some million shards."""
SPLITS = ("train", "validation", "test")
FRACTIONS = "fractions"
"""How a segment is split whose splits are ranges of one shuffled order."""

ColumnMoments = tuple[tuple[int, float, float], ...]
"""Of each column: how many values are there, their mean, and their standard deviation (of a sample)."""


@dataclass(frozen=True)
class Field:
    """One field of every example.

    Attributes:
        name: the name in a decoded example, e.g. ``image``.
        member: the extension of its member in the tar, e.g. ``image.npy``, ``image.png``, ``label.cls``.
        dtype: numpy's name of the decoded array's type; ``None`` for text and JSON.
        shape: the decoded shape of one example; ``None`` where it varies.
        low, high: smallest and largest value, for integer scalars; else ``None``.
        classes: names of the values ``0 … n-1`` where they stand for classes; else ``None``.
        columns: names of the entries of a vector that holds a table's columns; else ``None``.
        unit: of the numbers, where the source has one, e.g. ``us since 1970-01-01 UTC``.
        moments: of ``columns``, over the training split.
        images: what `pack` has seen of all images, where the field has some; ``dtype`` is ``None`` where they differ.
    """

    name: str
    member: str
    dtype: str | None
    shape: tuple[int, ...] | None
    low: int | None = None
    high: int | None = None
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    unit: str | None = None
    moments: ColumnMoments | None = None
    images: ImageFacts | None = None


@dataclass(frozen=True)
class Split:
    """The shards of one split in stored order; ``class_counts`` is value -> examples, for the label field."""

    shards: ShardList
    class_counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        """Examples of the split."""
        return self.shards.examples


@dataclass(frozen=True)
class Segment:
    """Examples that were packed at once, and shuffled among themselves: a data set grows by segments.

    Attributes:
        examples: split -> examples; a segment's examples follow the earlier segments' in every split.
        seed: of the segment's shuffle.
        source: what it was packed from.
        split_by: how its examples were split, in words; the stored order tells which, only for ``fractions``.
    """

    examples: Mapping[str, int]
    seed: int
    source: str
    split_by: str = FRACTIONS

    def before(self, split: str) -> int:
        """Examples of the segment's stored order that come before its first one of ``split``."""
        return sum(self.examples.get(name, 0) for name in SPLITS[: SPLITS.index(split)])


@dataclass(frozen=True)
class Manifest:
    """See the module.

    Attributes:
        fields: of every example, by name.
        splits: by name, in the order of ``SPLITS``.
        order: ``uniform`` where `pack` shuffled, ``unknown`` for foreign shards.
        segments: what was packed at once, in the order of packing; none for foreign shards.
        label: the field of class labels, if there is one.
        block: examples of a block, where a sample of the tars holds many (all full but the last of a shard); or
            ``None`` where a sample is one example.
    """

    fields: tuple[Field, ...]
    splits: Mapping[str, Split]
    order: Literal["uniform", "unknown"]
    segments: tuple[Segment, ...] = ()
    label: str | None = None
    block: int | None = None
    name: str = ""

    @property
    def examples(self) -> int:
        """Examples of all splits."""
        return sum(split.examples for split in self.splits.values())

    @property
    def source(self) -> str:
        """What the data set was packed from; its folder's name for foreign shards."""
        return self.segments[0].source if self.segments else self.name

    @property
    def seed(self) -> int | None:
        """Seed of the first segment's shuffle."""
        return self.segments[0].seed if self.segments else None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest's text: since it holds every shard's, it names the data set's content."""
        digest = hashlib.sha256()
        for part in to_json(self):
            digest.update(part.encode())
        return digest.hexdigest()

    def field_named(self, name: str) -> Field | None:
        """The field of that name, if there is one."""
        return next((f for f in self.fields if f.name == name), None)


def to_json(manifest: Manifest) -> Iterator[str]:
    """The manifest's text, in pieces: the same manifest gives the same text. One line a shard."""
    card = {
        "streamtrain_manifest": VERSION,
        "order": manifest.order,
        "label": manifest.label,
        "block": manifest.block,
        "fields": [dataclasses.asdict(field) for field in manifest.fields],
        "splits": {
            name: {
                "examples": split.examples,
                "class_counts": {str(value): count for value, count in sorted(split.class_counts.items())},
            }
            for name, split in manifest.splits.items()
        },
        "segments": [dataclasses.asdict(segment) for segment in manifest.segments],
        # `wids` reads what follows as its shard index; we read everything but `url` and `nsamples` back
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
    }
    yield json.dumps(card, indent=1).removesuffix("\n}") + ',\n "shardlist": ['
    between = "\n"
    for name, split in manifest.splits.items():
        for shard in split.shards:
            entry = {
                "url": shard.file,
                "split": name,
                "nsamples": -(-shard.examples // (manifest.block or 1)),
                "examples": shard.examples,
                "filesize": shard.bytes,
                "sha256": shard.sha256,
                "first_key": shard.first_key,
                "last_key": shard.last_key,
            }
            yield between + "  " + json.dumps(entry)
            between = ",\n"
    yield "\n ]\n}\n"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of the data set in ``folder``: from then on the data set is there."""
    write_whole(folder / FILE, "".join(to_json(manifest)).encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the data set in ``folder``, checked for form and for the presence and size of its shards.

    Raises:
        ManifestError: no manifest, not ours, newer than this program, damaged, or a shard missing or cut short.
    """
    file = folder / FILE
    if not file.is_file():
        unfinished = "an interrupted pack" if any(folder.glob("*.partial")) else "no such file"
        raise ManifestError(
            complaint(str(file), expected="a data set's manifest", found=unfinished, do="run `streamtrain pack` first")
        )
    if (size := file.stat().st_size) > MOST_BYTES:
        expected, do = f"at most {MOST_BYTES:,} bytes", "restore it or pack again"
        raise ManifestError(complaint(str(file), expected=expected, found=f"{size:,}", do=do))
    manifest = parse_manifest(file.read_bytes(), str(file))
    check_sizes(folder, manifest)
    return manifest


def fetch_manifest(store: Store) -> Manifest:
    """The manifest of the data set in a store, checked for form; its shards' sizes are checked when they arrive.

    Raises:
        StoreError: it is not there or could not be had. ManifestError: not ours, newer than this program or damaged.
    """
    return parse_manifest(store.read_whole(FILE), store.named(FILE))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """The manifest that ``to_json`` wrote; ``where`` names it in errors. Nothing of it is trusted.

    Raises:
        ManifestError: not ours, newer than this program, or damaged.
    """
    columns: dict[str, tuple[list[Any], ...]] = {}

    def taken(entry: dict[str, Any]) -> dict[str, Any] | None:
        """Moves every shard's entry into columns as it is parsed, so that all of them never stand side by side."""
        if "filesize" not in entry:
            return entry
        split = entry["split"]
        if split not in columns:
            columns[split] = ([], [], [], [], [])
        examples, sizes, checksums, first_keys, last_keys = columns[split]
        examples.append(entry["examples"])
        sizes.append(entry["filesize"])
        checksums.append(bytes.fromhex(entry["sha256"]))
        first_keys.append(entry["first_key"])
        last_keys.append(entry["last_key"])
        return None

    try:
        version = _version(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(where, error) from None
    if version != VERSION:
        do = "update streamtrain, or pack the data again with this one"
        raise ManifestError(
            complaint(where, expected=f"manifest version {VERSION}", found=f"version {version!r}", do=do)
        )
    try:
        card = json.loads(text, object_hook=taken)
        shards = {split: ShardList.of_columns(split, *parts) for split, parts in columns.items()}
        return _from_card(card, shards)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _damaged(where, error) from None


def _version(text: bytes) -> object:
    """The number before anything else is parsed: another version's entries may look otherwise."""
    found = re.match(rb'\s*\{\s*"streamtrain_manifest"\s*:\s*(\d{1,9})\s*,', text)
    return int(found[1]) if found else json.loads(text)["streamtrain_manifest"]


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises `ManifestError` for the first shard that is missing or has not the manifest's number of bytes."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a hundred thousand whole paths would take a second
    try:
        for split in manifest.splits.values():
            check_shard_sizes(opened, folder, split.shards)
    finally:
        os.close(opened)


def _from_card(card: dict[str, Any], shards: Mapping[str, ShardList]) -> Manifest:
    if shards.keys() - card["splits"].keys():
        raise ValueError("shards of a split that is not named")
    splits = {}
    for name, split in card["splits"].items():
        if name not in SPLITS:
            raise ValueError(f"split {name!r}")
        counts = {int(value): _count(count) for value, count in split["class_counts"].items()}
        splits[name] = Split(shards.get(name, ShardList()), counts)
        if _count(split["examples"]) != splits[name].examples:
            raise ValueError(f"split {name!r} counts other examples than its shards")
    if card["order"] not in ("uniform", "unknown"):
        raise ValueError(f"order {card['order']!r}")
    segments = tuple(_segment(entry) for entry in card["segments"])
    for name, of_split in splits.items():
        if segments and sum(segment.examples.get(name, 0) for segment in segments) != of_split.examples:
            raise ValueError(f"split {name!r} counts other examples than the segments")
    return Manifest(
        fields=tuple(_field(entry) for entry in card["fields"]),
        splits=splits,
        order=card["order"],
        segments=segments,
        label=None if card["label"] is None else str(card["label"]),
        block=None if card["block"] is None else _block(card["block"]),
    )


def _segment(entry: dict[str, Any]) -> Segment:
    examples = {str(name): _count(count) for name, count in entry["examples"].items()}
    split_by = str(entry.get("split_by", FRACTIONS))
    return Segment(examples, _count(entry["seed"]), str(entry["source"]), split_by)


def _block(value: object) -> int:
    if _count(value) == 0:
        raise ValueError("blocks of no examples")
    return _count(value)


def _field(entry: dict[str, Any]) -> Field:
    shape = entry["shape"]
    classes = entry["classes"]
    columns = entry.get("columns")
    unit = entry.get("unit")
    images = entry.get("images")
    return Field(
        name=str(entry["name"]),
        member=str(entry["member"]),
        dtype=None if entry["dtype"] is None else str(entry["dtype"]),
        shape=None if shape is None else tuple(_count(n) for n in shape),
        low=None if entry["low"] is None else int(entry["low"]),
        high=None if entry["high"] is None else int(entry["high"]),
        classes=None if classes is None else tuple(str(name) for name in classes),
        columns=None if columns is None else tuple(str(name) for name in columns),
        unit=None if unit is None else str(unit),
        moments=None if entry.get("moments") is None else _moments(entry["moments"]),
        images=None if images is None else parse_facts(images),
    )


def _moments(entry: list[Any]) -> ColumnMoments:
    return tuple((_count(count), float(mean), float(deviation)) for count, mean, deviation in entry)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _damaged(where: str, error: Exception) -> ManifestError:
    return ManifestError(
        complaint(
            where,
            expected="the manifest that `streamtrain pack` wrote",
            found=f"{type(error).__name__}: {error}".replace("\n", " "),
            do="restore it or pack again",
        )
    )


def field_name(member: str) -> str:
    """The field that a member's extension stands for: ``image.npy`` is ``image``, ``jpg`` is ``jpg``."""
    stem, _, kind = member.rpartition(".")
    return stem or kind
