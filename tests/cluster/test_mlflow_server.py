"""``cluster/mlflow/server.sh``, really started: a password before it, on this machine only, and a run through it."""

import base64
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support.command import ROOT
from tests.support.servers import free_port

pytest.importorskip("flask_wtf")
TRAIN = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("kept", "note.txt")
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt") == "kept"
"""


@pytest.mark.clusters
def test_runs_go_through_a_password_and_nobody_else_gets_in(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "server"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_FOLDER": str(folder), "MLFLOW_PORT": str(port)}
    with (tmp_path / "log").open("w") as log:
        command = [str(ROOT / "cluster" / "mlflow" / "server.sh")]
        server = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 120
        while answer(port, "") != 401:
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert answer(port, "admin:wrong") == 401
        password = (folder / "password").read_text()
        assert answer(port, f"admin:{password}") == 200
        assert (folder / "password").stat().st_mode & 0o077 == 0
        assert heard(server.pid) == {("127.0.0.1", port)}
        proof = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
        uri = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        subprocess.run([sys.executable, "-c", TRAIN], env={**os.environ, **proof, **uri}, check=True, cwd=tmp_path)
        assert list((folder / "artifacts").rglob("note.txt"))
    finally:
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(30)
        psutil.wait_procs(family, 30)


def answer(port: int, user: str) -> int:
    """The server's status to this user; 0 where it does not answer."""
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
    headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def heard(process: int) -> set[tuple[str, int]]:
    """Where it and its children listen."""
    family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    sockets = [s for each in family for s in each.net_connections("tcp") if s.status == psutil.CONN_LISTEN]
    return {(s.laddr.ip, s.laddr.port) for s in sockets}
