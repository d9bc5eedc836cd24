"""Where a data set is made, beside its destination: kept when a process is killed, for the same command to go on.

``.NAME.pack.partial`` holds a lock and one folder, named by a digest of the command: another command, or changed
source files, begin anew. What errors in data or settings, or Ctrl-C, leave behind is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from streamtrain.errors import ConfigError, DataError, StoreError, complaint, one_line
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources.source import Source
from streamtrain.shards.manifest import Manifest
from streamtrain.store import PARTIAL, no_folder


def check_new(destination: Path) -> None:
    """Raises `ConfigError` where the destination is there and not an empty folder."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        found = "a folder that is not empty" if destination.is_dir() else "a file"
        do = "name another or remove it (--append adds to a data set)"
        raise ConfigError(complaint(str(destination), expected="a new or empty folder", found=found, do=do))


LAYOUT = 2
"""Of the files between; what a version with another layout has left is not gone on with."""


def command_digest(source: Source, options: PackOptions, before: Manifest | None) -> str:
    """Names the command: the same for the same options and source files, unchanged."""
    digest = hashlib.sha256()
    for part in _identity(source, options, before):
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:32]


def _identity(source: Source, options: PackOptions, before: Manifest | None) -> Iterator[object]:
    looked = ((file, file.stat()) for file in source.files)
    return itertools.chain(
        [LAYOUT, source.name, source.label, dataclasses.asdict(options), before and before.digest],
        ([str(file.absolute()), found.st_size, found.st_mtime_ns] for file, found in looked),
    )


@contextlib.contextmanager
def scratch_folder(destination: Path, digest: str) -> Iterator[Path]:
    """The folder of the command with this digest, as an earlier process may have left it.

    Raises:
        ConfigError: it cannot be made, or another process is at work on the destination.
        StoreError: the disk is full, or gives another error.
    """
    root = destination.parent / f".{destination.name}.pack{PARTIAL}"
    try:
        lock = _locked(root)
    except BlockingIOError:
        found, do = "another one at work", "wait until it is done"
        raise ConfigError(
            complaint(str(destination), expected="one pack or append at a time", found=found, do=do)
        ) from None
    except OSError as error:
        raise no_folder(destination, error) from None
    try:
        for left in root.iterdir():
            if left.is_dir() and left.name != digest:
                shutil.rmtree(left)
        folder = root / digest
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(root)
    except (ConfigError, DataError, KeyboardInterrupt):
        shutil.rmtree(root)
        raise
    except OSError as error:
        do = "free space, or see that the disk can be written; the same command then goes on where it was"
        raise StoreError(
            complaint(str(destination), expected="to write the data set", found=one_line(error), do=do)
        ) from error
    finally:
        os.close(lock)


def _locked(root: Path) -> int:
    """The lock's descriptor; the lock ends with the process, however that ends."""
    while True:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the one who had it has just removed it
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (root / "lock").stat().st_ino == os.fstat(lock).st_ino:
                    return lock
            except OSError:
                os.close(lock)
                raise
            os.close(lock)
