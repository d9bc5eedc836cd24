"""What MLflow has after lost answers, resumptions, refusals and `sync`; SQLite's client is the server's own code."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import numpy as np
import pytest
import torch

from streamtrain.errors import ConfigError, TrackingError
from streamtrain.track import delivery
from streamtrain.track.mlflow import MlflowTracker
from streamtrain.track.mlflow.receiver import MlflowReceiver
from streamtrain.track.mlflow.sync import folders_with_journals, raise_for, sync
from streamtrain.track.tracker import DatasetCard, ModelCard, RunCard, Status
from streamtrain.values import Reading

CARD = RunCard("a run", "tests", {"optimizer.lr": "0.1"}, {"command": "streamtrain train job.py"}, ())


@pytest.fixture
def store(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, mlflow.MlflowClient]:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.001)
    return store_uri, mlflow.MlflowClient(store_uri, store_uri)


def log(tracker: MlflowTracker, *steps: int, name: str = "minibatch/loss", time: float = 1.0) -> None:
    tracker.log([Reading(name, step / 7, step, time + step) for step in steps])


def steps_of(client: mlflow.MlflowClient, run_id: str | None, name: str = "minibatch/loss") -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(str(run_id), name))


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


class Unanswered:
    """A client each of whose methods is carried out the first time it is called, and its answer lost."""

    calls: ClassVar[Counter[str]] = Counter()

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            self.calls[name] += 1
            if self.calls[name] == 1:
                raise ConnectionError(f"no answer to {name}")
            return result

        return call


def test_promise_8_requests_whose_answer_was_lost_double_nothing(
    store: tuple[str, mlflow.MlflowClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, client = store
    original = MlflowReceiver._client
    monkeypatch.setattr(Unanswered, "calls", Counter())
    monkeypatch.setattr(MlflowReceiver, "_client", lambda self: Unanswered(original(self)))
    tracker = MlflowTracker(uri)
    tracker.begin(dataclasses.replace(CARD, parent="a sweep"), new_folder(tmp_path / "run"))
    log(tracker, 0, 1, 2)
    log(tracker, 3)
    model = torch.nn.Linear(2, 1)
    x = np.zeros((1, 2), np.float32)
    tracker.model(ModelCard(model, (x,), model(torch.from_numpy(x)).detach().numpy(), register="lines"))
    left = tracker.finish("finished", "all passes made")
    assert left is None, left
    for method in ("create_run", "log_batch", "create_logged_model", "create_model_version", "set_terminated"):
        assert Unanswered.calls[method] >= 1, method
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(client.search_runs([experiment.experiment_id])) == 2 and set(runs) == {"a run", "a sweep"}
    assert runs["a run"].data.tags["mlflow.parentRunId"] == runs["a sweep"].info.run_id
    assert runs["a run"].info.status == "FINISHED" and steps_of(client, tracker.run_id) == [0, 1, 2, 3]
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    (version,) = client.search_model_versions("name = 'lines'")
    assert version.run_id == tracker.run_id and not (tmp_path / "run" / "refused.jsonl").exists()


def train_in_part(uri: str, folder: Path, status: Status, *steps: int, **begin: Any) -> str | None:
    tracker = MlflowTracker(uri)
    tracker.begin(
        dataclasses.replace(CARD, params={"optimizer.lr": "0.1", "workers": str(len(steps))}), folder, **begin
    )
    log(tracker, *steps, time=1000.0 * len(steps))
    assert tracker.finish(status, "") is None
    return tracker.run_id


def test_a_resumed_run_is_the_same_run_and_no_point_doubles(
    store: tuple[str, mlflow.MlflowClient], tmp_path: Path
) -> None:
    uri, client = store
    folder = new_folder(tmp_path / "run")
    first = train_in_part(uri, folder, "failed", 0, 1, 2, 3, 4)
    assert train_in_part(uri, folder, "failed", 3, 4, 5, 6) == first, "the folder's journal names the run"
    # on another machine, with the run's id alone
    assert train_in_part(uri, new_folder(tmp_path / "moved"), "finished", 5, 6, 7, run_id=first) == first
    assert steps_of(client, first) == [0, 1, 2, 3, 4, 5, 6, 7]
    run = client.get_run(str(first))
    assert run.info.status == "FINISHED" and run.data.params["workers"] == "5"
    assert run.data.tags["resumed.workers"] == "3"


def test_what_mlflow_will_never_take_is_reported_and_set_aside(
    store: tuple[str, mlflow.MlflowClient], tmp_path: Path
) -> None:
    uri, client = store
    tracker = MlflowTracker(uri)
    folder = new_folder(tmp_path / "run")
    tracker.begin(CARD, folder)
    log(tracker, 0, 1)
    tracker.log([Reading("a;name", 1.0, 0, 1.0), Reading("good", 1.0, 0, 1.0)])
    tracker.artifact(folder / "gone.png", "figures")
    log(tracker, 2)
    left = tracker.finish("finished", "")
    assert left is not None and "refused 2 of its entries" in left and left.endswith(str(folder / "refused.jsonl"))
    assert steps_of(client, tracker.run_id) == [0, 1, 2] and steps_of(client, tracker.run_id, "good") == [0]
    (folder / "gone.png").write_bytes(b"png")
    synced = sync(folder, None)
    assert (synced.delivered, synced.refused, synced.run_id) == (1, 1, tracker.run_id)
    assert "MLflow refuses 1 (MlflowException: " in synced.line
    assert [file.path for file in client.list_artifacts(str(tracker.run_id), "figures")] == ["figures/gone.png"]
    with pytest.raises(TrackingError, match="1 of 1 journals are not delivered whole: .*run: 1 entries delivered"):
        raise_for([synced])


def test_sync_delivers_what_a_killed_run_left_and_only_once(
    store: tuple[str, mlflow.MlflowClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, client = store
    folder = new_folder(tmp_path / "run")
    monkeypatch.setattr("streamtrain.track.delivery.Delivery.follow", lambda self: None)  # as if killed at once
    tracker = MlflowTracker(uri, flush_seconds=0.0)
    tracker.begin(CARD, folder)
    for step in range(20):
        log(tracker, step)
    tracker.describe("# What it was")
    assert tracker.finish("killed", "") is not None
    assert sync(folder, None).delivered == 23
    once_more = sync(folder, None)
    assert (once_more.delivered, once_more.problem) == (0, "")
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "KILLED" and run.data.tags["mlflow.note.content"] == "# What it was"
    assert steps_of(client, run.info.run_id) == list(range(20))


def test_promise_10_sync_of_a_folder_without_a_journal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a run's folder with journal.jsonl, found none; name runs'"):
        folders_with_journals([tmp_path])


def test_no_secret_reaches_the_journal_the_server_or_the_terminal(
    store: tuple[str, mlflow.MlflowClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, client = store
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden-token")
    url = "s3://user:hidden-word@bucket/data?signature=hidden-query"
    text = f"{url} with hidden-token"
    folder = new_folder(tmp_path / "run")
    tracker = MlflowTracker(uri)
    take, calls = MlflowReceiver.take, []

    def at_first_in_trouble(self: MlflowReceiver, entries: Any) -> None:
        calls.append(entries)
        if len(calls) == 1:
            raise ConnectionError(f"no answer from {text}")
        take(self, entries)

    monkeypatch.setattr(MlflowReceiver, "take", at_first_in_trouble)
    source = DatasetCard("digits/train", "d" * 36, url, "training", 100, {"label": "int64 ()"})
    tracker.begin(
        dataclasses.replace(CARD, params={"data.url": url}, tags={"command": text}, datasets=(source,)), folder
    )
    tracker.describe(text)
    tracker.artifact(folder / "hidden-token.png", "figures")  # is not there: refused, and said
    left = tracker.finish("failed", f"StoreError: {text}")
    assert left is not None and tracker._delivery.trouble == (
        "ConnectionError: no answer from s3://***@bucket/data?*** with ***"
    )
    run = client.get_run(str(tracker.run_id))
    assert run.data.params["data.url"] == "s3://***@bucket/data?***"
    assert run.data.tags["stop_reason"] == "StoreError: s3://***@bucket/data?*** with ***"
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) >= 4 and not any(b"hidden" in content for content in [*written, left.encode()])


def test_promise_10_a_wrong_uri_is_told_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"found htp://\*\*\*@h/x; set it") as refused:
        MlflowTracker("htp://me:hidden@h/x")
    assert "hidden" not in str(refused.value)


class Two(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + 1


def test_a_model_of_two_outputs_is_logged_without_a_signature(
    store: tuple[str, mlflow.MlflowClient], tmp_path: Path
) -> None:
    uri, _ = store
    tracker = MlflowTracker(uri)
    tracker.begin(CARD, new_folder(tmp_path / "run"))
    tracker.model(ModelCard(Two(), (np.zeros((1, 2), np.float32),), None))
    assert tracker.finish("finished", "") is None
    (model,) = mlflow.MlflowClient(uri).search_logged_models(["1"])
    place = model.artifact_location.removeprefix("file://")
    assert mlflow.models.get_model_info(place).signature is None
    loaded = mlflow.pytorch.load_model(place)
    assert [tensor.tolist() for tensor in loaded(torch.zeros(1))] == [[0.0], [1.0]]
