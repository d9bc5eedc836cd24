"""Examples of a split as they lie there, by their number in the stored order: key, and field -> bytes.

Arrays and numbers that `pack` stored come through the reader (samples or blocks), all else by the tar's headers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ShardError, complaint, one_line
from streamtrain.images.conversion import converted, resized
from streamtrain.images.kinds import is_image
from streamtrain.images.pixels import decode_image
from streamtrain.shards import Field, Manifest
from streamtrain.shards.shard import examples
from streamtrain.stream.examples.decode import decoder_of
from streamtrain.stream.fetch.shard_files import ShardFiles, ShardRows
from streamtrain.stream.reader import Reader

CHUNK_BYTES = 8 << 20
"""What is read at once through the reader."""
SAMPLES_AT_ONCE = 1024
THUMBNAIL = (8, 8)

Row = tuple[str, dict[str, bytes]]


class Rows:
    """The examples of one split.

    Args:
        files: the data set's shards; one is held at a time.
        fields: what ``read`` gives of every example.
    """

    def __init__(self, files: ShardFiles, manifest: Manifest, split: str, fields: Sequence[Field]) -> None:
        self._files = files
        self._manifest = manifest
        self._split = split
        self._fields = tuple(fields)
        self._shards = manifest.splits[split].shards
        self._starts = np.array([self._shards.start(number) for number in range(len(self._shards) + 1)])
        self._reader: Reader | None = None
        self._scanned: tuple[int, list[tuple[str, dict[str, tuple[int, int]]]]] = (-1, [])
        self._arrays = manifest.order == "uniform" and all(_is_array(field) for field in fields)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def has_keys(self) -> bool:
        """Whether keys are given: they are not where examples come through the reader."""
        return not self._arrays

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(self._shards.sizes)

    def shards_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shard, by its number in the split, of every example."""
        return np.searchsorted(self._starts, numbers, "right") - 1

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Examples ``[start, stop)``; the key is empty where there is none.

        Raises:
            ShardError: a shard is not what the manifest says.
        """
        if self._arrays:
            return self._through_reader(start, stop)
        return self._by_headers(start, stop) if self._manifest.block is None else self._out_of_blocks(start, stop)

    def decoder(self, field: Field) -> Callable[[bytes], NDArray[Any]]:
        """From a field's bytes, as ``read`` gives them, to its array; images become small grey thumbnails."""
        if self._arrays:
            return lambda data: np.frombuffer(data, field.dtype)
        if is_image(field.member):
            return _thumbnail
        decode = decoder_of(field.member)
        return lambda data: np.asarray(decode(np.frombuffer(data, np.uint8), None))

    def _through_reader(self, start: int, stop: int) -> Iterator[Row]:
        names = [field.name for field in self._fields]
        if self._reader is None:
            self._reader = Reader(self._files, self._manifest, self._split, names)
        each = sum(np.dtype(field.dtype).itemsize * math.prod(field.shape or ()) for field in self._fields)
        step = max(1, CHUNK_BYTES // max(1, each))
        for first in range(start, stop, step):
            arrays = self._reader.read(first, min(first + step, stop))
            for row in range(min(step, stop - first)):
                yield "", {name: arrays[name][row].tobytes() for name in names}

    def _out_of_blocks(self, start: int, stop: int) -> Iterator[Row]:
        if self._reader is None:
            self._reader = Reader(self._files, self._manifest, self._split, [field.name for field in self._fields])
        for first in range(start, stop, SAMPLES_AT_ONCE):
            for sample in self._reader.samples(first, min(first + SAMPLES_AT_ONCE, stop)):
                yield sample["__key__"], {field.name: sample[field.member] for field in self._fields}

    def _by_headers(self, start: int, stop: int) -> Iterator[Row]:
        for index in range(int(self.shards_of(np.array(start))), len(self._shards)):
            begin, end = int(self._starts[index]), int(self._starts[index + 1])
            if begin >= stop:
                return
            shard = self._shards[index]
            file = self._files.hold(ShardRows.all_of(shard))
            try:
                with file.open("rb") as opened:
                    for key, members in self._scan(index, file)[max(start - begin, 0) : min(stop, end) - begin]:
                        yield key, {f.name: self._member(opened, index, key, members, f) for f in self._fields}
            finally:
                self._files.release(ShardRows.all_of(shard))

    def _scan(self, index: int, file: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        """Keys and places of a shard's examples; several stretches may lie in one shard, so the last one is kept."""
        if self._scanned[0] != index:
            self._scanned = (index, list(examples(file)))
        return self._scanned[1]

    def _member(self, opened: Any, index: int, key: str, members: dict[str, tuple[int, int]], field: Field) -> bytes:
        if field.member not in members:
            found = ", ".join(f".{name}" for name in sorted(members))
            where = f"{self._where(index)}, example {key!r}"
            raise ShardError(complaint(where, expected=f"a member .{field.member}", found=found, do="restore it"))
        start, size = members[field.member]
        opened.seek(start)
        data: bytes = opened.read(size)
        return data

    def unreadable(self, number: int, field: Field, error: Exception) -> ShardError:
        """The error to raise where ``decoder`` failed on an example."""
        shard = self._where(int(self.shards_of(np.array(number))))
        where = f"{shard}, example {number} of {self._split}, field {field.name!r}"
        return ShardError(
            complaint(
                where,
                expected=f"a readable .{field.member}",
                found=one_line(error),
                do="restore the shard",
            )
        )

    def _where(self, index: int) -> str:
        return f"{self._files.place}/{self._shards[index].file}"


def _is_array(field: Field) -> bool:
    return field.shape is not None and field.member.rpartition(".")[2] in ("npy", "cls")


def _thumbnail(data: bytes) -> NDArray[Any]:
    image = decode_image(np.frombuffer(data, np.uint8), at_least=THUMBNAIL)
    grey = converted(image, "grey") if image.dtype.kind == "u" and image.dtype.itemsize <= 2 else image
    return resized(grey, THUMBNAIL)
