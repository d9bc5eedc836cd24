"""The examples on their way, on disk: runs, each a part of the source sorted by the shuffle's keys.

A run is a folder that appears whole or not at all, so what is there when a process was killed is used again:

    000000123456/     number of its first example in the source
      run.json        examples, whether the source ends here, what the encoders have seen, which could not be taken
      origins         where they come from
      keys, bins      keys in order; examples before each of `BINS` equal ranges of keys
      FIELD.column    values of one field in the keys' order, of fixed size
      FIELD.content   encoded members of one field in the keys' order, of any size, and
      FIELD.ends      where each of them ends
      encoded, in_tar where there are such: bytes of each example, encoded and in a tar

Since every run is sorted by key, any range of the stored order is one contiguous part of each run.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.codec import Ragged, Seen
from streamtrain.shards.stored_order import SPLIT_BITS, order_of
from streamtrain.store import PARTIAL

BIN_BITS = 12
BINS = 1 << BIN_BITS
PIECE_BYTES = 1 << 20
"""A column is put in order and written by pieces of this size."""

LENGTH = np.dtype(np.int64)

Columns = Mapping[str, NDArray[Any] | Ragged]


@dataclass(frozen=True, eq=False)
class Sizes:
    """Bytes of each example: ``encoded``, with the length of each member, and ``in_tar``, one by one; int64."""

    encoded: NDArray[np.int64]
    in_tar: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """What ``run.json`` says: examples ``[start, stop)`` of the source; ``last`` where the source ends with them.

    ``bad`` names those that could not be taken: place and reason.
    """

    start: int
    stop: int
    last: bool
    seen: Mapping[str, Seen]
    bad: Sequence[tuple[str, str]] = ()


def run_folder(folder: Path, start: int) -> Path:
    """Where the run lies whose first example has number ``start`` in the source."""
    return folder / f"{start:012d}"


def found_run(folder: Path, start: int) -> Run | None:
    """The finished run that begins at example ``start``, if there is one."""
    try:
        return Run(**json.loads((run_folder(folder, start) / "run.json").read_bytes()))
    except FileNotFoundError:
        return None


def write_run(
    folder: Path,
    run: Run,
    keys: NDArray[np.uint64],
    columns: Columns,
    sizes: Sizes | None = None,
    origins: bytes = b"",
) -> None:
    """Writes examples, given in the source's order, as a run."""
    order = order_of(keys)
    ranked = keys[order]
    edges = np.arange(BINS, dtype=np.uint64) << np.uint64(64 - BIN_BITS)
    bins = np.append(np.searchsorted(ranked, edges), len(keys)).astype(np.int64)
    partial = folder / f".{run.start:012d}.{secrets.token_hex(4)}{PARTIAL}"
    partial.mkdir()
    (partial / "keys").write_bytes(_bytes(ranked))
    (partial / "bins").write_bytes(_bytes(bins))
    (partial / "origins").write_bytes(origins)
    for name, column in columns.items():
        if isinstance(column, Ragged):
            _write_ragged(partial, name, column, order)
        else:
            _write_column(partial / f"{name}.column", column, order)
    if sizes is not None:
        (partial / "encoded").write_bytes(_bytes(sizes.encoded[order]))
        (partial / "in_tar").write_bytes(_bytes(sizes.in_tar[order]))
    (partial / "run.json").write_text(json.dumps(run.__dict__))
    destination = run_folder(folder, run.start)
    if destination.exists():  # another task, taken for dead, has finished the same run
        shutil.rmtree(partial)
    else:
        partial.rename(destination)


def _write_column(path: Path, column: NDArray[Any], order: NDArray[np.int64]) -> None:
    step = max(1, PIECE_BYTES * len(column) // max(1, column.nbytes))
    rows = _as_items(column)
    with path.open("wb") as file:
        for start in range(0, len(order), step):
            file.write(_bytes(rows.take(order[start : start + step], axis=0)))


def _write_ragged(folder: Path, name: str, column: Ragged, order: NDArray[np.int64]) -> None:
    step = max(1, PIECE_BYTES * len(column) // max(1, column.content.nbytes))
    with (folder / f"{name}.content").open("wb") as file:
        for start in range(0, len(order), step):
            file.write(_bytes(column.take(order[start : start + step]).content))
    (folder / f"{name}.ends").write_bytes(_bytes(np.cumsum(column.lengths[order])))


@dataclass(frozen=True, eq=False)
class Span:
    """Rows ``[first, last)`` of one run, the range of the stored order that was asked for."""

    run: Path
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Window:
    """A range of the stored order: ``order`` puts the spans' rows, laid end to end, into it."""

    spans: tuple[Span, ...]
    order: NDArray[np.int64]

    def column(self, name: str, row_type: np.dtype[Any]) -> NDArray[Any]:
        """A field's values of all spans, end to end: to be put in order by the caller."""
        values = np.empty(len(self.order), row_type)
        done = 0
        for span in self.spans:
            count = span.last - span.first
            _read_into(span.run / f"{name}.column", span.first, values[done : done + count])
            done += count
        return values

    def ragged(self, name: str) -> Ragged:
        """A field's encoded members of all spans, end to end: to be put in order by the caller."""
        edges = [_slice(span.run / f"{name}.ends", span.first - 1, span.last, LENGTH) for span in self.spans]
        content = np.empty(sum(int(ends[-1] - ends[0]) for ends in edges), np.uint8)
        done = 0
        for span, ends in zip(self.spans, edges, strict=True):
            count = int(ends[-1] - ends[0])
            _read_into(span.run / f"{name}.content", int(ends[0]), content[done : done + count])
            done += count
        return Ragged(content, np.concatenate([np.diff(ends) for ends in edges]))

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Bytes of one field's member of each example, in stored order."""
        edges = [_slice(span.run / f"{name}.ends", span.first - 1, span.last, LENGTH) for span in self.spans]
        return np.concatenate([np.diff(ends) for ends in edges])[self.order]

    def sizes(self, name: Literal["encoded", "in_tar"]) -> NDArray[np.int64]:
        """Bytes of the examples in stored order."""
        parts = [_slice(span.run / name, span.first, span.last, LENGTH) for span in self.spans]
        return np.concatenate(parts)[self.order]


@dataclass(frozen=True, eq=False)
class Runs:
    """All runs of a source; ``before`` counts the examples before each bin, shape (BINS + 1,)."""

    folders: tuple[Path, ...]
    before: NDArray[np.int64]

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Runs:
        """The runs in these folders, given in the source's order."""
        folders = tuple(folders)
        before = np.zeros(BINS + 1, np.int64)
        for folder in folders:
            before += np.fromfile(folder / "bins", np.int64)
        return cls(folders, before)

    @property
    def examples(self) -> int:
        """Examples of all runs."""
        return int(self.before[-1])

    def of_splits(self) -> tuple[int, int, int]:
        """Examples of each split, where the keys begin with its number."""
        edges = self.before[:: BINS >> SPLIT_BITS]
        train, validation, test, *_ = np.diff(edges).tolist()
        return train, validation, test

    def bytes_encoded(self) -> tuple[int, int]:
        """Bytes of all examples together, and of the largest, with the length of each member."""
        sizes = [np.fromfile(folder / "encoded", LENGTH) for folder in self.folders]
        return sum(int(part.sum()) for part in sizes), max(int(part.max(initial=0)) for part in sizes)

    def window(self, start: int, stop: int) -> Window:
        """The examples ``[start, stop)`` of the stored order: needs 33 bytes an example, and those of two bins."""
        low = int(np.searchsorted(self.before, start, side="right")) - 1
        high = int(np.searchsorted(self.before, stop, side="left"))
        keys = []
        firsts = []
        for folder in self.folders:
            first, last = _slice(folder / "bins", low, high + 1, LENGTH)[[0, -1]].tolist()
            firsts.append(first)
            keys.append(_slice(folder / "keys", first, last, np.dtype(np.uint64)))
        lengths = [len(part) for part in keys]
        order = order_of(np.concatenate(keys))[start - self.before[low] : stop - self.before[low]]
        chosen = np.zeros(sum(lengths), np.bool_)
        chosen[order] = True
        spans = []
        done = 0
        for folder, first, length in zip(self.folders, firsts, lengths, strict=True):
            marks = chosen[done : done + length]
            done += length
            count = int(np.count_nonzero(marks))
            if count:
                begin = first + int(np.argmax(marks))
                spans.append(Span(folder, begin, begin + count))
        rank = np.cumsum(chosen) - 1
        return Window(tuple(spans), rank[order])


def _as_items(column: NDArray[Any]) -> NDArray[Any]:
    """A column with each row as one item, which takes a sixth of the time to put in order; empty rows as they are."""
    row_bytes = column.nbytes // max(1, len(column))
    if not row_bytes:
        return column
    return np.ascontiguousarray(column).reshape(len(column), -1).view(f"V{row_bytes}")


def _bytes(array: NDArray[Any]) -> memoryview:
    """An array's content: `tofile` would not say of a full disk that it is full."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _slice(file: Path, first: int, last: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows ``[first, last)`` of a file of them; row -1 is 0."""
    values = np.zeros(last - first, dtype)
    _read_into(file, max(first, 0), values[1:] if first < 0 else values)
    return values


def _read_into(file: Path, first: int, rows: NDArray[Any]) -> None:
    if not rows.size:
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        content = rows.reshape(-1).view(np.uint8).data
        offset = first * rows.nbytes // len(rows)
        while content:
            read = os.preadv(descriptor, [content], offset)
            if not read:
                raise EOFError(f"{file} ends early")
            content = content[read:]
            offset = offset + read
    finally:
        os.close(descriptor)
