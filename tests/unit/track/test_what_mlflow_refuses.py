"""What MLflow cannot take holds up nothing else, is told with its cure while the run goes on, and comes by `sync`."""

import contextlib
import dataclasses
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from streamtrain.errors import ConfigError
from streamtrain.job.tracking import Tracking
from streamtrain.track import delivery
from streamtrain.track.journal import Entry
from streamtrain.track.mlflow import MlflowTracker, mlflow_tracker
from streamtrain.track.mlflow.sync import sync
from streamtrain.track.tracker import ModelCard, RunCard, Status
from streamtrain.values import Reading

CARD = RunCard("a run", "tests", {"sgd.lr": "0.1"}, {}, ())


@dataclasses.dataclass
class Run:
    """A tracker of a run in ``folder``, and the lines that it has said."""

    tracker: MlflowTracker
    folder: Path
    said: list[str]
    first: threading.Event

    def log(self, *steps: int) -> None:
        self.tracker.log([Reading("minibatch/loss", step / 7, step, 1.0 + step) for step in steps])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(mlflow_tracker, "KILLED_FLUSH_SECONDS", 0.5)


@pytest.fixture
def client(store_uri: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(store_uri, store_uri)


def begun(uri: str, folder: Path) -> Run:
    """A run that has begun, with two points."""
    said: list[str] = []
    first = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        first.set()

    folder.mkdir()
    run = Run(MlflowTracker(uri, say=say), folder, said, first)
    run.tracker.begin(CARD, folder)
    run.log(0, 1)
    return run


def finished(run: Run, status: Status = "finished") -> str | None:
    """What `finish` says, once nobody delivers the journal any more."""
    left = run.tracker.finish(status, "all passes made")
    run.tracker._thread.join(60)
    return left


def steps(client: mlflow.MlflowClient, run_id: str | None) -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(str(run_id), "minibatch/loss"))


def cure_in(line: str) -> None:
    """Does what a line says between backquotes, as a user would in a shell."""
    command = line.split("`")[1].replace("mlflow ", f"{sys.executable} -m mlflow ", 1)
    subprocess.run(command, shell=True, check=True, capture_output=True)


def test_an_experiment_that_was_deleted(store_uri: str, client: mlflow.MlflowClient, tmp_path: Path) -> None:
    number = client.create_experiment("tests")
    client.delete_experiment(number)
    run = begun(store_uri, tmp_path / "run")
    assert run.first.wait(60), "nothing was told while the run went on"
    assert f"MLflow at {store_uri} takes nothing now (experiment 'tests' was deleted; restore it: `" in run.said[0]
    run.log(2)
    left = finished(run)
    assert left is not None and "nothing is lost" in left and f"streamtrain sync {run.folder}" in left
    assert len(run.said) == 1
    away = sync(run.folder, None)
    assert away.delivered == 0 and "experiment 'tests' was deleted; restore it" in away.problem
    cure_in(run.said[0])
    assert sync(run.folder, None).problem == ""
    (made,) = client.search_runs([number])
    assert steps(client, made.info.run_id) == [0, 1, 2] and made.info.status == "FINISHED"


def test_an_experiment_or_a_run_that_is_deleted_midway(
    store_uri: str, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    for what in ("run", "experiment"):
        run = begun(store_uri, tmp_path / what)
        wait_until_delivered(run, 3)
        number = client.get_run(str(run.tracker.run_id)).info.experiment_id
        if what == "run":
            client.delete_run(str(run.tracker.run_id))
        else:
            client.delete_experiment(number)
        run.log(2, 3)
        assert run.first.wait(60)
        assert " was deleted; restore it: `" in run.said[0] and f"{what} " in run.said[0]
        assert finished(run) is not None
        assert not (run.folder / "refused.jsonl").exists(), "its points wait in the journal; they are not refused"
        assert " was deleted; restore it: `" in sync(run.folder, None).problem
        cure_in(run.said[0])
        assert sync(run.folder, None).problem == ""
        assert steps(client, run.tracker.run_id) == [0, 1, 2, 3]


def wait_until_delivered(run: Run, entries: int) -> None:
    changed = threading.Event()
    while not (run.folder / "delivered").exists() or int((run.folder / "delivered").read_text()) < entries - 1:
        changed.wait(0.01)


def test_a_run_that_was_deleted_for_good_is_delivered_whole_to_a_new_one(
    store_uri: str, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    run = begun(store_uri, tmp_path / "run")
    assert finished(run) is None
    first = str(run.tracker.run_id)
    client.set_tag(first, "streamtrain.run", "as if it were another's")
    with (run.folder / "journal.jsonl").open("a") as journal:
        journal.write('{"kind": "tags", "tags": {"late": "yes"}}\n')
    problem = sync(run.folder, None).problem
    assert f"is no longer there; remove {run.folder / 'delivered'} to deliver all to a new one" in problem
    (run.folder / "delivered").unlink()
    synced = sync(run.folder, None)
    assert synced.problem == "" and synced.run_id != first and steps(client, synced.run_id) == [0, 1]


def test_an_artifact_store_that_fails_holds_up_nothing_else(
    store_uri: str, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("a file where the artifacts' folder should be")
    client.create_experiment("tests", artifact_location=(tmp_path / "store").as_uri())
    run = begun(store_uri, tmp_path / "run")
    (run.folder / "risk.png").write_bytes(b"png")
    run.tracker.artifact(run.folder / "risk.png", "figures")
    model, x = torch.nn.Linear(2, 1), np.zeros((1, 2), np.float32)
    run.tracker.model(ModelCard(model, (x,), np.zeros((1, 1), np.float32)))
    run.log(2)
    assert run.first.wait(60)
    left = finished(run)
    assert left is not None and "refused 2 of its entries" in left and f"streamtrain sync {run.folder}" in left
    told = [line.partition(" (")[0] for line in run.said]
    assert told == [f"MLflow at {store_uri} refuses the {what}" for what in ("artifact risk.png", "model model")]
    made = client.get_run(str(run.tracker.run_id))
    assert steps(client, made.info.run_id) == [0, 1, 2] and made.info.status == "FINISHED"
    (tmp_path / "store").unlink()
    assert sync(run.folder, None).problem == ""
    assert [file.path for file in client.list_artifacts(made.info.run_id, "figures")] == ["figures/risk.png"]
    (logged,) = client.search_logged_models([made.info.experiment_id])
    assert logged.status == "READY"


def test_a_registry_s_refusal_holds_up_nothing_else(
    store_uri: str, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    run = begun(store_uri, tmp_path / "run")
    x = np.zeros((1, 2), np.float32)
    run.tracker.model(ModelCard(torch.nn.Linear(2, 1), (x,), np.zeros((1, 1), np.float32), register="a/name:of"))
    run.log(2)
    left = finished(run)
    assert left is not None and "refused 1 of its entries" in left
    (line,) = run.said
    assert "refuses the register a/name:of (MlflowException: " in line and "`streamtrain sync" in line
    assert steps(client, run.tracker.run_id) == [0, 1, 2]
    assert client.get_run(str(run.tracker.run_id)).info.status == "FINISHED"


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that answers everything with one status."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815  # the names that the server looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
def test_a_server_that_answers_with_an_error(
    status: int, store_uri: str, client: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TELL_SECONDS", 0.0)
    with answering(status) as uri:
        run = begun(uri, tmp_path / "run")
        assert run.first.wait(60)
        assert f"MLflow at {uri} takes nothing now (" in run.said[0] and str(status) in run.said[0]
        left = finished(run, "killed")
    assert left is not None and "nothing is lost" in left
    assert not (run.folder / "refused.jsonl").exists()
    assert sync(run.folder, store_uri).problem == ""
    (made,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])  # type: ignore[union-attr]
    assert steps(client, made.info.run_id) == [0, 1]


@pytest.mark.parametrize("name", ["a/name:of", "a:b", "a/b", " ", ""])
def test_a_name_that_mlflow_would_refuse_is_refused_before_anything_runs(name: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    with pytest.raises(MlflowException):
        _validate_model_name(name)
    with pytest.raises(ConfigError, match=r"tracking\.register: expected a name without / and :, found "):
        Tracking(register=name)
    assert Tracking(register="digits v2").register == "digits v2"


def test_the_journal_is_free_when_a_delivery_says_that_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it may sync at once."""

    class Nowhere:
        def take(self, entries: Sequence[Entry]) -> None:
            pass

    (tmp_path / delivery.FILE).touch()
    given = delivery.Delivery(tmp_path, Nowhere())
    done_when_freed = []

    class Noticed(delivery.Backlog):
        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            done_when_freed.append(given.done.is_set())

    monkeypatch.setattr(delivery, "Backlog", Noticed)
    given.close()
    given.follow()
    assert done_when_freed == [False] and given.done.is_set()
