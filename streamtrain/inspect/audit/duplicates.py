"""Duplicates by content: examples that stand twice in train, and held-out ones that stand in train too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.rows import Rows
from streamtrain.inspect.audit.sample import label_field, stretches
from streamtrain.shards import Field, Manifest
from streamtrain.stream.fetch.shard_files import ShardFiles

SHOWN = 3


@dataclass(frozen=True)
class Duplicates:
    """What was found by hashes of 64 bits; n examples give a false one with a probability of n²/2⁶⁵.

    Attributes:
        fields: whose bytes were compared.
        looked_at: examples, by split; ``of`` is how many there are.
        within_train: training examples that repeat an earlier one.
        leaked: held-out split -> its examples that stand in train too.
        shown: a few leaked ones: split, its number there, the number in train.
    """

    fields: tuple[str, ...]
    looked_at: dict[str, int]
    of: dict[str, int]
    within_train: int
    leaked: dict[str, int]
    shown: tuple[tuple[str, int, int], ...]


def compared_fields(manifest: Manifest) -> tuple[Field, ...]:
    """All fields but the label; texts and JSON, which may say where a copy came from, only where there is no other."""
    label = label_field(manifest)
    content = [field for field in manifest.fields if field != label] or list(manifest.fields)
    return tuple([field for field in content if field.dtype is not None] or content)


def find_duplicates(files: ShardFiles, manifest: Manifest, most_examples: int, most_bytes: int) -> Duplicates:
    """Hashes all splits, or evenly spread stretches of them where they are larger than the two bounds together.

    Costs 16 bytes of memory an example. A sample misses what has its copy outside: with a share q of every split
    looked at, a copy is found with probability q².
    """
    fields = compared_fields(manifest)
    splits = {name: Rows(files, manifest, name, fields) for name in manifest.splits if manifest.splits[name].examples}
    total = sum(map(len, splits.values()))
    size = sum(rows.size for rows in splits.values())
    share = min(1.0, most_examples / total, most_bytes / size)
    hashes = {}
    numbers = {}
    for name, rows in splits.items():
        ranges = stretches(len(rows), max(1, int(share * len(rows))) if share < 1 else len(rows))
        numbers[name] = np.concatenate([np.arange(*each) for each in ranges])
        hashes[name] = _hashes(rows, ranges, fields)
    of_train, first = np.unique(hashes["train"], return_index=True)
    leaked = {}
    shown = []
    for name in [name for name in hashes if name != "train"]:
        places = np.searchsorted(of_train, hashes[name]).clip(max=len(of_train) - 1)
        also = np.flatnonzero(of_train[places] == hashes[name])
        leaked[name] = len(also)
        shown += [(name, int(numbers[name][at]), int(numbers["train"][first[places[at]]])) for at in also[:SHOWN]]
    return Duplicates(
        fields=tuple(field.name for field in fields),
        looked_at={name: len(found) for name, found in hashes.items()},
        of={name: len(rows) for name, rows in splits.items()},
        within_train=len(hashes["train"]) - len(of_train),
        leaked=leaked,
        shown=tuple(shown),
    )


def _hashes(rows: Rows, ranges: list[tuple[int, int]], fields: tuple[Field, ...]) -> NDArray[np.uint64]:
    """BLAKE2b, 64 bits, of every example's fields one after the other, each with its length before it."""
    digests = bytearray()
    for start, stop in ranges:
        for _, content in rows.read(start, stop):
            digest = hashlib.blake2b(digest_size=8)
            for field in fields:
                digest.update(b"%d:" % len(content[field.name]))
                digest.update(content[field.name])
            digests += digest.digest()
    return np.frombuffer(digests, np.uint64)
