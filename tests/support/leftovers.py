"""What the processes of a run leave behind: others of them, ports, shared memory, temporary files."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
PATIENCE = 280.0
"""Ray's own agents look for their raylet once a minute."""


@dataclass
class Leftovers:
    """Watches all descendants of processes, from their start on.

    Attributes:
        temporary: folder that is their TMPDIR.
    """

    temporary: Path
    _family: set[psutil.Process] = field(default_factory=set)
    _ports: set[int] = field(default_factory=set)
    _before: dict[str, int] = field(default_factory=lambda: _segments())

    @contextlib.contextmanager
    def watching(self, process: int) -> Iterator[None]:
        """Notes all descendants of a process, and the ports on which they listen, while the block lasts."""
        ended = threading.Event()

        def look() -> None:
            looks = 0
            while not ended.wait(0.2):
                with contextlib.suppress(psutil.Error):  # one ended while it was looked at: the next look has the rest
                    self._family |= {*psutil.Process(process).children(recursive=True)}
                looks += 1
                if looks % 10 == 0:  # all of them each time: none listens yet when it is first seen
                    living = {each.pid for each in self._family.copy() if each.is_running()}  # numbers are used again
                    self._ports |= {
                        each.laddr.port
                        for each in psutil.net_connections("tcp")
                        if each.status == "LISTEN" and each.pid in living
                    }

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def named(self, part: str) -> list[psutil.Process]:
        """Those that live and have this in their command line, by number."""
        found = []
        for process in self._family.copy():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and part in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def _unseen(self) -> set[psutil.Process]:
        """Living processes whose TMPDIR says that they are descendants, also where no look saw them begin."""
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("TMPDIR") == str(self.temporary):
                    found.add(process)
        return found

    def check(self) -> None:
        """Nothing is left, once all have had their time to end.

        Raises:
            AssertionError: something is.
        """
        assert self._family and self._ports, "nothing was watched"
        # only those that are there: psutil 7.2 fails at a number that is a thread's by now, on Linux 6.18
        there = [process for process in self._family | self._unseen() if process.is_running()]
        _, alive = psutil.wait_procs(there, timeout=PATIENCE)
        assert not alive, f"processes: {[' '.join(process.cmdline())[:80] for process in alive]}"
        unseen = self._unseen()
        assert not unseen, f"processes that began unseen: {unseen}"
        listening = {each.laddr.port: each.pid for each in psutil.net_connections("tcp") if each.status == "LISTEN"}
        taken = sorted(port for port in self._ports & listening.keys() if listening[port] is None)  # else a stranger's
        assert not taken, f"ports that no process is known to have: {taken}"
        before, held, now = _segments(), _held(), _segments()  # a stranger's may end before `_held` looks
        new = [name for name in before.keys() & now.keys() - self._before.keys() if now[name] not in held]
        assert not new, f"shared memory: {new}"
        left = [str(file.relative_to(self.temporary)) for file in self.temporary.rglob("*")]
        left = [name for name in left if not name.startswith("torchinductor_")]  # PyTorch's cache, kept on purpose
        assert not left, f"temporary files: {left}"


def _segments() -> dict[str, int]:
    """Files in shared memory and their inodes."""
    found = {}
    for file in SHARED_MEMORY.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if file.is_file():
                found[file.name] = file.stat().st_ino
    return found


def named_memory(process: int) -> set[str]:
    """Names in shared memory of what a process has mapped or open: they stay when it is killed."""
    held = _held_by(process)
    return {name for name, inode in _segments().items() if inode in held}


def _held() -> set[int]:
    """Inodes in shared memory that some living process has mapped or open; a semaphore is mapped by a name it had."""
    return set().union(*(_held_by(process) for process in psutil.pids()))


def _held_by(process: int) -> set[int]:
    held: set[int] = set()
    with contextlib.suppress(OSError):  # it has ended
        maps = Path(f"/proc/{process}/maps").read_text()
        held |= {int(line.split()[4]) for line in maps.splitlines() if f" {SHARED_MEMORY}/" in line}
        for place in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has closed that one
                if os.readlink(place).startswith(f"{SHARED_MEMORY}/"):
                    held.add(place.stat().st_ino)
    return held
