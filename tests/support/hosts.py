"""Hosts of their own on this machine: network, process numbers, /tmp, /dev/shm and home apart, and sshd on each.

A home begins with what this user's holds, and keeps its changes to itself. The rest of the file system is shared, as
an NFS would be. Needs root, `ip`, `unshare` and sshd (Debian's openssh-server).
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import ROOT

SSHD = "/usr/sbin/sshd"
SETTINGS = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""
BEGIN = """
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mount -t overlay overlay -o "lowerdir=$HOME,upperdir={home},workdir={home}.work" "$HOME"
mkdir -p /run/sshd
exec {sshd} -D -e -f "{folder}/sshd_config"
"""


@dataclass(frozen=True)
class Host:
    """``home`` has what it has written to its home folder."""

    name: str
    address: str
    home: Path
    key: Path

    def command(self, line: str) -> list[str]:
        """What runs a shell's line on it, in the project's folder."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        ssh = ["ip", "netns", "exec", self.name, "ssh", "-i", str(self.key), *options, f"root@{self.address}"]
        return [*ssh, f"cd {ROOT} && {line}"]

    def run(self, line: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.command(line), capture_output=True, text=True, timeout=timeout)


def missing() -> str:
    """What this machine lacks for it; empty where nothing."""
    tools = [tool for tool in ("ip", "unshare", "ssh", "rsync", SSHD) if shutil.which(tool) is None]
    return ", ".join([*tools, *(["root"] if os.getuid() else [])])


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[list[Host]]:
    """So many, on one wire."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for key in ("host_key", "key"):
            _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        (folder / "sshd_config").write_text(SETTINGS.format(folder=folder))
        switch = f"st{os.getpid()}-switch"
        _network(stack, switch)
        _must("ip", "-n", switch, "link", "add", "wire", "type", "bridge")
        _must("ip", "-n", switch, "link", "set", "wire", "up")
        yield [_host(stack, folder, switch, name, number) for number, name in enumerate(names, 1)]


def _host(stack: contextlib.ExitStack, folder: Path, switch: str, name: str, number: int) -> Host:
    host = Host(f"st{os.getpid()}-{name}", f"10.213.9.{number}", folder / name, folder / "key")
    for needed in (host.home, host.home.with_suffix(".work")):
        needed.mkdir()
    _network(stack, host.name)
    plug = f"plug{number}"
    _must("ip", "-n", switch, "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _must("ip", "-n", switch, "link", "set", plug, "master", "wire", "up")
    _must("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _must("ip", "-n", host.name, "link", "set", "eth0", "up")
    _must("ip", "-n", host.name, "link", "set", "lo", "up")
    _must("ip", "-n", host.name, "route", "add", "default", "dev", "eth0")  # by which Ray finds its own address
    begin = BEGIN.format(home=host.home, folder=folder, sshd=SSHD)
    isolate = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
    with (folder / f"{name}.log").open("w") as log:
        command = ["ip", "netns", "exec", host.name, *isolate, "sh", "-c", begin]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)  # and with it all processes of the host
    deadline = time.monotonic() + 30
    while host.run("true").returncode:
        assert process.poll() is None and time.monotonic() < deadline, (folder / f"{name}.log").read_text()
        time.sleep(0.1)
    return host


def _network(stack: contextlib.ExitStack, name: str) -> None:
    _must("ip", "netns", "add", name)
    stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)


def _must(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
