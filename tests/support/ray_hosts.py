"""A Ray cluster over two hosts of this machine, which are network namespaces joined by a pair of virtual interfaces."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.command import ROOT

ADDRESSES = ("10.213.8.1", "10.213.8.2")
PORT = 6379


def ip(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@dataclass
class RayHosts:
    """Two hosts with so many CPUs each; the first is the head's."""

    names: tuple[str, str]
    links: tuple[str, str]
    folder: Path
    cpus: int = 1
    raylets: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Of all processes: the cluster's address among it."""
        settings = {"RAY_ADDRESS": f"{ADDRESSES[0]}:{PORT}", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        # so long everybody waits for a lost head to come back; Ray's own is a minute
        settings["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"
        return {**os.environ, **settings, "PYTHONPATH": str(ROOT)}

    def command(self, host: int, *words: str) -> list[str]:
        """What runs Python on a host."""
        return ["ip", "netns", "exec", self.names[host], sys.executable, *words]

    def start_ray(self, host: int) -> None:
        """Returns when it is in the cluster."""
        where = (f"--address={ADDRESSES[0]}:{PORT}", f"--num-cpus={self.cpus}")
        if host == 0:
            where = ("--head", f"--port={PORT}", f"--temp-dir={self.folder}", "--include-dashboard=false", where[1])
        ray = ("-m", "ray.scripts.scripts", "start", f"--node-ip-address={ADDRESSES[host]}", *where)
        quiet = ("--disable-usage-stats", "--include-log-monitor=false")
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        done = subprocess.run(
            self.command(host, *ray, *quiet), env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self, host: int, *names: str) -> None:
        """SIGKILL to Ray's own processes of these names: ``raylet``, ``gcs_server``."""
        killed = [each for each in self._processes(host) if each.name() in names]
        assert len(killed) == len(names)
        for process in killed:
            process.send_signal(signal.SIGKILL)

    def cut(self, host: int) -> None:
        """Nothing goes to the host or comes from it; what runs on it, does."""
        assert ip("-n", self.names[host], "link", "set", self.links[host], "down").returncode == 0

    def end(self, *which: int) -> None:
        """Kills all that runs on these, by default on both."""
        deadline = time.monotonic() + 30
        while alive := [each for host in which or (0, 1) for each in self._processes(host)]:
            assert time.monotonic() < deadline, alive
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(alive, timeout=1)

    def _processes(self, host: int) -> list[psutil.Process]:
        found = []
        for number in ip("netns", "pids", self.names[host]).stdout.split():
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(int(number)))
        return found


def missing() -> str:
    """What this machine lacks for it; empty where nothing."""
    return "ip" if shutil.which("ip") is None else "" if os.getuid() == 0 else "root"


@contextlib.contextmanager
def ray_hosts(cpus: int = 1) -> Iterator[RayHosts]:
    """Both, joined, without Ray yet."""
    names, links = [f"ray-{side}-{os.getpid()}" for side in "ab"], [f"r{side}{os.getpid() % 10**7}" for side in "ab"]
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # Ray's sockets need a short path
    hosts = RayHosts((names[0], names[1]), (links[0], links[1]), folder, cpus)
    try:
        made = [ip("netns", "add", name) for name in names]
        made.append(ip("link", "add", links[0], "type", "veth", "peer", "name", links[1]))
        for name, link, address in zip(names, links, ADDRESSES, strict=True):
            made.append(ip("link", "set", link, "netns", name))
            for words in (
                ("addr", "add", f"{address}/24", "dev", link),
                ("link", "set", link, "up"),
                ("link", "set", "lo", "up"),
                ("route", "add", "default", "dev", link),  # by which Ray finds its own address
            ):
                made.append(ip("-n", name, *words))
        assert not any(each.returncode for each in made), [each.stderr for each in made]
        yield hosts
    finally:
        hosts.end()
        for name in names:
            ip("netns", "delete", name)
        shutil.rmtree(folder, ignore_errors=True)
