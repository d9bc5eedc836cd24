"""MLflow's own pages on the store that runs write to, served for as long as this process lives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from streamtrain.errors import ConfigError, Interrupted, complaint, one_line
from streamtrain.store import masked
from streamtrain.track.mlflow.pages import newest_runs_page

PAGES_ALONE = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""What the server does beside pages, switched off: its workers for jobs on language models are seven processes."""
GUARD = "trap '' TERM INT HUP; read -r line; kill -TERM 0; sleep 3; kill -KILL 0"
"""Leads the server's process group, and ends it when its input is closed: this process's end closes it too."""
GRACE_SECONDS = 5.0
START_SECONDS = 120.0
"""In which the server's pages are waited for."""


def serve(port: int) -> int:
    """Runs MLflow's server on localhost until it is stopped; its exit code.

    However this process ends, the server's processes end with it.

    Raises:
        ConfigError: somebody has the port.
        Interrupted: SIGTERM asked it to stop.
    """
    from streamtrain.track.mlflow import default_uri

    uri = default_uri()
    _check_free(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    with _ended_by_sigterm(), _group() as group:
        _make_database(uri)
        print(f"MLflow on {masked(uri)}: open http://localhost:{port} and stop with Ctrl-C", flush=True)
        server = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"], env={**os.environ, **PAGES_ALONE}, process_group=group
        )
        threading.Thread(target=_say_where, args=(port,), daemon=True).start()
        return server.wait()


def _make_database(uri: str) -> None:
    """A local database that is not there yet; the server might be ended while it makes one."""
    from sqlalchemy.exc import SQLAlchemyError

    from streamtrain.track.mlflow import create_database
    from streamtrain.track.mlflow.model import quieten

    quieten()
    try:
        create_database(uri)
    except (OSError, SQLAlchemyError) as error:
        expected, do = "a place for MLflow's database", "set MLFLOW_TRACKING_URI to another"
        raise ConfigError(complaint(masked(uri), expected=expected, found=one_line(error), do=do)) from None


def _say_where(port: int) -> None:
    """A line with the table of runs, as soon as there are pages."""
    page = newest_runs_page(port, START_SECONDS)
    if page is not None:
        print(f"its runs, the best first: {page}", flush=True)


@contextlib.contextmanager
def _group() -> Iterator[int]:
    """A process group's number; who is in it ends at the end of the block, or when this process is gone."""
    with subprocess.Popen(["/bin/sh", "-c", GUARD], stdin=subprocess.PIPE, process_group=0) as guard:
        try:
            yield guard.pid
        finally:
            os.killpg(guard.pid, signal.SIGTERM)
            _wait_for_others(guard.pid)
            os.killpg(guard.pid, signal.SIGKILL)


def _wait_for_others(group: int) -> None:
    """Until nobody but its leader is in a process group, for a while."""
    import psutil

    others = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != group and os.getpgid(process.pid) == group:
                others.append(process)
    psutil.wait_procs(others, timeout=GRACE_SECONDS)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises `Interrupted` in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Interrupted("stopped by SIGTERM; nothing was changed")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            found, do = error.strerror or str(error), "end what has it, or give another by --port"
            raise ConfigError(complaint(f"port {port}", expected="one that is free", found=found, do=do)) from None
