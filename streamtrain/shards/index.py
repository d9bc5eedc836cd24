"""Where every example's members lie in one shard, so that an example is read without a scan of the headers.

`pack` writes an index beside each shard whose samples are not all of one size; for other people's shards the
reader makes one at first sight and keeps it in the user's cache. 16 bytes an example and field, and its key.
Large shards have one in any case, with checksums of their pieces: so a part is fetched and checked by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.shard import BLOCK, END, examples
from streamtrain.store import user_cache, write_whole

SUFFIX = ".index.npz"
EARLIER_PIECE = 1 << 20
"""Bytes of a piece in indexes that do not say."""
LARGE = 16 << 20
"""Shards of so many bytes get an index in any case; smaller ones are worth fetching whole."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Offsets in bytes from the shard's start.

    Attributes:
        keys: of the examples, in their order; ASCII or UTF-8 bytes, shape (examples,).
        extensions: of the members that every example has.
        starts, sizes: of the members' contents, int64, shape (examples, extensions).
        shard_bytes: the size of the shard that this is the index of.
        sha256: its checksum, where one is known; else empty.
        stride: bytes of every sample but the last, where they are all of one size: then the arrays above are empty.
        block: examples of every sample but the last.
        sums: CRC-32 of every piece of the shard, uint32, shape (pieces,); empty where it is not large.
        piece: bytes of a piece; the last may be shorter.
    """

    keys: NDArray[np.bytes_]
    extensions: tuple[str, ...]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shard_bytes: int
    sha256: str
    stride: int = 0
    block: int = 1
    sums: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    piece: int = EARLIER_PIECE

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """The key of one example."""
        return bytes(self.keys[row]).decode()

    def column(self, extension: str) -> int:
        """Which column of ``starts`` and ``sizes`` is of this member; raises `KeyError`."""
        if extension not in self.extensions:
            raise KeyError(extension)
        return self.extensions.index(extension)

    def whole_samples(self, first: int, last: int, examples: int) -> tuple[int, int]:
        """The examples ``[first, last)`` and those that share a sample with them, of ``examples`` in the shard."""
        return first // self.block * self.block, min(-(-last // self.block) * self.block, examples)

    def begin(self, example: int) -> int:
        """Where the sample begins that this example begins, and the one before ends; up to the number of examples."""
        end = self.shard_bytes - len(END)
        sample = -(-example // self.block)
        if self.stride:
            return min(sample * self.stride, end)
        # as `pack` lays them out: one header before each content
        return int(self.starts[sample].min()) - BLOCK if sample < len(self) else end

    def borders(self, examples: int, size: int) -> NDArray[np.int64]:
        """Examples at which to cut a shard of so many, into parts whose samples begin in ``size`` bytes each."""
        samples = -(-examples // self.block)
        at = np.arange(samples, dtype=np.int64)
        begins = at * self.stride if self.stride else self.starts.min(axis=1) - BLOCK
        first = np.flatnonzero(np.diff(begins // size, prepend=-1))
        return np.append(first * self.block, examples)

    def part(self, first: int, last: int, examples: int) -> ShardIndex:
        """Of the samples that hold the examples ``[first, last)``, where they are a shard by themselves."""
        rows = slice(first // self.block, -(-last // self.block))
        begin = self.begin(rows.start * self.block)
        stop = self.begin(min(rows.stop * self.block, examples))
        return ShardIndex(
            self.keys[rows],
            self.extensions,
            self.starts[rows] - begin,
            self.sizes[rows],
            stop - begin + len(END),
            "",
            block=self.block,
        )


def index_name(shard: str) -> str:
    """Where the index of ``shard`` lies: ``train/000000.tar`` has ``train/000000.index.npz``."""
    return shard.removesuffix(".tar") + SUFFIX


def scan_index(file: Path, sha256: str = "") -> ShardIndex:
    """The index of a shard, from a scan of its headers.

    Raises:
        ShardError: a layout that readers would understand differently.
    """
    keys: list[bytes] = []
    spans: list[list[tuple[int, int]]] = []
    extensions: tuple[str, ...] = ()
    for key, members in examples(file):
        extensions = extensions or tuple(sorted(members))
        keys.append(key.encode())
        spans.append([members[extension] for extension in extensions])
    places = np.array(spans, np.int64).reshape(len(keys), len(extensions), 2)
    return ShardIndex(
        np.array(keys, np.bytes_), extensions, places[:, :, 0], places[:, :, 1], file.stat().st_size, sha256
    )


def foreign_index(file: Path) -> ShardIndex:
    """The index of a shard that `pack` did not write: from the user's cache, or made and kept there.

    Raises:
        ShardError: a layout that readers would understand differently.
    """
    looked = file.stat()
    known = hashlib.sha256(f"{file.absolute()} {looked.st_size} {looked.st_mtime_ns}".encode()).hexdigest()
    kept = user_cache() / "index" / f"{known}{SUFFIX}"
    found = read_index(kept, None, looked.st_size, "")
    if found is None:
        found = scan_index(file)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a scan the next time, no more
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_index(kept, found)
    return found


def write_index(file: Path, index: ShardIndex) -> None:
    """Writes an index whole or not at all; the same index gives the same bytes."""
    stream = io.BytesIO()
    np.savez(
        stream,
        allow_pickle=False,
        keys=index.keys,
        extensions=np.array(index.extensions, np.str_),
        starts=index.starts,
        sizes=index.sizes,
        shard_bytes=np.int64(index.shard_bytes),
        sha256=np.str_(index.sha256),
        stride=np.int64(index.stride),
        block=np.int64(index.block),
        sums=index.sums,
        piece=np.int64(index.piece),
    )
    write_whole(file, stream.getvalue())


def read_index(
    file: Path | BinaryIO, examples_in_shard: int | None, shard_bytes: int, sha256: str
) -> ShardIndex | None:
    """The index in ``file``, or ``None`` where there is none of that very shard: it may always be made again."""
    try:
        with np.load(file, allow_pickle=False) as parts:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in parts.zip.infolist()):
                return None  # ours are not compressed, so that none is larger than its file
            index = _index(dict(parts))
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error):
        return None
    stops = index.starts + index.sizes
    fits = (
        examples_in_shard in (None, len(index))
        and (index.shard_bytes, index.sha256) == (shard_bytes, sha256)
        and (index.starts >= 0).all()
        and (index.sizes >= 0).all()
        and (stops <= shard_bytes).all()
        and (stops >= 0).all()
        and index.stride >= 0
        and (index.stride or index.starts.size or not len(index))
        and index.block >= 1
        and index.piece >= 1
        and len(index.sums) in (0, -(-shard_bytes // index.piece))
    )
    return index if fits else None


def _index(parts: dict[str, NDArray[Any]]) -> ShardIndex:
    if parts["keys"].dtype.kind != "S" or any(parts[name].dtype != np.int64 for name in ("starts", "sizes")):
        raise ValueError("columns of other types")
    shape = (len(parts["keys"]), len(parts["extensions"]))
    if not parts["starts"].shape == parts["sizes"].shape == shape:
        raise ValueError("columns of several lengths")
    index = ShardIndex(
        parts["keys"],
        tuple(str(extension) for extension in parts["extensions"]),
        parts["starts"],
        parts["sizes"],
        int(parts["shard_bytes"]),
        str(parts["sha256"]),
    )
    if "sums" not in parts:  # as earlier versions wrote them
        return index
    if parts["sums"].dtype != np.uint32:
        raise ValueError("checksums of another type")
    piece = int(parts.get("piece", EARLIER_PIECE))
    return replace(index, stride=int(parts["stride"]), block=int(parts["block"]), sums=parts["sums"], piece=piece)
