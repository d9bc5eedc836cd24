"""A new SQLite database of MLflow's is there whole or not at all, whoever is killed and whoever comes beside."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from streamtrain.track.mlflow import MlflowTracker, create_database
from streamtrain.track.mlflow.fetch import fetch
from streamtrain.track.tracker import RunCard
from streamtrain.values import Reading
from tests.support.command import ROOT

DIES = """
import os, signal, sys
import sqlalchemy.engine, sqlalchemy.event

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "after_cursor_execute")
def look(connection, cursor, statement, *_):
    if {statement!r} in statement:
        os.kill(os.getpid(), signal.SIGKILL)

from streamtrain.track.mlflow import create_database
create_database(sys.argv[1])
"""
MAKES = "import sys; from streamtrain.track.mlflow import create_database; create_database(sys.argv[1])"


def started(code: str, uri: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, uri], env=environment, stderr=subprocess.PIPE)


def delivered(uri: str, folder: Path) -> list[str]:
    """The files beside the database once a run has delivered to it."""
    folder.mkdir()
    tracker = MlflowTracker(uri)
    tracker.begin(RunCard("a run", "tests", {}, {}, ()), folder)
    tracker.log([Reading("minibatch/loss", 0.5, 1, 1.0)])
    assert tracker.finish("finished", "") is None
    (point,) = mlflow.MlflowClient(uri).get_metric_history(str(tracker.run_id), "minibatch/loss")
    assert (point.step, point.value) == (1, 0.5)
    return sorted(file.name for file in folder.parent.glob("mlflow.db*"))


@pytest.mark.parametrize("statement", ["CREATE TABLE experiments", "CREATE TABLE _alembic_tmp_experiments"])
def test_promise_8_killed_while_it_makes_the_database_a_run_delivers_to_it_later(
    statement: str, tmp_path: Path
) -> None:
    """MLflow's own way leaves a file that it never opens again."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    killed = started(DIES.format(statement=statement), uri)
    assert killed.wait() == -9
    left = sorted(file.name for file in tmp_path.glob("mlflow.db*"))
    assert "mlflow.db" not in left and "mlflow.db.partial" in left
    assert delivered(uri, tmp_path / "run") == ["mlflow.db"]


def test_of_processes_that_come_for_it_at_once_all_find_it_whole(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    together = [started(MAKES, uri) for _ in range(4)]
    told = [process.communicate()[1] for process in together]
    assert [process.returncode for process in together] == [0] * 4, told
    assert delivered(uri, tmp_path / "new" / "run") == ["mlflow.db"]


def test_one_that_somebody_else_has_made_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    made = tmp_path / "mlflow.db"
    initialize = utils._initialize_tables
    monkeypatch.setattr(utils, "_initialize_tables", lambda engine: (initialize(engine), made.write_bytes(b"theirs")))
    create_database(f"sqlite:///{made}")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("mlflow.db", b"theirs")]


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://127.0.0.1:1", "postgresql://h/d", "runs"])
def test_what_is_no_file_of_sqlite_is_left_to_mlflow(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_database(uri)
    assert not list(tmp_path.iterdir())


def test_who_only_looks_for_a_run_makes_no_database(tmp_path: Path) -> None:
    assert fetch("0" * 32, "result/result.json", f"sqlite:///{tmp_path / 'mlflow.db'}") is None
    assert not list(tmp_path.iterdir())
