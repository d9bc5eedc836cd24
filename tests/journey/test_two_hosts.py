"""Promise 5 over a network: two hosts, which are two network namespaces joined by a pair of virtual interfaces."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.crew import Crew
from tests.support.steps import FULL, hashes

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two namespaces that reach each other."""
    names = (f"streamtrain-a-{os.getpid()}", f"streamtrain-b-{os.getpid()}")
    links = (f"st-a-{os.getpid() % 10**7}", f"st-b-{os.getpid() % 10**7}")
    try:
        made = [ip("netns", "add", name) for name in names] if Path("/usr/sbin/ip").exists() else []
        made += [ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])] if made else []
        if not made or any(each.returncode for each in made):
            pytest.skip("no permission to make network namespaces: " + " ".join(each.stderr.strip() for each in made))
        for name, link, address in zip(names, links, ADDRESSES, strict=True):
            ip("link", "set", link, "netns", name)
            for words in (
                ("addr", "add", f"{address}/24", "dev", link),
                ("link", "set", link, "up"),
                ("link", "set", "lo", "up"),
            ):
                assert ip("-n", name, *words).returncode == 0
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name)


def member(host: str, worker: int, port: int, steps: int = 20, *more: str) -> "subprocess.Popen[str]":
    return python(host, "tests.support.host", "mlp", worker, 2, steps, ADDRESSES[0], port, *more)


def python(host: str, module: str, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["ip", "netns", "exec", host, sys.executable, "-m", module, *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_promise_5_the_same_bits_across_two_hosts(hosts: tuple[str, str]) -> None:
    with pair(hosts) as members:
        found = {line_of(each) for each in members}
    with Crew(1) as crew:
        assert found == hashes(crew, "shared", "mlp", FULL, 1, steps=20)


def test_a_cut_link_is_noticed_and_a_slow_step_is_not_taken_for_one(hosts: tuple[str, str]) -> None:
    with pair(hosts, 10**6, "1") as members:
        assert {line_of(each) for each in members} == {"training"}
        cut(hosts)
        assert all("another worker was lost in step" in line_of(each) for each in members)


def test_a_streamers_host_is_lost_when_its_link_is_cut_and_not_when_it_is_slow(hosts: tuple[str, str]) -> None:
    streamer = python(hosts[1], "tests.support.wire", "streamer", ADDRESSES[1], 5.0)
    worker = python(hosts[0], "tests.support.wire", "worker", ADDRESSES[1], *line_of(streamer).split(), 1.0)
    with ended(streamer, worker):
        assert [line_of(worker) for _ in range(2)] == ["1", "2"]
        cut(hosts)
        assert line_of(worker) == "the streamer failed or died before its next batch"


def cut(hosts: tuple[str, str]) -> None:
    assert ip("-n", hosts[1], "link", "set", f"st-b-{os.getpid() % 10**7}", "down").returncode == 0


@contextlib.contextmanager
def pair(hosts: tuple[str, str], *arguments: Any) -> Iterator[list["subprocess.Popen[str]"]]:
    """A worker on each host; both end well."""
    first = member(hosts[0], 0, 0, *arguments)
    members = [first, member(hosts[1], 1, int(line_of(first)), *arguments)]
    with ended(*members):
        yield members


@contextlib.contextmanager
def ended(*members: "subprocess.Popen[str]") -> Iterator[None]:
    """All end well with the block."""
    try:
        yield
        for process in members:
            process.communicate("done\n", timeout=60)
            assert process.returncode == 0
    finally:
        for process in members:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
