"""Where worker processes of several hosts meet; and how those with GPUs then send each other messages.

That is by torch.distributed's NCCL (written, never run; gloo where its tests run on CPUs). CPUs have a `Wire`.

A peer whose process died is noticed at once, since its connections close. One whose host or link is gone says
nothing more: the kernel probes every connection (TCP keep-alive), and closes it when no answer comes in time. A worker
that computes for long is alive, since its kernel answers for it; so no message has a time within which it must come.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # made public by its name alone

from streamtrain.errors import WorkerLost, one_line

MEETING_SECONDS = 60
"""Within which all workers must have come."""
NO_LIMIT = datetime.timedelta(days=365)
PROBES = 5
"""Keep-alive probes without an answer after which a connection is given up."""
LONGEST = 160
"""Characters that are kept of a message of the network's library."""
SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Address:
    """Where the workers find each other."""

    host: str
    port: int


@dataclass(frozen=True)
class Membership:
    """Who takes part: ``hosting[w]`` are the lanes of worker ``w``; ``worker`` is this one."""

    worker: int
    hosting: tuple[range, ...]

    @property
    def workers(self) -> int:
        """How many they are."""
        return len(self.hosting)

    @property
    def lanes(self) -> int:
        """How many lanes they host together."""
        return sum(map(len, self.hosting))


def open_store(host: str) -> tuple[Address, TCPStore]:
    """Where the others will ask for each other; lives as long as the store does."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return Address(host, store.port), store


def store_at(address: Address) -> TCPStore:
    """That store; whoever asks it for what is not there waits for that."""
    wait = datetime.timedelta(seconds=MEETING_SECONDS)
    return TCPStore(address.host, address.port, is_master=False, timeout=wait)


def join_group(address: Address, membership: Membership, device: torch.device, lost_after: float = 10.0) -> None:
    """Meets the others; this process is in one group at a time.

    Args:
        lost_after: seconds after which a peer's host is lost that answers no keep-alive probe.

    Raises:
        WorkerLost: somebody did not come.
    """
    wait = datetime.timedelta(seconds=MEETING_SECONDS)
    leave_group()
    before = set(_sockets())
    with lost_workers("while the workers met"):
        store = store_at(address)
        if device.type == "cpu":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_to(address))
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=membership.worker,
            world_size=membership.workers,
            timeout=wait,
        )
        torch.distributed.barrier()  # all connections are made
    for descriptor, _ in set(_sockets()) - before:  # another thread's new ones among them come to no harm
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:  # closed, or not of TCP
            keep_alive(connection, lost_after)
    torch.distributed.distributed_c10d._set_pg_timeout(NO_LIMIT)


def leave_group() -> None:
    """Closes the connections, so that whoever waits for this worker notices, and forgets messages on their way."""
    if torch.distributed.is_initialized():
        torch.distributed.distributed_c10d._abort_process_group()


@contextmanager
def lost_workers(when: str) -> Iterator[None]:
    """Raises a failure of the network as what it mostly is: a worker that is gone."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise WorkerLost(f"another worker was lost {when}: {one_line(error)[:LONGEST]}") from None


def send(into: torch.Tensor, outof: torch.Tensor, coming: list[int], leaving: list[int]) -> torch.distributed.Work:
    """A `Send`."""
    work: torch.distributed.Work = torch.distributed.all_to_all_single(into, outof, coming, leaving, async_op=True)
    return work


def _sockets() -> Iterator[tuple[int, str]]:
    """This process's sockets: descriptor, and the kernel's name for it."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            if target.startswith("socket:"):
                yield int(entry.name), target


def keep_alive(connection: socket.socket, lost_after: float) -> None:
    """Has the kernel close a connection whose other end has answered no keep-alive probe for so many seconds."""
    every = max(1, round(lost_after / PROBES))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES - 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * lost_after))


def own_address(address: Address) -> str:
    """The address of this machine's interface by which it reaches another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address.host, address.port or 1))
        own: str = probe.getsockname()[0]
        return own


def _interface_to(address: Address) -> str:
    """The name of that interface; gloo would take the one of the host's name."""
    own = own_address(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return "lo"
