"""Files that other processes lend, and whether those live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streamtrain.aggregate.exchange.memory import Handle, open_block, shared_block
from streamtrain.errors import WorkerLost
from streamtrain.processes import is_dead, open_lent, watch
from streamtrain.stream.ahead.ring import RingHandle, RingReader, RingShape

LENDER = """
import os, sys
descriptor = os.memfd_create("lent")
os.write(descriptor, b"lent")
print(descriptor, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lender() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process, and the descriptor of the file that it lends."""
    with subprocess.Popen(
        [sys.executable, "-c", LENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def _killed(process: subprocess.Popen[str]) -> None:
    """Dead, and a zombie: nobody has asked for its exit status."""
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_what_a_living_process_lends_can_be_read(lender: tuple[subprocess.Popen[str], int]) -> None:
    process, descriptor = lender
    assert not is_dead(process.pid)
    with os.fdopen(open_lent(process.pid, descriptor), "rb") as lent:
        assert os.pread(lent.fileno(), 4, 0) == b"lent"


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_died_before_is_a_lost_worker(lender: tuple[subprocess.Popen[str], int], reaped: bool) -> None:
    process, descriptor = lender
    _killed(process)
    if reaped:
        process.wait()
    assert is_dead(process.pid)
    with pytest.raises(WorkerLost, match=f"process {process.pid} died before"):
        open_lent(process.pid, descriptor)
    with pytest.raises(WorkerLost):
        open_block(Handle(process.pid, descriptor))


def test_nobody_can_be_watched_who_is_gone(lender: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = lender
    _killed(process)
    process.wait()
    with pytest.raises(WorkerLost, match="before it could be watched"):
        watch(process.pid)


def test_a_file_that_a_dying_process_has_closed_is_a_lost_worker() -> None:
    """The kernel closes a dying process's files some time before it is dead."""
    block, handle = shared_block(4096)
    os.close(handle.descriptor)
    with pytest.raises(WorkerLost):
        open_block(handle)
    block.close()


def test_a_streamer_that_died_before_its_worker_came_is_a_lost_worker(
    lender: tuple[subprocess.Popen[str], int],
) -> None:
    process, descriptor = lender
    _killed(process)
    with pytest.raises(WorkerLost):
        RingReader(RingHandle(process.pid, descriptor, RingShape(2, 4, {"x": ("<f8", (2,))})))
