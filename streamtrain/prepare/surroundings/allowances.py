"""What the kernel allows this process and its container: processors, memory, threads. Readings only, no checks.

Containers are control groups of version 1 or 2: a group's limit holds for all below it, so the smallest on the way from
this process's own group up to the root is what counts. In a container the root is the container's own group.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
WITHOUT_LIMIT = 1 << 60
"""Version 1 writes a number like this where there is none."""
OVER_THREADS = 1 << 21 | 1 << 24
"""Capabilities (SYS_ADMIN, SYS_RESOURCE) of those whose threads are not counted."""


@dataclass(frozen=True)
class Limit:
    """A number that is not to be passed, and what sets it."""

    value: int
    source: str


def usable_cpus() -> int:
    """Processors that this process may use at once; a container's share of them, rounded down; at least one."""
    found = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # not on macOS, where a job may run inline
        found.append(len(os.sched_getaffinity(0)))
    for file in _group_files("cpu", "cpu.max"):
        quota, _, period = _text(file).partition(" ")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) // int(period))
    for file in _group_files("cpu", "cpu.cfs_quota_us"):
        quota = _text(file)
        period = _text(file.with_name("cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit():  # without a quota it is -1
            found.append(int(quota) // int(period))
    return max(1, min(found))


def memory_limit() -> Limit | None:
    """Bytes that this process and all others of its container, or of the machine, may have; ``None``: not known."""
    found = [*_numbers("memory", "memory.max"), *_numbers("memory", "memory.limit_in_bytes")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        (total,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        found.append(Limit(int(total.split()[1]) * 1024, "this machine's memory"))
    return min(found, key=lambda limit: limit.value, default=None)


def thread_limit() -> Limit | None:
    """How many more threads (Linux counts processes so) this process and its children may have; ``None``: no limit."""
    found = []
    for limit in _numbers("pids", "pids.max"):
        taken = _text(Path(limit.source).with_name("pids.current"))
        found.append(Limit(limit.value - int(taken or 0), limit.source))
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if most != resource.RLIM_INFINITY and not _capabilities() & OVER_THREADS:
        found.append(Limit(most - _threads_of_user(), f"ulimit -u {most}"))
    return min(found, key=lambda limit: limit.value, default=None)


def status_line(name: str) -> str | None:
    """A line of /proc/self/status; ``None`` where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    return None


def _capabilities() -> int:
    return int(status_line("CapEff") or "0", 16)


def _threads_of_user() -> int:
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while it was looked at
                if process.stat().st_uid == os.getuid():
                    count += sum(1 for _ in (process / "task").iterdir())
    return count


def _numbers(controller: str, name: str) -> Iterator[Limit]:
    for file in _group_files(controller, name):
        value = _text(file)
        if value.isdigit() and int(value) < WITHOUT_LIMIT:  # "max" is none
            yield Limit(int(value), str(file))


def _group_files(controller: str, name: str) -> Iterator[Path]:
    """The files of this name in this process's group of a controller and in all above it."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = GROUPS / controller if controllers else GROUPS
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if (folder / name).is_file():
                yield folder / name
            if folder == root:
                break


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
