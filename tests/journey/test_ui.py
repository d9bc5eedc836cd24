"""`streamtrain ui` serves pages, with no more processes than that takes, and takes them with it however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest

from streamtrain.track.mlflow.pages import KIND, KIND_TAG
from tests.support.command import ROOT, streamtrain
from tests.support.servers import free_port


def hear_interrupts() -> None:
    """Where the tests run in the background of a shell, it has them ignore Ctrl-C, and their children with them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def pages(folder: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """The command, once its pages answer."""
    command = [sys.executable, "-m", "streamtrain", "ui", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with subprocess.Popen(
        command,
        preexec_fn=hear_interrupts,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 280
            while not answers(port):
                assert process.poll() is None and time.monotonic() < deadline
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 6), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_its_processes_are_few_and_end_with_it(number: signal.Signals, code: int, tmp_path: Path) -> None:
    port = free_port()
    with pages(tmp_path, port) as process:
        family = psutil.Process(process.pid).children(recursive=True)
        lines = [" ".join(each.cmdline()) for each in family]
        assert len(family) <= 4 and not any("job" in line for line in lines), lines
        process.send_signal(number)
        said = "" if number == signal.SIGKILL else str(process.communicate()[1])
        _, alive = psutil.wait_procs(family, timeout=240)
        assert not alive and not answers(port)
        assert process.wait() == code and "Traceback" not in said
        if number == signal.SIGTERM:
            assert "streamtrain ui: stopped by SIGTERM; nothing was changed" in said


def test_it_says_where_the_runs_are_in_the_layout_for_model_training(store_uri: str, tmp_path: Path) -> None:
    """Of the store in the folder that it is started in, whose newest experiment is of language models."""
    client = mlflow.MlflowClient(store_uri)
    number = client.create_experiment("digits", tags={KIND_TAG: KIND})
    client.create_experiment("agents", tags={KIND_TAG: "genai_development"})
    port = free_port()
    with pages(tmp_path, port) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "best first" in line)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    order = "orderByKey=metrics.%60chosen%2Ferror%60&orderByAsc=true"
    address = f"http://localhost:{port}/#/experiments/{number}/runs?workflowType=machine_learning&{order}"
    assert said == f"its runs, the best first: {address}\n"


def test_promise_10_a_port_that_somebody_has(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = streamtrain("ui", "--port", str(port), folder=tmp_path)
    expected = (
        f"streamtrain ui: port {port}: expected one that is free, found Address already in use; end what has it, "
    )
    assert done.returncode == 2 and done.stderr == f"{expected}or give another by --port\n" and not done.stdout


def test_promise_10_a_place_where_no_database_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = streamtrain("ui", "--port", str(free_port()), folder=tmp_path)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"streamtrain ui: {uri}: expected a place for MLflow's database, found ")
    assert line.endswith("; set MLFLOW_TRACKING_URI to another")
