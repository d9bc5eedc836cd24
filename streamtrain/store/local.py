"""Files and folders of this machine, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import url2pathname

from streamtrain.errors import ConfigError, complaint, one_line

PARTIAL = ".partial"
"""Suffix of everything that is not finished."""


def local_path(place: str) -> Path | None:
    """The path that a place, a path or a URL, names on this machine; ``None`` where it is elsewhere."""
    if place.startswith("file://"):
        return Path(url2pathname(place.removeprefix("file://"))).absolute()
    return None if "://" in place else Path(place).absolute()


def user_cache() -> Path:
    """streamtrain's folder in the user's cache directory (XDG Base Directory Specification).

    Where no such directory was chosen, and the user has no home to write to, it is one for temporary files.

    Raises:
        ConfigError: there is no place for it.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "streamtrain"
    with contextlib.suppress(RuntimeError):  # a user without a name, and no HOME
        cache = Path.home() / ".cache" / "streamtrain"
        there = next(folder for folder in (cache, *cache.parents) if folder.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return cache
    return own_temporary_folder() / "streamtrain"


def own_temporary_folder() -> Path:
    """A folder of this user's, closed to others, among the temporary files; always the same one.

    Raises:
        ConfigError: it cannot be made, or another user has taken its name.
    """
    expected, do = "a folder of this user's own, since there is no home to write to", "set HOME and XDG_CACHE_HOME"
    try:
        folder = Path(tempfile.gettempdir()) / f"streamtrain-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(complaint("HOME", expected=expected, found=one_line(error), do=do)) from None
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise ConfigError(complaint("HOME", expected=expected, found=f"{folder} of somebody else", do=do))
    return folder


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file so that it is either there with all of ``data`` or as it was before."""
    # not mkstemp: its files are for their owner's eyes only, whatever the umask says
    partial = file.parent / f".{file.name}.{secrets.token_hex(8)}{PARTIAL}"
    try:
        with partial.open("xb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path, *patterns: str) -> None:
    """Removes what killed processes were writing, of files with such names; nobody else may be writing them now."""
    for pattern in patterns:
        for partial in folder.glob(f".{pattern}.*{PARTIAL}"):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``destination`` when the block ends well, and is removed when it does not.

    What an earlier process left unfinished for the same destination, and is dead, is removed first.

    Raises:
        ConfigError: the destination is there and not an empty folder, or cannot be made.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        found = "a folder that is not empty" if destination.is_dir() else "a file"
        raise ConfigError(
            complaint(str(destination), expected="a new or empty folder", found=found, do="name another or remove it")
        )
    partial = destination.parent / f".{destination.name}.{os.getpid()}{PARTIAL}"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(destination)
        partial.mkdir()
    except OSError as error:
        raise no_folder(destination, error) from None
    try:
        yield partial
        if destination.exists():
            destination.rmdir()
        partial.rename(destination)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def no_folder(destination: Path, error: OSError) -> ConfigError:
    """What is told where the system makes no folder beside ``destination``."""
    expected = f"to make a folder in {destination.parent}"
    return ConfigError(complaint(str(destination), expected=expected, found=one_line(error), do="name another place"))


def _remove_dead(destination: Path) -> None:
    start = f".{destination.name}."
    for left in list(destination.parent.iterdir()):
        process = left.name.removeprefix(start).removesuffix(PARTIAL)
        ours = left.name == f"{start}{process}{PARTIAL}" and process.isdecimal()
        if ours and (int(process) == os.getpid() or not _alive(int(process))):
            shutil.rmtree(left)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
