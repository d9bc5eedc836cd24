"""What every command needs of its own process, looked at before a large library is loaded, which would fail badly."""

from __future__ import annotations

import contextlib
import getpass
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from streamtrain.errors import ConfigError, complaint
from streamtrain.prepare.surroundings.allowances import status_line
from streamtrain.store import own_temporary_folder

MOST_FILES = 65536
LEAST_FILES = 128
LEAST_ADDRESSES = 4 << 30
LEAST_THREADS = 64


@dataclass(frozen=True)
class Bound:
    """One of the shell's `ulimit`s: what is needed of it, and in which unit the shell counts."""

    kind: int
    letter: str
    what: str
    least: int
    unit: int = 1

    def check(self) -> None:
        """Refuses less.

        Raises:
            ConfigError: with the command that raises it.
        """
        soft, _ = resource.getrlimit(self.kind)
        if soft != resource.RLIM_INFINITY and soft < self.least:
            needed = f"{-(-self.least // self.unit):,}".replace(",", "")
            expected, found = f"at least {needed} {self.what}", f"{soft // self.unit}"
            do = f"raise it by `ulimit -{self.letter} {needed}`, where you start this from"
            raise ConfigError(complaint(f"ulimit -{self.letter}", expected=expected, found=found, do=do))


FILES = Bound(resource.RLIMIT_NOFILE, "n", "open files", LEAST_FILES)
ADDRESSES = Bound(resource.RLIMIT_AS, "v", "kB of address space", LEAST_ADDRESSES, 1024)


def check_process() -> None:
    """Opens the standard streams where they are closed, takes as many open files as may be had, and checks the rest.

    Raises:
        ConfigError: a limit or setting under which no command would do its work.
    """
    open_standard_streams()
    raise_open_files()
    _check_working_folder()
    _check_umask()
    FILES.check()
    ADDRESSES.check()
    give_home()


def give_home() -> None:
    """A name and a home for a user who has none, in the environment: MLflow and others do not start without.

    Raises:
        ConfigError: there is no place for one.
    """
    try:
        home = Path.home()
    except RuntimeError:
        home = own_temporary_folder()
        os.environ["HOME"] = str(home)
    if not os.access(home, os.W_OK):  # Matplotlib would say so at each start
        with contextlib.suppress(ConfigError):
            os.environ.setdefault("MPLCONFIGDIR", str(own_temporary_folder() / "matplotlib"))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())


def open_standard_streams() -> None:
    """Gives closed ones nothing to read, or nowhere to write: the next file opened would get their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest free number
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def raise_open_files() -> None:
    """The limit of open files that the process has, up to the one that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        found = error.strerror or str(error)
        do = "cd to one that is there"
        expected = "a folder that is there and may be entered"
        raise ConfigError(complaint("the working folder", expected=expected, found=found, do=do)) from None


def _check_umask() -> None:
    mask = status_line("Umask")  # asking by os.umask would change it for a moment, for all threads
    if mask is not None and int(mask, 8) & 0o700:
        expected = "one under which a user may read and write what the user makes"
        raise ConfigError(complaint(f"umask {mask}", expected=expected, found=mask, do="set it by `umask 022`"))
