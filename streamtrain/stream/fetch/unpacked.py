"""Shards in ``.tar.gz``: unpacked once, by streaming, into the user's cache, since nothing can be found in them."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import zlib
from pathlib import Path

from streamtrain.errors import ManifestError, ShardError, complaint, one_line
from streamtrain.shards import FILE
from streamtrain.store import local_path, new_folder
from streamtrain.stream.fetch.cache import cache_folder

SUFFIXES = (".tar.gz", ".tgz")
CHUNK = 1 << 20
MOST_EXPANSION, ALWAYS_ALLOWED = 100, 1 << 30
"""How many times as large as its file a shard may become, and bytes that it may in any case."""


def data_folder(url: str) -> Path | None:
    """Where a data set's shards can be mapped: its folder, or its unpacked copy; ``None`` where it is remote.

    Raises:
        ShardError: a compressed shard is damaged. ManifestError: shards with and without compression together.
    """
    folder = local_path(url)
    if folder is None or (folder / FILE).exists():
        return folder
    compressed = sorted(file for file in folder.glob("*/*") if file.name.endswith(SUFFIXES))
    if not compressed:
        return folder
    if any(folder.glob("*/*.tar")):
        expected, do = "shards of one kind", "compress all or none"
        raise ManifestError(complaint(str(folder), expected=expected, found=".tar and .tar.gz", do=do))
    return _unpacked(folder, compressed)


def _unpacked(folder: Path, compressed: list[Path]) -> Path:
    """The unpacked copy, which is known by the files' names, sizes and times."""
    known = "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in compressed)
    copy = cache_folder(None) / "unpacked" / hashlib.sha256(known.encode()).hexdigest()[:32]
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / f"{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of all that come for it, one unpacks
        if not copy.exists():
            with new_folder(copy) as partial:
                for file in _bar(compressed, folder):
                    _unpack(file, partial / file.relative_to(folder))
    return copy


def _unpack(file: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    most = max(ALWAYS_ALLOWED, MOST_EXPANSION * file.stat().st_size)
    name = next(to.name.removesuffix(suffix) for suffix in SUFFIXES if to.name.endswith(suffix))
    try:
        with gzip.open(file) as source, (to.parent / f"{name}.tar").open("wb") as unpacked:
            while data := source.read(CHUNK):
                if unpacked.tell() + len(data) > most:
                    expected, found = f"at most {most:,} bytes, {MOST_EXPANSION} times its own", "more when unpacked"
                    do = "unpack it yourself where it is meant"
                    raise ShardError(complaint(str(file), expected=expected, found=found, do=do))
                unpacked.write(data)
    except (OSError, EOFError, zlib.error) as error:
        do = f"make room for {to.parent}" if getattr(error, "errno", None) == errno.ENOSPC else "restore it"
        raise ShardError(complaint(str(file), expected="a tar in gzip", found=one_line(error), do=do)) from None


def _bar(files: list[Path], folder: Path) -> list[Path]:
    from tqdm import tqdm

    return tqdm(files, desc=f"unpacking {folder}", unit=" shards", disable=None)  # type: ignore[no-any-return]
