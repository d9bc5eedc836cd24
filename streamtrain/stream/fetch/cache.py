"""A folder of fetched shards, bounded in bytes and shared by all processes of the host.

Who uses a shard holds a shared `flock` on its file; who removes one must have the exclusive lock. The
kernel lets go of a dead process's locks, so SIGKILL leaves nothing locked. What arrives is written
beside its final name, checked, then renamed; one process at a time fetches a shard, under a lock file
of its own. All counting and making of room happens under one more lock, where the unfinished files of
dead processes are removed too. No file but those that the cache named itself is ever touched.

An entry last used before this machine was started is checked again, since the machine may have
stopped before its bytes were on disk. The folder must lie on a disk of this host: locks of network
file systems do not tell whether their owner lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from streamtrain.errors import ConfigError, StoreError, complaint, one_line
from streamtrain.store import PARTIAL, user_cache

LOCK = ".lock"
_OURS = re.compile(rf"(?P<entry>[0-9a-f]{{64}}(?:-\d+-\d+)?)(?P<kind>{PARTIAL}|{LOCK})?")


class Wrong(NamedTuple):
    """Where a fetched copy is not what it should be, what that is, and what it is."""

    where: str
    expected: str
    found: str


class Wanted(Protocol):
    """Something that can be fetched."""

    @property
    def entry(self) -> str:
        """Its name in the cache: 64 hexadecimal digits; for a part also ``-start-stop``."""

    @property
    def place(self) -> str:
        """Its name in messages."""

    @property
    def bytes(self) -> int:
        """Size of its file."""

    def fetch(self, file: Path) -> Wrong | None:
        """Fills a file of that size that is all holes; what is wrong with what came, if anything."""

    def check(self, file: Path) -> Wrong | None:
        """What is wrong with a copy fetched earlier, if anything."""


@dataclass(frozen=True)
class Pin:
    """A shard that stays where it is until it is released, or until nobody knows this object any more."""

    path: Path
    fetched: bool
    _opened: BinaryIO

    def release(self, *, drop: bool = False) -> None:
        """Lets the shard go; with ``drop`` it is removed, unless somebody else uses it."""
        with self._opened:
            if drop and _locked(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_at(self._opened, self.path):
                self.path.unlink()


def wrong_twice(place: str, wrong: Wrong) -> StoreError:
    """What is told where another copy is wrong too."""
    found = f"{wrong.found}, in two copies that were fetched one after the other"
    where = f"{place}, {wrong.where}"
    return StoreError(complaint(where, expected=wrong.expected, found=found, do="restore it or pack again"))


def cache_folder(chosen: str | Path | None) -> Path:
    """The chosen one, or a folder in the user's cache directory (XDG Base Directory Specification)."""
    return user_cache() if chosen is None else Path(chosen).absolute()


class Cache:
    """See the module.

    Args:
        folder: made where it is not there.
        limit: bytes that all entries together may have.

    Raises:
        ConfigError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._random = random.Random()  # noqa: S311 - spreads waits; the global generator is an augmentation's
        self._started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._counting():
                pass
        except OSError as error:
            do = "name another folder"
            raise ConfigError(
                complaint(f"data.cache {folder}", expected="a folder to write to", found=one_line(error), do=do)
            ) from None

    def hold(self, wanted: Wanted, patience: float = 60.0) -> Pin | None:
        """Pins a shard, fetching it first where it is not there.

        Args:
            patience: seconds to wait for others to release what they use, where there is no room.

        Returns:
            ``None`` where there is no room.

        Raises:
            StoreError: it could not be had, or came wrong twice.
        """
        pin = self._pin(wanted)
        if pin is not None:
            return pin
        with self._alone(wanted.entry):
            pin = self._pin(wanted)  # another process has fetched it meanwhile
            if pin is not None:
                return pin
            partial = self.folder / f"{wanted.entry}{PARTIAL}"
            try:
                if not self._reserve(wanted.bytes, partial, patience):
                    return None
                self._fill(wanted, partial)
                return self._arrived(partial, self.folder / wanted.entry)
            except OSError as error:
                do = "make room there, or set data.cache"
                raise StoreError(
                    complaint(str(partial), expected=f"to write {wanted.place}", found=one_line(error), do=do)
                ) from None
            finally:
                partial.unlink(missing_ok=True)

    def _fill(self, wanted: Wanted, partial: Path) -> None:
        """Fetches, checks, and does both once more where the check fails."""
        for left in (1, 0):
            wrong = wanted.fetch(partial)
            if wrong is None:
                return
            if not left:
                raise wrong_twice(wanted.place, wrong)
            os.truncate(partial, 0)
            os.truncate(partial, wanted.bytes)

    def _arrived(self, partial: Path, final: Path) -> Pin:
        """Gives a filled file its final name, pinned from its first moment."""
        opened = partial.open("rb")
        fcntl.flock(opened, fcntl.LOCK_SH)
        with self._counting():
            partial.rename(final)
        return Pin(final, True, opened)

    def _pin(self, wanted: Wanted) -> Pin | None:
        """A pin on an entry that is there and whole."""
        path = self.folder / wanted.entry
        while True:
            try:
                opened = path.open("rb")
            except FileNotFoundError:
                return None
            fcntl.flock(opened, fcntl.LOCK_SH)
            if not _is_at(opened, path):  # removed before we had the lock
                opened.close()
                continue
            seen = os.fstat(opened.fileno())
            pin = Pin(path, False, opened)
            if seen.st_size != wanted.bytes or (seen.st_mtime < self._started and wanted.check(path) is not None):
                pin.release(drop=True)
                return None  # where others use it, wrong as it is, the new copy takes its name
            os.utime(path)
            return pin

    @contextlib.contextmanager
    def scratch(self, size: int) -> Iterator[Path | None]:
        """A file of ``size`` bytes, all holes, for one process while this lasts; ``None`` where there is no room."""
        entry = secrets.token_hex(32)
        with self._alone(entry):
            partial = self.folder / f"{entry}{PARTIAL}"
            try:
                yield partial if self._reserve(size, partial, patience=0) else None
            finally:
                partial.unlink(missing_ok=True)

    def _reserve(self, size: int, partial: Path, patience: float) -> bool:
        """Makes an empty file of full size, where there is room in time."""
        deadline = time.monotonic() + patience
        while True:
            with self._counting():
                partial.unlink(missing_ok=True)  # of a dead process: the lock on its name is ours
                if self._make_room(size):
                    with partial.open("xb") as opened:
                        opened.truncate(size)
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(self._random.uniform(0.01, 0.05))  # there is no way to wait for any one of many locks

    def _make_room(self, size: int) -> bool:
        """Removes the least recently used entries that nobody uses until ``size`` more bytes have room."""
        entries = []
        used = 0
        for file in list(self.folder.iterdir()):
            ours = _OURS.fullmatch(file.name)
            if ours is None or self._left_by_the_dead(ours) or ours["kind"] == LOCK:
                continue
            with contextlib.suppress(FileNotFoundError):  # released by somebody who does not keep it
                seen = file.stat()
                used += seen.st_size
                if ours["kind"] is None:
                    entries.append((seen.st_mtime_ns, seen.st_size, file))
        for _, its, file in sorted(entries):
            if used + size <= self.limit:
                break
            used -= its if _remove_unused(file) else 0
        return used + size <= self.limit

    def _left_by_the_dead(self, ours: re.Match[str]) -> bool:
        """Removes an unfinished file or a lock that no living process holds."""
        if ours["kind"] is None:
            return False
        with _lock_file(self.folder / f"{ours['entry']}{LOCK}", fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            if free:
                (self.folder / f"{ours['entry']}{PARTIAL}").unlink(missing_ok=True)
            return free

    @contextlib.contextmanager
    def _alone(self, entry: str) -> Iterator[None]:
        """As the only one on this host who fetches an entry."""
        while True:
            with _lock_file(self.folder / f"{entry}{LOCK}", fcntl.LOCK_EX) as ours:
                if ours:
                    yield
                    return

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """As the only one on this host who changes what is in the cache."""
        with (self.folder / "counting").open("ab") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def _lock_file(path: Path, how: int) -> Iterator[bool]:
    """Locks a file of that name, made and removed here; whether the lock was had on the file of that name."""
    with path.open("ab") as opened:
        ours = _locked(opened, how) and _is_at(opened, path)
        try:
            yield ours
        finally:
            if ours:
                path.unlink()


def _remove_unused(path: Path) -> bool:
    """Removes an entry that nobody holds; whether it is gone."""
    try:
        with path.open("rb") as opened:
            if not _locked(opened, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    return True


def _locked(opened: BinaryIO, how: int) -> bool:
    try:
        fcntl.flock(opened, how)
    except BlockingIOError:
        return False
    return True


def _is_at(opened: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False
