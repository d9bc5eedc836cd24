"""Which split each example goes to, where the splits are not just cut from the shuffled order.

They may be the source's own, named by a column, or made so that groups stay whole, that the latest examples are held
out, that every class has its share, or that equal examples do not stand in two splits. What is decided is a byte for
each example of the source, decided before the shuffle: any number of tasks then writes the same bytes. Needs some 20
bytes of memory an example, and one look at the column.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, SourceError, complaint
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources.source import Batch, Example, Source
from streamtrain.packing.sources.split_names import NAMES, split_named
from streamtrain.shards.manifest import SPLITS
from streamtrain.shards.stored_order import sort_keys

LEFT_OUT = 3
"""In the place of a split's number: an example that is in none."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
"""How texts begin that are in order of time where they are in order of the alphabet."""

Fractions = tuple[float, float, float]
Values = NDArray[Any] | list[Any]


@dataclass(frozen=True)
class Assigned:
    """The split of each example of the source, by its number in `SPLITS`, or `LEFT_OUT`; and how they were found.

    ``repeated`` counts examples that were left out since an earlier one has the same content.
    """

    splits: NDArray[np.uint8]
    how: str
    repeated: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Examples of every split that is not empty."""
        found = np.bincount(self.splits, minlength=len(SPLITS) + 1).tolist()
        return {name: count for name, count in zip(SPLITS, found, strict=False) if count}


def split_counts(source: str, examples: int, fractions: Fractions) -> dict[str, int]:
    """Examples of every split that is not empty: rounded, and the last one gets the rest, so that none is lost.

    Raises:
        SourceError: a split would be empty.
    """
    last = max(index for index, fraction in enumerate(fractions) if fraction > 0)
    counts: list[int] = []
    for index, fraction in enumerate(fractions):
        left = examples - sum(counts)
        counts.append(left if index == last else min(round(fraction * examples), left))
    _check_none_empty(source, counts, fractions)
    return {name: count for name, count, fraction in zip(SPLITS, counts, fractions, strict=True) if fraction > 0}


def assigned(source: Source, options: PackOptions) -> Assigned | None:
    """The split of each example; ``None`` where they are fractions of the shuffled order.

    Raises:
        SourceError: a column or a name of a split that is not there, or a split that would be empty.
        ConfigError: ways to split that do not go together.
    """
    found: Assigned | None
    contents = None if options.unique is None else _numbered(_contents(source))
    if options.split_column is not None:
        found = _by_names(source, options.split_column)
    elif source.splits and options.splits is None:
        if any((options.group, options.by, options.stratify)) or options.unique == "together":
            do = "set --splits too, which joins them and splits anew"
            raise ConfigError(complaint("splits", expected="the source's own", found="another way as well", do=do))
        found = _as_given(source)
    else:
        found = _by_values(source, options, contents)
    if options.unique != "once" or contents is None:
        return found
    return _each_once(source, options, found, contents)


def _as_given(source: Source) -> Assigned:
    """The source's own splits."""
    named = [(name, split_named(name), stop) for name, stop in source.splits]
    strange = sorted({name for name, split, _ in named if split is None})
    if strange:
        expected, found = "splits called train, validation or test", ", ".join(strange)
        do = f"say what they are, e.g. {source.name}#train,{strange[0]}=validation, or set --splits, which joins all"
        raise SourceError(complaint(source.name, expected=expected, found=found, do=do))
    numbers = np.array([SPLITS.index(split) for _, split, _ in named if split is not None], np.uint8)
    sizes = np.diff([0, *(stop for *_, stop in named)])
    return Assigned(np.repeat(numbers, sizes), source.split_by)


def _by_names(source: Source, name: str) -> Assigned:
    """By the names in a column."""
    values = _column(source, name)
    names = source.classes.get(name)
    of = {value: split_named(value if names is None else names[value]) for value in set(_listed(values))}
    strange = sorted(str(value) for value, split in of.items() if split is None)
    if strange:
        where, expected = f"{source.name}, column {name!r}", f"names of splits ({', '.join(sorted(NAMES))})"
        do = "rename them, or leave --split-column out"
        raise SourceError(complaint(where, expected=expected, found=", ".join(strange[:5]), do=do))
    numbers = {value: SPLITS.index(split) for value, split in of.items() if split is not None}
    splits = np.fromiter((numbers[value] for value in _listed(values)), np.uint8, len(values))
    return Assigned(splits, f"as column {name!r} names them")


def _by_values(source: Source, options: PackOptions, contents: NDArray[np.int64] | None) -> Assigned | None:
    """By groups, by time, or by classes: ``None`` for none of these."""
    fractions = options.fractions
    if options.unique == "together" and contents is not None:
        splits = _whole_groups(contents, options.seed, fractions)
        found = Assigned(splits, "equal examples together")
    elif options.group is not None:
        groups = _numbered(_listed(_column(source, options.group)))
        splits = _whole_groups(groups, options.seed, fractions)
        found = Assigned(splits, f"by group: {groups.max() + 1:,} values of {options.group!r}, each whole in one split")
    elif options.by is not None:
        found = Assigned(_latest_last(source, options.by, fractions), f"by {options.by!r}: the latest are held out")
    elif options.stratify is not None:
        groups = _numbered(_listed(_column(source, options.stratify)))
        found = Assigned(_same_shares(groups, options.seed, fractions), f"every value of {options.stratify!r} alike")
    else:
        return None
    _check_none_empty(source.name, [found.counts.get(name, 0) for name in SPLITS], fractions)
    return found


def _whole_groups(groups: NDArray[np.int64], seed: int, fractions: Fractions) -> NDArray[np.uint8]:
    """Groups in random order, each to the split in which its middle comes to lie: half a group off at most."""
    first = np.unique(groups, return_index=True)[1]
    order = np.argsort(sort_keys(seed, 0, len(groups))[first], kind="stable")
    sizes = np.bincount(groups)[order]
    middles = np.cumsum(sizes) - sizes / 2
    borders = np.cumsum(fractions[:2]) * len(groups)
    of_group = np.empty(len(sizes), np.uint8)
    of_group[order] = np.searchsorted(borders, middles, side="right")
    return of_group[groups]


def _latest_last(source: Source, name: str, fractions: Fractions) -> NDArray[np.uint8]:
    values = np.asarray(_column(source, name))
    where = f"{source.name}, column {name!r}"
    if values.ndim != 1 or values.dtype.kind not in "iufUMm":
        do = "name a column of times or numbers"
        raise SourceError(complaint(where, expected="times or numbers", found="other values", do=do))
    if values.dtype.kind == "f" and np.isnan(values).any():
        do = "fill them, or leave their rows out (--missing drop)"
        raise SourceError(complaint(where, expected="a value in every row", found="rows without one", do=do))
    if values.dtype.kind == "U" and not all(DATE.match(value) for value in values.tolist()):
        do = "write them as YYYY-MM-DD, or as numbers"
        raise SourceError(complaint(where, expected="times or numbers", found="other texts", do=do))
    counts = split_counts(source.name, len(values), fractions)
    splits = np.empty(len(values), np.uint8)
    numbers = np.repeat(np.array([SPLITS.index(split) for split in counts], np.uint8), list(counts.values()))
    splits[np.argsort(values, kind="stable")] = numbers
    return splits


def _same_shares(groups: NDArray[np.int64], seed: int, fractions: Fractions) -> NDArray[np.uint8]:
    """Of every class, in random order, the first go to train and the next to validation.

    How many follows from rounding the sums over the classes so far, so that rounding errors do not add up.
    """
    order = np.lexsort((sort_keys(seed, 0, len(groups)), groups))
    ends = np.cumsum(np.bincount(groups))
    splits = np.empty(len(groups), np.uint8)
    start = 0
    given = [0, 0]
    for end in ends.tolist():
        left = end - start
        at = start
        for number in (0, 1):
            wanted = max(0, round(fractions[number] * end) - given[number])
            count = left if not any(fractions[number + 1 :]) else min(left, wanted)
            splits[order[at : at + count]] = number
            given[number] += count
            at = at + count
            left = left - count
        splits[order[at:end]] = 2
        start = end
    return splits


def _each_once(source: Source, options: PackOptions, found: Assigned | None, contents: NDArray[np.int64]) -> Assigned:
    """The same without what repeats an earlier example."""
    first = np.unique(contents, return_index=True)[1]
    kept = np.zeros(len(contents), bool)
    kept[first] = True
    if found is None:
        counts = split_counts(source.name, len(first), options.fractions)
        keys = sort_keys(options.seed, 0, len(contents))[first]
        splits = np.full(len(contents), LEFT_OUT, np.uint8)
        numbers = np.repeat(np.array([SPLITS.index(split) for split in counts], np.uint8), list(counts.values()))
        splits[first[np.argsort(keys, kind="stable")]] = numbers
        return Assigned(splits, "fractions of what is there once", len(contents) - len(first))
    splits = np.where(kept, found.splits, np.uint8(LEFT_OUT))
    return Assigned(splits, found.how, len(contents) - len(first))


def _column(source: Source, name: str) -> Values:
    """All values of a column or field.

    Raises:
        SourceError: there is none of that name.
    """
    if source.column is not None:
        parts = list(source.column(name))
    elif source.batches is not None:
        parts = [_of_field(source, batch.values, name) for batch in source.batches(0, None)]
    else:
        return [_of_field(source, values, name) for _, values in source.examples(0)]
    if parts and all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in _listed(part)]


def _of_field(source: Source, values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        expected, found = f"a field {name!r}", ", ".join(sorted(values))
        raise SourceError(complaint(source.name, expected=expected, found=found, do="name one of them"))
    return values[name]


def _listed(values: Values | Sequence[Any]) -> list[Any]:
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return [tuple(value) if isinstance(value, list) else value for value in listed]


def _numbered(values: Sequence[Any] | Iterator[Any]) -> NDArray[np.int64]:
    """Equal values by the same number; numbers in the order in which values are first met."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _contents(source: Source) -> Iterator[bytes]:
    """A digest of 128 bits of every example's content, but for its label."""
    for _, values in source.examples(0):
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(values):
            if name != source.label or len(values) == 1:
                content = _bytes(values[name])
                digest.update(b"%d:%s=%d:" % (len(name), name.encode(), len(content)))
                digest.update(content)
        yield digest.digest()


def _bytes(value: Any) -> bytes:
    """What tells a value from others of its field."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "data") and isinstance(
        value.data, bytes
    ):  # a member of a tar, or an image as it lies in its file
        return value.data
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, default=str).encode()
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _check_none_empty(source: str, counts: Sequence[int], fractions: Fractions) -> None:
    """Raises `SourceError` for a split that is to have examples, and has none."""
    for name, fraction, count in zip(SPLITS, fractions, counts, strict=True):
        if fraction > 0 and count == 0:
            expected, do = f"at least one example for {name} ({fraction:g} of all)", "use more data or other --splits"
            raise SourceError(complaint(source, expected=expected, found=f"{sum(counts)} examples in all", do=do))


def without_field(source: Source, name: str) -> Source:
    """The source without one of its fields."""
    batches = None if source.batches is None else partial(_batches_without, source, name)
    return dataclasses.replace(source, examples=partial(_examples_without, source, name), batches=batches)


def _examples_without(source: Source, name: str, start: int) -> Iterator[Example]:
    for where, values in source.examples(start):
        yield where, {field: value for field, value in values.items() if field != name}


def _batches_without(source: Source, name: str, start: int, stop: int | None) -> Iterator[Batch]:
    assert source.batches is not None
    for batch in source.batches(start, stop):
        yield Batch({field: column for field, column in batch.values.items() if field != name}, batch.place)
