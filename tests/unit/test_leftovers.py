"""What the tests of kills look for at the end: found where it is there, and no stranger's things taken for it."""

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.leftovers import SHARED_MEMORY, Leftovers, named_memory

LISTENS = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as opened:
    print(opened.getsockname()[1], flush=True)
    sys.stdin.readline()
"""
PARENT = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {LISTENS!r}]))"


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Leftovers, int]]:
    """One whose processes have ended, and the port on which they listened."""
    monkeypatch.setattr(leftovers, "PATIENCE", 0.5)
    found = Leftovers(tmp_path)
    parent = started(PARENT, tmp_path)
    with found.watching(parent.pid):
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        noted = threading.Event()
        while port not in found._ports:
            noted.wait(0.05)
        parent.communicate(b"\n", timeout=280)
    yield found, port


def started(code: str, temporary: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def test_of_processes_that_ended_nothing_is_left(watched: tuple[Leftovers, int]) -> None:
    watched[0].check()


def test_a_port_that_a_stranger_has_taken_since_is_his(watched: tuple[Leftovers, int]) -> None:
    found, port = watched
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        found.check()


def test_a_strangers_semaphore_is_his(watched: tuple[Leftovers, int]) -> None:
    """It is mapped by another name than the one that it has."""
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    named = semaphore._semlock.name.lstrip("/")  # type: ignore[attr-defined]
    assert (SHARED_MEMORY / f"sem.{named}").is_file()
    watched[0].check()


def test_a_descendant_that_no_look_saw_is_found(watched: tuple[Leftovers, int], tmp_path: Path) -> None:
    with started(LISTENS, tmp_path) as unseen:
        assert unseen.stdout is not None and unseen.stdout.readline()
        with pytest.raises(AssertionError, match="processes: .*import socket"):
            watched[0].check()
        unseen.communicate(b"\n", timeout=280)
    watched[0].check()


def test_a_file_and_shared_memory_that_nobody_holds_are_found(watched: tuple[Leftovers, int], tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    with pytest.raises(AssertionError, match=r"temporary files: \['left'\]"):
        watched[0].check()
    segment = SHARED_MEMORY / f"{tmp_path.name}-{os.getpid()}"
    segment.touch()
    try:
        with pytest.raises(AssertionError, match=f"shared memory: .*{segment.name}"):
            watched[0].check()
        with segment.open(), pytest.raises(AssertionError, match="temporary files"):  # a living process has it
            watched[0].check()
        with segment.open():
            assert segment.name in named_memory(os.getpid())
        assert segment.name not in named_memory(os.getpid())
    finally:
        segment.unlink()
