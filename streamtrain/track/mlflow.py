"""Delivery of the journal to MLflow: the only file that imports MLflow, and one thread that alone talks to it.

A server that is slow, broken or away costs training nothing: the thread tries again and again, and what
is not delivered in the end stays in the journal.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streamtrain.errors import ConfigError, complaint, one_line
from streamtrain.track.journal import Entry, Journal
from streamtrain.track.tracker import ModelCard, RunCard, Status
from streamtrain.values import Reading

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks", "uc", "")
BATCH = 1000
"""Metrics that MLflow takes in one request."""
PARAM_LENGTH = 6000
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
FLUSH_SECONDS = 30.0


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def check_uri(uri: str) -> str:
    """The URI as it is.

    Raises:
        ConfigError: a scheme that MLflow does not know.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in SCHEMES:
        expected = f"a URI of {', '.join(s for s in SCHEMES if s)} or a path"
        raise ConfigError(complaint("tracking.uri", expected=expected, found=uri, do="set it or MLFLOW_TRACKING_URI"))
    return uri


class MlflowTracker:
    """A `Tracker` that delivers to MLflow in the background.

    Args:
        uri: of the tracking store or server.
        flush_seconds: how long ``finish`` waits for what is not delivered yet.
    """

    def __init__(self, uri: str, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._uri, self._flush_seconds = check_uri(uri), flush_seconds
        self._waiting: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._done = threading.Event()
        self._trouble = ""
        self._receiver = _Receiver(self._uri)

    @property
    def run_id(self) -> str | None:
        """See `Tracker`."""
        return self._receiver.run_id

    def begin(self, card: RunCard, folder: Path) -> None:
        """See `Tracker`."""
        self._folder = folder
        self._journal = Journal(folder)
        self._put("begin", card=dataclasses.asdict(card), time=time.time())
        threading.Thread(target=self._deliver, name="mlflow", daemon=True).start()

    def log(self, readings: Sequence[Reading]) -> None:
        """See `Tracker`."""
        if readings:
            self._put("readings", readings=[dataclasses.astuple(reading) for reading in readings])

    def artifact(self, file: Path, place: str) -> None:
        """See `Tracker`."""
        self._put("artifact", file=str(file), place=place)

    def model(self, card: ModelCard) -> None:
        """Saves the model in the run's folder, to be delivered from there."""
        folder = self._folder / "model"
        _save_model(card, folder)
        self._put("model", folder=str(folder))

    def finish(self, status: Status, note: str) -> str | None:
        """See `Tracker`."""
        self._put("finish", status=status, note=note, time=time.time())
        self._journal.close()
        if self._done.wait(self._flush_seconds):
            return None
        return (
            f"MLflow at {self._uri} has not taken everything ({self._trouble or 'still busy'}): nothing is lost, "
            f"the rest is in {self._journal.file}"
        )

    def _put(self, kind: Any, **content: Any) -> None:
        self._waiting.put(self._journal.append(kind, **content))

    def _deliver(self) -> None:
        """Delivers entry after entry in order, each until it succeeds."""
        delivered = 0
        while not self._done.is_set():
            entries = self._next_entries()
            pause = FIRST_PAUSE
            while not self._try(entries):
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            delivered += len(entries)
            self._journal.mark_delivered(delivered)
            if entries[-1]["kind"] == "finish":
                self._done.set()

    def _try(self, entries: list[Entry]) -> bool:
        try:
            self._receiver.take(entries)
        except Exception as error:
            self._trouble = one_line(error)[:300]
            return False
        return True

    def _next_entries(self) -> list[Entry]:
        """The next entry, and with readings all readings that wait behind it, up to one request's worth."""
        entries = [self._waiting.get()]
        while entries[-1]["kind"] == "readings" and not self._waiting.empty():
            entries.append(self._waiting.get())
        return entries


class _Receiver:
    """One run at the server."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.run_id: str | None = None
        self._experiment_id = ""

    def take(self, entries: list[Entry]) -> None:
        """Delivers readings in one go, then what follows them; raises what MLflow raises."""
        # a request that cannot be answered shall fail soon: trying again is this module's business
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.tracking import MlflowClient

        _quieten()
        client = MlflowClient(self._uri)
        if self.run_id is None:
            self.run_id = self._create(client, entries[0])
        run_id = self.run_id
        self._log(client, run_id, [reading for entry in entries for reading in entry.get("readings", ())])
        for entry in entries:
            match entry["kind"]:
                case "begin":
                    self._begin(client, run_id, entry)
                case "artifact":
                    client.log_artifact(run_id, entry["file"], entry["place"])
                case "model":
                    self._model(client, run_id, entry["folder"])
                case "finish":
                    client.set_tag(run_id, "stop_reason", entry["note"][:PARAM_LENGTH])
                    client.set_terminated(run_id, entry["status"].upper(), int(entry["time"] * 1000))

    def _log(self, client: Any, run_id: str, readings: list[list[Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(when * 1000), step) for name, value, step, when in readings]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _create(self, client: Any, entry: Entry) -> str:
        card = entry["card"]
        self._experiment_id = _experiment(client, self._uri, card["experiment"])
        run = client.create_run(self._experiment_id, int(entry["time"] * 1000), card["tags"], card["name"])
        return str(run.info.run_id)

    def _begin(self, client: Any, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Param

        card = entry["card"]
        params = [Param(name, value[:PARAM_LENGTH]) for name, value in card["params"].items()]
        client.log_batch(run_id, params=params)
        client.log_inputs(run_id, [_dataset_input(dataset) for dataset in card["datasets"]])

    def _model(self, client: Any, run_id: str, folder: str) -> None:
        from mlflow.entities import LoggedModelOutput

        model = client.create_logged_model(self._experiment_id, "model", run_id, model_type="pytorch")
        client.log_model_artifacts(model.model_id, folder)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def _quieten() -> None:
    """Leaves the terminal to the run: MLflow's word on tables it makes, and on pickle, which its users know."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)


def _experiment(client: Any, uri: str, name: str) -> str:
    """The experiment's id; a new one on a local database keeps its artifacts beside the database."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        database = uri.removeprefix("sqlite:///")
        place = None if database == uri else (Path(database).absolute().parent / "mlartifacts").as_uri()
        try:
            # the kind makes MLflow's pages show runs and curves first, not language models' traces
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException:  # another run made it in between
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _dataset_input(card: dict[str, Any]) -> Any:
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    fields = {
        "mlflow_colspec": [{"type": kind, "name": name, "required": True} for name, kind in card["fields"].items()]
    }
    dataset = Dataset(
        name=card["name"],
        digest=card["digest"][:36],
        source_type="local",
        source=json.dumps({"uri": card["source"]}),
        schema=json.dumps(fields),
        profile=json.dumps({"examples": card["examples"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", card["context"])])


def _save_model(card: ModelCard, folder: Path) -> None:
    """Saves the model with signature and input example; what it needs is said, not guessed by running it."""
    import importlib.metadata

    import mlflow.pytorch
    from mlflow.models import infer_signature

    _quieten()
    one = len(card.inputs) == 1
    example = card.inputs[0] if one else {f"input_{i}": array for i, array in enumerate(card.inputs)}
    needs = [
        f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in ("torch", "numpy", "cloudpickle")
    ]
    mlflow.pytorch.save_model(
        card.model,
        str(folder),
        signature=infer_signature(example, card.output),
        input_example=example if one else None,
        pip_requirements=needs,
        serialization_format="pickle",
    )
