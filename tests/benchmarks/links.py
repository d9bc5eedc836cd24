"""The exchange between hosts whose links are held to a speed: network namespaces of this machine, and `tc`.

Used by `scaling --links`. Each worker is a host of its own, with an address and a link of so many Gbit/s in and out,
on one bridge. Needs root, `ip` and `tc` (Debian's iproute2). The workers still share this machine's cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.benchmarks.exchange import ours
from tests.benchmarks.rounds import Processes, alternate

NETWORK = "10.213.11"
MEGABYTES_A_GBIT = 125.0
"""MB/s of a Gbit/s; of them TCP's and Ethernet's own bytes take some 6 %, which `USABLE` leaves."""
USABLE = 0.94
QUEUE_BYTES = 2**20
"""That may wait for a link: enough that TCP is held by its speed, not by what is lost."""


def address(rank: int) -> str:
    """Of this worker's host."""
    return f"{NETWORK}.{rank + 1}"


@contextlib.contextmanager
def hosts(count: int, gigabits: float) -> Iterator[list[str]]:
    """Names of so many namespaces on one bridge, each with a link of this speed.

    Raises:
        RuntimeError: a tool or a right is missing.
    """
    own = f"stl{os.getpid()}"
    names = [f"{own}-{rank}" for rank in range(count)]
    switch = f"{own}-switch"
    with contextlib.ExitStack() as stack:
        for name in (switch, *names):
            _run("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        _run("ip", "-n", switch, "link", "add", "wire", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "wire", "up")
        for rank, name in enumerate(names):
            plug = f"plug{rank}"
            _run("ip", "-n", switch, "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "-n", switch, "link", "set", plug, "master", "wire", "up")
            _run("ip", "-n", name, "addr", "add", f"{address(rank)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            for where, device in ((name, "eth0"), (switch, plug)):  # out of the host, and into it
                held = ("rate", f"{gigabits:g}gbit", "burst", "256kb", "limit", str(QUEUE_BYTES))
                _run("tc", "-n", where, "qdisc", "add", "dev", device, "root", "tbf", *held)
        yield names


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def there(pipe: Connection, rank: int, world: int, names: list[str], megabytes: float, folder: str) -> None:  # type: ignore[type-arg]
    """A worker of `exchange` on its host."""
    with Path(f"/run/netns/{names[rank]}").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"cannot enter {names[rank]}")
    ours(pipe, rank, world, "collective", megabytes, folder, address(0))


def measured_between(count: int, megabytes: float, gigabits: float, rounds: int) -> float:
    """Seconds a step of so many hosts: the median of rounds."""
    with hosts(count, gigabits) as names, tempfile.TemporaryDirectory() as folder:
        workers: Any = Processes(there, count, names, megabytes, folder)
        try:
            return statistics.median(alternate({"collective": workers}, rounds, patience=0)["collective"])
        finally:
            workers.stop()
