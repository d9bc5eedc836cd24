"""A Ray cluster of this machine, as `ray start --head` makes it, with its job API and token authentication."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import ROOT
from tests.support.servers import free_port

PATIENCE = 280.0
"""Seconds; a busy machine takes several times as long as a quiet one."""


@dataclass(frozen=True)
class Head:
    """``environment`` holds the token; ``folder`` is where Ray keeps its own files."""

    address: str
    environment: dict[str, str]
    folder: Path

    @staticmethod
    def packages(said: str) -> list[Path]:
        """Where the package lies that each job ran which said so."""
        prefix = "this streamtrain is "
        lines = [line for line in said.splitlines() if line.startswith(prefix)]
        return [Path(line.removeprefix(prefix)).parent for line in lines]

    def metrics(self) -> str:
        """What a Prometheus reads at the ports of which Ray's list tells it, each by itself.

        Two of them, the autoscaler's and the dashboard's, are the same for every Ray on a machine: only one has them.
        """
        targets = json.loads((self.folder / "prom_metrics_service_discovery.json").read_text())
        found = []
        for target in (target for entry in targets for target in entry["targets"]):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                found.append(answer.read().decode())
        return "".join(found)

    def streamtrain(
        self, *words: str, source: Path = ROOT, **changed: str | None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs the command against it, of the package that lies in ``source``.

        Args:
            changed: variables of the environment, ``None`` takes one away.
        """
        changed = {"PYTHONPATH": str(source), **changed}
        environment = {**self.environment, **{name: value for name, value in changed.items() if value is not None}}
        for name in [name for name, value in changed.items() if value is None]:
            environment.pop(name, None)
        command = [sys.executable, "-m", "streamtrain", *words, "--address", self.address]
        return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=PATIENCE)


@contextlib.contextmanager
def ray_head(cpus: int = 2) -> Iterator[Head]:
    """Starts one, and ends all its processes afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets need a short path
    (folder / "token").write_text(secrets.token_hex(16))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_worker_niceness": "0",
        "RAY_metrics_report_interval_ms": "500",
    }
    port, dashboard = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
        *(f"--num-cpus={cpus}", f"--temp-dir={folder}", "--include-log-monitor=false"),
        # not those that every other Ray takes; nor 0, by which a busy machine is given up on before it has started
        *(f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"),
    ]
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(process, dashboard, folder / "head.log")
        yield Head(f"http://127.0.0.1:{dashboard}", environment, folder)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until the job API answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
