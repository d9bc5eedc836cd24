"""Bytes to and from disk, whole or not at all. Local files for now; remote stores get their place here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from streamtrain.errors import ConfigError, complaint

PARTIAL = ".partial"
"""Suffix of everything that is not finished."""


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file so that it is either there with all of ``data`` or as it was before."""
    descriptor, name = tempfile.mkstemp(PARTIAL, f".{file.name}.", file.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``destination`` when the block ends well, and is removed when it does not.

    What an earlier process left unfinished for the same destination, and is dead, is removed first.

    Raises:
        ConfigError: the destination is there and not an empty folder.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        found = "a folder that is not empty" if destination.is_dir() else "a file"
        raise ConfigError(
            complaint(str(destination), expected="a new or empty folder", found=found, do="name another or remove it")
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(destination)
    partial = destination.parent / f".{destination.name}.{os.getpid()}{PARTIAL}"
    partial.mkdir()
    try:
        yield partial
        if destination.exists():
            destination.rmdir()
        partial.rename(destination)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def _remove_dead(destination: Path) -> None:
    for left in destination.parent.glob(f".{destination.name}.*{PARTIAL}"):
        process = left.name.removesuffix(PARTIAL).rpartition(".")[2]
        if process.isdigit() and (int(process) == os.getpid() or not Path(f"/proc/{process}").exists()):
            shutil.rmtree(left)
