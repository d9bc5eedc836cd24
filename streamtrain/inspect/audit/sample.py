"""What is looked at: all of a split, or contiguous stretches spread evenly over its stored order, of bounded size.

Whatever is computed from the examples alone, without their places, is exchangeable in a uniformly shuffled order:
every test here is a test of that, given the examples that were seen.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.images.kinds import is_image
from streamtrain.inspect.audit.rows import Rows
from streamtrain.shards import Field, Manifest

STRETCHES, STRETCH = 64, 512
"""The most stretches, and how long they are at least where there are more than a few."""
COARSE = 64
"""Numbers that are kept of an array for its principal component: means of equal parts of it."""


@dataclass(frozen=True)
class Sample:
    """Examples of one split in stored order.

    Attributes:
        lengths: of the stretches, one after the other.
        labels: class of every example, or ``None``.
        features: name -> a number for every example.
        shards: of every example.
        examples: of the whole split.
        key_places: of every example's key among all keys in alphabetical order; ``None`` where keys are not known.
    """

    lengths: tuple[int, ...]
    labels: NDArray[np.int64] | None
    features: dict[str, NDArray[np.float64]]
    shards: NDArray[np.int64]
    examples: int
    key_places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Every example's number in the stored order."""
        starts = _starts(self.examples, len(self.lengths), self.lengths[0])
        return np.concatenate([np.arange(s, s + length) for s, length in zip(starts, self.lengths, strict=True)])


def stretches(examples: int, wanted: int) -> list[tuple[int, int]]:
    """Ranges ``[start, stop)`` of at most ``wanted`` examples in all: everything, or evenly spread ones."""
    if examples <= wanted:
        return [(0, examples)]
    count = min(wanted, STRETCHES, max(4, wanted // STRETCH))
    length = wanted // count
    return [(start, start + length) for start in _starts(examples, count, length)]


def _starts(examples: int, count: int, length: int) -> list[int]:
    """Of evenly spread stretches of one length, the first at the beginning and the last at the end."""
    return [int(start) for start in np.linspace(0, examples - length, count)]


def label_field(manifest: Manifest) -> Field | None:
    """The field of class labels: the manifest's, or the only whole number."""
    numbers = [field for field in manifest.fields if field.member.rpartition(".")[2] == "cls"]
    return manifest.field_named(manifest.label or "") or (numbers[0] if len(numbers) == 1 else None)


def draw(rows: Rows, manifest: Manifest, wanted: int) -> Sample:
    """Reads the sample and computes its features: byte lengths, means and first principal values, the keys' order.

    Raises:
        ShardError: an example cannot be read.
    """
    ranges = stretches(len(rows), wanted)
    columns = [_Column(rows, field) for field in manifest.fields]
    keys: list[str] = []
    for start, stop in ranges:
        for number, (key, content) in enumerate(rows.read(start, stop), start):
            keys.append(key)
            for column in columns:
                column.add(number, content[column.field.name])
    shards = rows.shards_of(np.concatenate([np.arange(*each) for each in ranges]))
    label = label_field(manifest)
    labels, features = None, {}
    for column in columns:
        if column.field == label and column.counts:
            labels = np.array(column.means).astype(np.int64)
            features[f"{label.name}'s number"] = np.array(column.means)
        else:
            features |= column.features(shards)
    features = {name: values for name, values in features.items() if np.ptp(values) > 0}
    return Sample(
        lengths=tuple(stop - start for start, stop in ranges),
        labels=labels,
        features=features,
        shards=shards,
        examples=len(rows),
        key_places=key_places(keys) if rows.has_keys else None,
    )


def key_places(keys: list[str]) -> NDArray[np.int64]:
    """Every key's place among all keys; numbers in them count as numbers."""
    places = np.empty(len(keys), np.int64)
    places[sorted(range(len(keys)), key=lambda number: _natural(keys[number]))] = np.arange(len(keys))
    return places


class _Column:
    """One field over the sample: byte lengths, and of arrays and numbers the mean and a coarse copy."""

    def __init__(self, rows: Rows, field: Field) -> None:
        self.field = field
        self._rows = rows
        self._decode = rows.decoder(field)
        self._numeric = is_image(field.member) or (field.dtype is not None and np.dtype(field.dtype).kind in "biuf")
        self.is_number = field.shape == () and self._numeric
        self.counts = self.is_number and np.dtype(field.dtype).kind in "iu"
        self._coarse = field.shape is not None or is_image(field.member)
        self.means: list[float] = []
        self._sizes: list[int] = []
        self._parts: list[NDArray[Any]] = []

    def add(self, number: int, data: bytes) -> None:
        self._sizes.append(len(data))
        if not self._numeric:
            return
        try:
            value = np.asarray(self._decode(data), np.float64).ravel()
        except Exception as error:  # whatever a decoder raises at what a file holds
            raise self._rows.unreadable(number, self.field, error) from None
        self.means.append(float(value.mean()) if value.size else 0.0)
        if self._coarse and value.size > 1:
            self._parts.append(_coarse(value))

    def features(self, shards: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Name -> one number an example."""
        name = self.field.name
        found = {f"{name}'s bytes": np.array(self._sizes, np.float64)}
        if self._numeric and not (self.counts and _counts_up(np.array(self.means), shards)):
            found[name if self.is_number else f"{name}'s mean"] = np.array(self.means)
        if len(self._parts) == len(self._sizes) and self._parts and len({part.size for part in self._parts}) == 1:
            found[f"{name}'s principal value"] = principal_values(np.array(self._parts))
        return found


def principal_values(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Coordinates along the first principal component of the rows (Pearson 1901)."""
    centred = table - table.mean(axis=0)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return np.asarray(centred @ vectors[:, -1], np.float64)


def ranked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Midranks, centred and scaled to mean 0 and mean square 1: no outlier then weighs more than another."""
    from scipy.stats import rankdata

    ranks = rankdata(values)
    centred = ranks - ranks.mean()
    return np.asarray(centred / np.sqrt(np.mean(centred**2)), np.float64)


def _coarse(value: NDArray[np.float64]) -> NDArray[np.float32]:
    if value.size <= COARSE:
        return value.astype(np.float32)
    edges, sizes = _equal_parts(value.size)
    return (np.add.reduceat(value, edges) / sizes).astype(np.float32)


@functools.lru_cache
def _equal_parts(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    edges = np.arange(COARSE) * size // COARSE
    return edges, np.diff([*edges, size])


def _counts_up(values: NDArray[np.float64], shards: NDArray[np.int64]) -> bool:
    steps = np.diff(values)[shards[1:] == shards[:-1]]
    return bool(np.all(steps > 0) or np.all(steps < 0))


def _natural(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]
