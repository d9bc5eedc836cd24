"""The card of a data set: what its examples hold, where its shards are, and how it was shuffled.

A data set is a folder: ``manifest.json`` and ``<split>/<number>.tar``. No path is ever taken from
the manifest: a shard's place follows from its split and number. `pack` writes the manifest last, so
a folder without one is not a finished data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from streamtrain.errors import ManifestError, complaint
from streamtrain.store.remote import Store

VERSION = 1
FILE = "manifest.json"
SPLITS = ("train", "validation", "test")


def shard_name(split: str, number: int) -> str:
    """Where shard ``number`` of ``split`` lies, relative to the data set's folder."""
    return f"{split}/{number:06d}.tar"


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
    """

    name: str
    member: str
    dtype: str | None
    shape: tuple[int, ...] | None
    low: int | None = None
    high: int | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Shard:
    """One tar file: ``file`` is relative to the data set's folder, ``sha256`` is of the whole file.

    ``sha256`` is empty for a shard that `pack` did not write.
    """

    file: str
    examples: int
    bytes: int
    sha256: str
    first_key: str
    last_key: str


@dataclass(frozen=True)
class Split:
    """The shards of one split in stored order; ``class_counts`` is value -> examples, for the label field."""

    examples: int
    shards: tuple[Shard, ...]
    class_counts: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """See the module. ``order`` is ``uniform`` where `pack` shuffled, ``unknown`` for foreign shards."""

    fields: tuple[Field, ...]
    splits: Mapping[str, Split]
    order: Literal["uniform", "unknown"]
    seed: int | None
    source: str
    label: str | None = None

    @property
    def examples(self) -> int:
        """Examples of all splits."""
        return sum(split.examples for split in self.splits.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's text: since it holds every shard's, it names the data set's content."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()

    def field_named(self, name: str) -> Field | None:
        """The field of that name, if there is one."""
        return next((f for f in self.fields if f.name == name), None)


def to_json(manifest: Manifest) -> str:
    """The manifest's text: the same manifest gives the same bytes."""
    card = {
        "streamtrain_manifest": VERSION,
        "order": manifest.order,
        "seed": manifest.seed,
        "source": manifest.source,
        "label": manifest.label,
        "fields": [
            {
                "name": f.name,
                "member": f.member,
                "dtype": f.dtype,
                "shape": None if f.shape is None else list(f.shape),
                "low": f.low,
                "high": f.high,
                "classes": None if f.classes is None else list(f.classes),
            }
            for f in manifest.fields
        ],
        "splits": {
            name: {
                "examples": split.examples,
                "class_counts": {str(value): count for value, count in sorted(split.class_counts.items())},
            }
            for name, split in manifest.splits.items()
        },
        # `wids` reads this part as its shard index; we read everything but `url` back
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": [
            {
                "url": shard.file,
                "split": name,
                "nsamples": shard.examples,
                "filesize": shard.bytes,
                "sha256": shard.sha256,
                "first_key": shard.first_key,
                "last_key": shard.last_key,
            }
            for name, split in manifest.splits.items()
            for shard in split.shards
        ],
    }
    return json.dumps(card, indent=1) + "\n"


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
    manifest = parse_manifest(file.read_bytes(), str(file))
    check_sizes(folder, manifest)
    return manifest


def fetch_manifest(store: Store) -> Manifest:
    """The manifest of the data set in a store, checked for form; its shards' sizes are checked when they arrive.

    Raises:
        StoreError: it is not there or could not be had. ManifestError: not ours, newer than this program or damaged.
    """
    return parse_manifest(store.read_whole(FILE), store.named(FILE))


def parse_manifest(text: bytes, file: str) -> Manifest:
    """The manifest in the text of ``file``, checked for form alone.

    Raises:
        ManifestError: not ours, newer than this program, or damaged.
    """
    try:
        card = json.loads(text.decode("utf-8"))
        version = card["streamtrain_manifest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(file, error) from None
    if version != VERSION:
        raise ManifestError(
            complaint(
                file,
                expected=f"manifest version {VERSION}",
                found=f"version {version!r}",
                do="update streamtrain, or pack the data again with this one",
            )
        )
    try:
        return _from_card(card)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _damaged(file, error) from None


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises `ManifestError` for the first shard that is missing or has not the manifest's number of bytes."""
    for split in manifest.splits.values():
        for shard in split.shards:
            try:
                found = (folder / shard.file).stat().st_size
            except OSError as error:
                raise ManifestError(
                    complaint(
                        str(folder / shard.file),
                        expected="a shard",
                        found=(error.strerror or "an error").lower(),
                        do="restore it or pack again",
                    )
                ) from None
            if found != shard.bytes:
                raise ManifestError(
                    complaint(
                        str(folder / shard.file),
                        expected=f"{shard.bytes} bytes",
                        found=f"{found}",
                        do="it was cut short or altered: restore it or pack again",
                    )
                )


def _from_card(card: dict[str, Any]) -> Manifest:
    shards: dict[str, list[Shard]] = {name: [] for name in card["splits"]}
    for entry in card["shardlist"]:
        of_split = shards[entry["split"]]
        of_split.append(
            Shard(
                file=shard_name(entry["split"], len(of_split)),
                examples=_count(entry["nsamples"]),
                bytes=_count(entry["filesize"]),
                sha256=str(entry["sha256"]),
                first_key=str(entry["first_key"]),
                last_key=str(entry["last_key"]),
            )
        )
    splits = {}
    for name, split in card["splits"].items():
        if name not in SPLITS:
            raise ValueError(f"split {name!r}")
        if _count(split["examples"]) != sum(shard.examples for shard in shards[name]):
            raise ValueError(f"split {name!r} counts other examples than its shards")
        counts = {int(value): _count(count) for value, count in split["class_counts"].items()}
        splits[name] = Split(split["examples"], tuple(shards[name]), counts)
    if card["order"] not in ("uniform", "unknown"):
        raise ValueError(f"order {card['order']!r}")
    return Manifest(
        fields=tuple(_field(entry) for entry in card["fields"]),
        splits=splits,
        order=card["order"],
        seed=None if card["seed"] is None else int(card["seed"]),
        source=str(card["source"]),
        label=None if card["label"] is None else str(card["label"]),
    )


def _field(entry: dict[str, Any]) -> Field:
    shape, classes = entry["shape"], entry["classes"]
    return Field(
        name=str(entry["name"]),
        member=str(entry["member"]),
        dtype=None if entry["dtype"] is None else str(entry["dtype"]),
        shape=None if shape is None else tuple(_count(n) for n in shape),
        low=None if entry["low"] is None else int(entry["low"]),
        high=None if entry["high"] is None else int(entry["high"]),
        classes=None if classes is None else tuple(str(name) for name in classes),
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _damaged(file: str, error: Exception) -> ManifestError:
    return ManifestError(
        complaint(
            file,
            expected="the manifest that `streamtrain pack` wrote",
            found=f"{type(error).__name__}: {error}".replace("\n", " "),
            do="restore it or pack again",
        )
    )


def field_name(member: str) -> str:
    """The field that a member's extension stands for: ``image.npy`` is ``image``, ``jpg`` is ``jpg``."""
    stem, _, kind = member.rpartition(".")
    return stem or kind
