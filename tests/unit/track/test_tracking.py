"""Promise 8: MLflow slow, away or broken costs training nothing and loses nothing."""

import dataclasses
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError, Interrupted
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.track.journal import Backlog, entries_of
from streamtrain.track.mlflow import MlflowTracker, check_uri
from streamtrain.track.mlflow.receiver import MlflowReceiver
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import DatasetCard, ModelCard, RunCard
from streamtrain.values import Reading, Update
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, PlainFleet, run
from tests.support.proxy import Proxy

CARD = RunCard(
    name="a run",
    experiment="tests",
    params={"optimizer.lr": "0.1", "long": "x" * 10_000},
    tags={"command": "streamtrain train job.py"},
    datasets=(DatasetCard("digits/train", "d" * 64, "/data/digits", "training", 100, {"label": "int64 ()"}),),
)


def readings(count: int, first: int = 0) -> list[Reading]:
    return [Reading("minibatch/loss", step / 7, step, 1.0 + step) for step in range(first, first + count)]


def history(uri: str, run_id: str | None, name: str = "minibatch/loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in mlflow.MlflowClient(uri).get_metric_history(str(run_id), name)]


def test_mlflow_is_loaded_once_there_are_points_whatever_was_journaled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a core for seconds, which workers need that start."""
    taken = threading.Event()
    monkeypatch.setattr(MlflowReceiver, "take", lambda _, entries: taken.set())
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    tracker.begin(CARD, tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    tracker.artifact(tmp_path / "settings.json", "about")
    tracker.tag("lineage.branch_of", "another")
    assert not taken.wait(0.5)
    tracker.log(readings(1))
    assert taken.wait(30)
    tracker.finish("finished", "")


def test_a_run_as_mlflow_has_it(store_uri: str, tmp_path: Path) -> None:
    uri = store_uri
    tracker = MlflowTracker(uri)
    tracker.begin(CARD, tmp_path)
    tracker.log(readings(2500))
    tracker.log([Reading("Gap/loss_standard_error", math.nan, 1, 2.0)])
    (tmp_path / "risk.png").write_bytes(b"png")
    tracker.artifact(tmp_path / "risk.png", "figures")
    assert tracker.finish("finished", "patience is used up") is None
    client = mlflow.MlflowClient(uri)
    run = client.get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"
    assert run.data.tags["stop_reason"] == "patience is used up"
    assert run.data.params["optimizer.lr"] == "0.1" and len(run.data.params["long"]) == 6000
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("digits/train", "d" * 36, "training")
    assert history(uri, tracker.run_id) == [(step, step / 7) for step in range(2500)]
    assert math.isnan(history(uri, tracker.run_id, "Gap/loss_standard_error")[0][1])
    assert [file.path for file in client.list_artifacts(str(tracker.run_id), "figures")] == ["figures/risk.png"]
    assert (tmp_path / "mlartifacts").is_dir()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A real MLflow server that can be started and killed: its URI, start, kill."""
    port = free_port()
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        store = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"]
        artifacts = ["--artifacts-destination", str(tmp_path / "served")]
        log = (tmp_path / "server.log").open("ab")
        running.append(
            subprocess.Popen(
                [*command, *store, *artifacts], stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
            )
        )

    def kill() -> None:
        while running:
            process = running.pop()
            os.killpg(process.pid, 9)
            process.wait()

    yield f"http://127.0.0.1:{port}", start, kill
    kill()


def wait_for(condition: Callable[[], Any], seconds: float = 280) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_promise_8_a_server_that_comes_late_refuses_answers_not_and_is_killed_gets_everything_once(
    server: tuple[str, Callable[[], None], Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote server: it wants a token, which is wrong at first, is read-only for a while, and loses answers."""
    uri, start, kill = server
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "wrong")
    with Proxy(uri, token="right") as proxy:
        check_remote(proxy, uri, start, kill, tmp_path, monkeypatch)


class Hooked(PlainFleet):
    """Calls what is due before a stint, by the stint's number."""

    def __init__(self, plans: Plan, due: dict[int, Callable[[], None]]) -> None:
        super().__init__(plans)
        self._due, self._stint = due, 0

    def advance(self, step: int) -> list[Update]:
        self._due.pop(self._stint, lambda: None)()
        self._stint += 1
        return super().advance(step)


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


def check_remote(
    proxy: Proxy,
    uri: str,
    start: Callable[[], None],
    kill: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trains through all of it, is stopped while the server is dead, and goes on in the same run."""
    pack_digits(tmp_path / "digits", examples=900)
    monkeypatch.setattr("streamtrain.run.controller.STINT_SECONDS", 0.0)
    job = st.Job(st.Data(str(tmp_path / "digits"), transform=scaled), lambda: torch.nn.Linear(64, 10), batch_size=10)
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=4), tracking=st.Tracking(log_every=1), lanes=2)
    undisturbed = Notebook()
    run(job, tmp_path, undisturbed)
    plans, folder = plan(job), tmp_path / "run"
    folder.mkdir()
    journal = folder / "delivered"
    first, keeper = MlflowTracker(proxy.uri, flush_seconds=0.0), Keeper(job, {})

    def comes_late_refuses_and_loses() -> None:
        assert first.run_id is None
        start()
        wait_for(lambda: "token" in first._delivery.trouble)
        proxy.is_read_only = True
        proxy.loses |= {"runs/create", "runs/log-batch", "runs/update", "runs/log-inputs"}
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "right")
        wait_for(lambda: "503" in first._delivery.trouble)
        proxy.is_read_only = False
        wait_for(lambda: journal.exists() and int(journal.read_text()) > 5 and proxy.loses <= {"runs/update"})

    due = {5: comes_late_refuses_and_loses, 8: kill, 14: lambda: keeper.ask_to_stop("stopped")}
    first.begin(CARD, folder)
    with pytest.raises(Interrupted):
        Controller(plans, Hooked(plans, due), first, Terminal(quiet=True), folder, keeper).run()
    assert not due and first.finish("killed", "stopped") is not None, "what the dead server has not taken is said"
    start()
    with Backlog(folder, wait=True):  # until the first one's thread, which a new process would not have, is done
        pass
    second = MlflowTracker(proxy.uri, flush_seconds=280)
    second.begin(CARD, folder)
    run(job, folder, second, Keeper(job, {}, None, keeper._last))
    assert second.finish("finished", "") is None and second.run_id == first.run_id
    assert proxy.loses == set() and not (folder / "refused.jsonl").exists()
    client = mlflow.MlflowClient(uri)
    assert len(client.search_runs([client.get_experiment_by_name("tests").experiment_id])) == 1  # type: ignore[union-attr]
    deterministic = ("minibatch/", "gradient/", "Gap/", "progressive", "generalization_risk/", "layer_", "update/")
    names = {each.name for each in undisturbed.readings if each.name.startswith(deterministic)}
    for name in names:
        assert history(uri, second.run_id, name) == undisturbed.named(name), name
    assert len(names) > 25 and len(undisturbed.named("minibatch/loss")) == 288


def test_promise_8_a_server_that_never_answers_neither_blocks_nor_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(MlflowReceiver, "take", lambda self, entries: never.wait())
    tracker = MlflowTracker("http://user:secret@127.0.0.1:9", flush_seconds=0.0)
    tracker.begin(CARD, tmp_path)
    tracker.log(readings(100))
    left = tracker.finish("finished", "")
    assert left == (
        f"MLflow at http://***@127.0.0.1:9 has not taken everything (still busy): nothing is lost, "
        f"the rest is in {tmp_path / 'journal.jsonl'}; deliver it with streamtrain sync {tmp_path}"
    )
    entries = list(entries_of(tmp_path / "journal.jsonl"))
    assert [entry["kind"] for entry in entries] == ["begin", "readings", "finish"]
    assert "secret" not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize(
    "uri", ["sqlite:///x.db", "http://h:1", "https://h", "databricks", "postgresql+psycopg2://h/d", "x"]
)
def test_uris_that_mlflow_knows(uri: str) -> None:
    assert check_uri(uri) == uri


def test_promise_10_a_uri_that_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="tracking.uri: expected a URI of sqlite, .* found gopher://h; set it or"):
        MlflowTracker("gopher://h")


MODEL = """
import torch
class Doubling(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
    def forward(self, x):
        return x * self.weight
import streamtrain as st
job = st.Job(st.Data("nowhere"), Doubling)
"""
LOAD = """
import sys, mlflow, numpy as np, torch
mlflow.set_tracking_uri(sys.argv[1])
x = np.array([[1.0, 2.0]], np.float32)
uri = f"runs:/{sys.argv[2]}/model"
model = mlflow.pytorch.load_model(uri)
assert model(torch.from_numpy(x)).tolist() == [[2.0, 4.0]]
loaded = mlflow.pyfunc.load_model(uri)
assert loaded.predict(x).tolist() == [[2.0, 4.0]]
shape = loaded.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"]
assert list(shape) == [-1, 2], shape
example = loaded.input_example
assert example is not None and np.asarray(example).tolist() == [[3.0, 4.0]], example
"""


def test_the_model_loads_in_a_process_that_has_not_the_job_file(store_uri: str, tmp_path: Path) -> None:
    from streamtrain.prepare.jobfile import load_job

    (tmp_path / "doubling.py").write_text(MODEL)
    model = load_job(tmp_path / "doubling.py").model()
    (tmp_path / "doubling.py").unlink()
    uri = store_uri
    tracker = MlflowTracker(uri)
    tracker.begin(CARD, tmp_path)
    x = np.array([[3.0, 4.0]], np.float32)
    tracker.model(ModelCard(model.eval(), (x,), model(torch.from_numpy(x)).detach().numpy()))
    assert tracker.finish("finished", "") is None
    subprocess.run(
        [sys.executable, "-c", LOAD, uri, str(tracker.run_id)], check=True, cwd=tmp_path, capture_output=False
    )
