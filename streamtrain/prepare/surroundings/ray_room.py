"""What Ray needs of this machine where it is started here: a folder, memory, files, threads, and a network of its own.

Below the least numbers Ray hangs for half a minute, or ends without a reason. Those of files, file size and addresses
are what Ray 2.60 worked with at two workers (tests/journey/test_surroundings.py); those of threads and memory are
estimates that lie above what it was seen to need.
"""

from __future__ import annotations

import os
import resource
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import ConfigError, complaint
from streamtrain.prepare.surroundings.allowances import memory_limit, thread_limit, usable_cpus
from streamtrain.prepare.surroundings.process import Bound
from streamtrain.prepare.surroundings.writable import free_bytes, why_not_writable

if TYPE_CHECKING:
    from streamtrain.job import Job

SOCKET_BYTES = 107
"""Of the path of a Unix socket; Linux takes no longer one."""
MEGABYTE = 1 << 20
OBJECTS = 128 * MEGABYTE
"""For Ray's object store where there is little room: only small things go through it here."""
LOGS = 32 * MEGABYTE
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # Ray's own choice
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # where RAY_TMPDIR and TMPDIR say nothing, or will not do
READ_BY_RAY = ("/proc/self/status", "/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/net/dev")
OPEN_FILES = 512
THREADS, THREADS_OF_WORKER = 300, 60
MEMORY, MEMORY_OF_WORKER = 900 * MEGABYTE, 350 * MEGABYTE
ADDRESSES = Bound(resource.RLIMIT_AS, "v", "kB of address space", 24 << 30, 1024)
FILE_SIZE = Bound(resource.RLIMIT_FSIZE, "f", "blocks of 1024 bytes in a file", OBJECTS + MEGABYTE, 1024)


@dataclass(frozen=True)
class RayRoom:
    """Where Ray goes on this machine, and what it takes.

    Attributes:
        folder: for its sockets and logs. cpus: that it gives out.
        objects: bytes of its object store; ``None``: as many as Ray would take.
        objects_in: folder of that store, where it is not shared memory.
        note: a line about what is not where it usually is; mostly empty.
    """

    folder: Path
    cpus: int
    objects: int | None
    objects_in: Path | None
    note: str


def room_for_ray(workers: int = 1) -> RayRoom:
    """Where Ray can be started on this machine, for so many workers.

    Raises:
        ConfigError: it cannot be; the variable or the limit by name.
    """
    _check_proc()
    _check_localhost()
    Bound(resource.RLIMIT_NOFILE, "n", "open files", OPEN_FILES).check()
    ADDRESSES.check()
    FILE_SIZE.check()
    _check_threads(workers)
    _check_memory(workers)
    apart = _shared_memory_bytes() < OBJECTS
    folder, note = _folder(LOGS + (OBJECTS if apart else 0))
    return RayRoom(folder, usable_cpus(), _objects(), folder if apart else None, note)


def _objects() -> int | None:
    """Bytes for the object store, where Ray's own choice may not fit."""
    most = [_shared_memory_bytes() * 9 // 10]
    file_size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_size != resource.RLIM_INFINITY:
        most.append(file_size - MEGABYTE)
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        most.append(OBJECTS)
    memory = memory_limit()
    wanted = None if memory is None else memory.value * 3 // 10  # Ray's own share
    if wanted is not None and wanted <= min(most):
        return None
    return max(OBJECTS, min(most))


def _folder(room: int) -> tuple[Path, str]:
    """The first folder that will do of those that are meant for temporary files."""
    chosen = os.environ.get("RAY_TMPDIR")
    named = ["RAY_TMPDIR"] if chosen else ["TMPDIR", *TEMPORARY]
    problems: list[str] = []
    for name in named:
        value = os.environ.get(name) if not name.startswith("/") else name
        if not value:
            continue
        below = _below(Path(value).absolute())
        problem = _problem(below, room)
        if not problem:
            note = f"Ray's files are in {below}: {'; '.join(problems)}" if problems else ""
            return below, note
        problems.append(f"{name} {value}: {problem}" if name != value else f"{value}: {problem}")
    expected = f"a folder for Ray with {room // MEGABYTE} MB of room, whose name is short"
    where = "RAY_TMPDIR" if chosen else "TMPDIR"
    do = "set RAY_TMPDIR to such a folder"
    raise ConfigError(complaint(where, expected=expected, found="; ".join(problems), do=do))


def _below(folder: Path) -> Path:
    """Ray's own folder in one for temporary files; one of this user's where another user made that."""
    usual = folder / "ray"
    return folder / f"ray-{os.getuid()}" if usual.exists() and why_not_writable(usual) else usual


def _problem(folder: Path, room: int) -> str:
    """Why Ray cannot have a folder."""
    longest = folder / f"session_2000-01-01_00-00-00_000000_{os.getpid()}" / "sockets" / "plasma_store"
    over = len(os.fsencode(longest)) - SOCKET_BYTES
    if over > 0:
        return f"{over} bytes too long for Ray's sockets"
    if why := why_not_writable(folder):
        return why
    free = free_bytes(folder)
    return "" if free >= room else f"{free // MEGABYTE} MB free"


def _shared_memory_bytes() -> int:
    """Free room of /dev/shm; 0 where there is none or this user may not write there."""
    if not SHARED_MEMORY.is_dir() or why_not_writable(SHARED_MEMORY):
        return 0
    return free_bytes(SHARED_MEMORY)


def _check_proc() -> None:
    for name in READ_BY_RAY:
        try:
            with Path(name).open("rb") as opened:
                opened.read(1)
        except OSError as error:
            expected, found = "to be able to read it, as Ray must", error.strerror or str(error)
            do = "mount /proc whole (`mount -t proc proc /proc`)"
            raise ConfigError(complaint(name, expected=expected, found=found, do=do)) from None


def _check_localhost() -> None:
    """Ray's processes speak to each other over TCP, on this machine too."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        expected, found = "that this machine can reach itself", error.strerror or str(error)
        do = "bring the interface up (`ip link set lo up`)"
        raise ConfigError(complaint("localhost (127.0.0.1)", expected=expected, found=found, do=do)) from None


def _check_threads(workers: int) -> None:
    limit = thread_limit()
    needed = THREADS + THREADS_OF_WORKER * workers
    if limit is not None and limit.value < needed:
        expected = f"room for {needed} more threads, for Ray and {workers} worker(s)"
        do = "raise that limit, lower workers, or set RAY_ADDRESS to a cluster"
        raise ConfigError(complaint(limit.source, expected=expected, found=str(max(0, limit.value)), do=do))


def _check_memory(workers: int) -> None:
    limit = memory_limit()
    needed = MEMORY + MEMORY_OF_WORKER * workers
    if limit is not None and limit.value < needed:
        expected = f"at least {needed // MEGABYTE} MB of memory, for Ray and {workers} worker(s)"
        do = "raise that limit, lower workers, or set RAY_ADDRESS to a cluster"
        raise ConfigError(complaint(limit.source, expected=expected, found=f"{limit.value // MEGABYTE} MB", do=do))


def check_cpus(job: Job, cpus: int | None) -> None:
    """Refuses more workers than this machine has cores, before Ray is started on it."""
    if job.device == "cpu" and cpus is not None and job.least_workers * job.threads > cpus:
        raise ConfigError(
            complaint(
                "workers",
                expected=f"at most {cpus // job.threads} on this machine's {cpus} CPUs at {job.threads} thread(s) each",
                found=str(job.least_workers),
                do="lower workers, or set RAY_ADDRESS to a cluster",
            )
        )
