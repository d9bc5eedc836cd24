"""One run at an MLflow server, whatever is sent a second time: what is created is looked for by its key first."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamtrain.errors import one_line
from streamtrain.store import masked
from streamtrain.track.delivery import Blocked, Refused, first_begin
from streamtrain.track.journal import BATCH, Entry
from streamtrain.track.mlflow.lifecycle import check_run, deleted_experiment, gone
from streamtrain.track.mlflow.model import quieten
from streamtrain.track.mlflow.pages import KIND, KIND_TAG
from streamtrain.track.mlflow.uri import create_database, database_of

PARAM_LENGTH = 6000
TAG_LENGTH = 8000
MAY_PASS = (401, 403, 408, 429)
"""HTTP's 4xx that are not the request's fault: a token may be mended, a limit may lift."""
APART = ("artifact", "model", "register")
"""Kinds of entries that may fail by themselves, by a store or a registry that is not the server."""
TRIES_APART = 5
RUN_TAG, PARENT_TAG = "streamtrain.run", "streamtrain.parent"
SYSTEM = "system/"


class MlflowReceiver:
    """See the module and `Receiver`.

    Attributes:
        run_id: the server's name of the run, once it answered.
        key, folder: of the journal.
        is_known: whether the server has had something of it before.
    """

    def __init__(self, uri: str, key: str = "", folder: Path | None = None) -> None:
        self._uri = uri
        self.key = key
        self.folder = folder
        self.run_id: str | None = None
        self.is_known = False
        self._experiment_id = ""
        self._last_steps: dict[str, int] | None = None
        self._failed: Counter[str] = Counter()

    def take(self, entries: Sequence[Entry]) -> None:
        """Creates the run where it is not there, and takes the entries; see `Receiver`."""
        client = self._client()
        if self.run_id is None:
            try:
                self._open(client)
            except Blocked:
                raise
            except Exception as error:  # without the run nothing can be delivered: never set aside
                if _is_refusal(error):
                    do = "check tracking.uri and tracking.experiment"
                    raise Blocked(f"{masked(one_line(error))[:300]}; {do}") from error
                raise ConnectionError(masked(one_line(error))) from error
        assert self.run_id is not None
        try:
            self._log(client, self.run_id, entries)
            for entry in entries:
                self._take_one(client, self.run_id, entry)
        except Refused:
            raise
        except Exception as error:
            if _is_refusal(error) and not isinstance(error, FileNotFoundError):
                check_run(client, self._uri, self.run_id)
            if _is_refusal(error) or self._fails_apart(client, self.run_id, entries[0]):
                raise Refused(masked(one_line(error))[:300]) from error
            raise

    def _fails_apart(self, client: Any, run_id: str, entry: Entry) -> bool:
        """Whether an entry has failed some times while the server itself answers: it is not to hold up the others."""
        if entry["kind"] not in APART:
            return False
        which = json.dumps(entry)
        self._failed[which] += 1
        if self._failed[which] % TRIES_APART:
            return False
        try:
            client.get_run(run_id)
        except Exception:  # whatever it is, it is the server's
            return False
        return True

    def _client(self) -> Any:
        # a request may have been carried out before its answer was lost: it is sent again by who looks first, not
        # by MLflow's own retries; and one that cannot be answered shall fail soon
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.tracking import MlflowClient

        quieten()
        create_database(self._uri)
        return MlflowClient(self._uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or self._uri)

    def _take_one(self, client: Any, run_id: str, entry: Entry) -> None:
        assert self.folder is not None
        match entry["kind"]:
            case "begin":
                self._begin(client, run_id, entry)
            case "artifact":
                client.log_artifact(run_id, str(self.folder / entry["file"]), entry["place"])
            case "tags":
                for name, value in entry["tags"].items():
                    client.set_tag(run_id, name, value[:TAG_LENGTH])
            case "model":
                self._model(client, run_id, str(self.folder / entry["folder"]), entry.get("step", 0))
            case "register":
                self._register(client, run_id, entry["name"])
            case "finish":
                client.set_tag(run_id, "stop_reason", entry["note"][:PARAM_LENGTH])
                client.set_terminated(run_id, entry["status"].upper(), int(entry["time"] * 1000))

    def _log(self, client: Any, run_id: str, entries: Sequence[Entry]) -> None:
        """A curve's points come in order of their steps, so those up to the server's last were delivered before.

        Not so those that were refused once and are offered again.
        """
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, round(when * 1000), step)
            for entry in entries
            for name, value, step, when in entry.get("readings", ())
            if "because" in entry or step > self._last_step(client, run_id, name)
        ]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _last_step(self, client: Any, run_id: str, name: str) -> int:
        """The last step that the server had of a curve when this process, or a resumed one, came to the run."""
        if self._last_steps is None or name.startswith(SYSTEM):
            return -1
        if name not in self._last_steps:
            steps = [metric.step for metric in client.get_metric_history(run_id, name)]
            self._last_steps[name] = max(steps, default=-1)
        return self._last_steps[name]

    def _open(self, client: Any) -> None:
        """Finds the run that the journal names, or creates it."""
        assert self.folder is not None
        entry = first_begin(self.folder)
        card = entry["card"]
        self._experiment_id = _experiment(client, self._uri, card["experiment"])
        run_id = entry.get("run_id") or _run_tagged(client, self._experiment_id, RUN_TAG, self.key)
        if run_id is None and self.is_known:
            raise Blocked(gone(self.folder))
        if run_id is None:
            tags = {**card["tags"], RUN_TAG: self.key, **self._parent_tags(client, card.get("parent"))}
            run = client.create_run(self._experiment_id, int(entry["time"] * 1000), tags, card["name"])
            self.run_id = str(run.info.run_id)
        else:
            check_run(client, self._uri, run_id)
            self._experiment_id = client.get_run(run_id).info.experiment_id
            self._last_steps = {}
            self.run_id = run_id

    def _parent_tags(self, client: Any, parent: str | None) -> dict[str, str]:
        """Puts the run under a parent: a run's id, or a name, whose run is made where there is none yet."""
        if parent is None:
            return {}
        parent = parent.replace("'", "")  # MLflow's search has no way to quote it
        if len(parent) == 32 and set(parent) <= set("0123456789abcdef"):
            return {"mlflow.parentRunId": parent}
        if _run_tagged(client, self._experiment_id, PARENT_TAG, parent) is None:
            made = client.create_run(self._experiment_id, tags={PARENT_TAG: parent}, run_name=parent)
            client.set_terminated(made.info.run_id)
        # of two that were made at once, everybody takes the first
        return {"mlflow.parentRunId": str(_run_tagged(client, self._experiment_id, PARENT_TAG, parent))}

    def _begin(self, client: Any, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Param

        card = entry["card"]
        params = {name: value[:PARAM_LENGTH] for name, value in card["params"].items()}
        if entry.get("resumed"):
            self._last_steps = {}
            client.update_run(run_id, status="RUNNING")
            known = client.get_run(run_id).data.params
            for name in sorted(name for name in params if known.get(name, params[name]) != params[name]):
                client.set_tag(run_id, f"resumed.{name}", params[name])  # MLflow's params never change
            params = {name: value for name, value in params.items() if name not in known}
        client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
        client.log_inputs(run_id, [_dataset_input(dataset) for dataset in card["datasets"]])

    def _model(self, client: Any, run_id: str, folder: str, step: int) -> None:
        from mlflow.entities import LoggedModelOutput

        model = self._logged_model(client, run_id)
        if model is None:
            model = client.create_logged_model(self._experiment_id, "model", run_id, model_type="pytorch")
        model_id = model.model_id
        client.log_model_artifacts(model_id, folder)
        client.finalize_logged_model(model_id, "READY")
        outputs = client.get_run(run_id).outputs
        if outputs is None or not outputs.model_outputs:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])

    def _logged_model(self, client: Any, run_id: str) -> Any:
        found = client.search_logged_models([self._experiment_id], f"source_run_id = '{run_id}'")
        return found[0] if found else None

    def _register(self, client: Any, run_id: str, name: str) -> None:
        """A new version of a registered model, which is made where there is none of this name."""
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if not any(version.run_id == run_id for version in client.search_model_versions(f"name = '{name}'")):
            model = self._logged_model(client, run_id)
            if model is None:
                raise Refused(f"no model of this run to register as {name}")
            # not models:/ID, which MLflow looks up at its process-wide URI rather than at this one
            client.create_model_version(name, model.artifact_location, run_id, model_id=model.model_id)


def _is_refusal(error: Exception) -> bool:
    """Whether sending the same again would end the same: a 4xx of the request's own, or a file that is gone."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]  # MLflow types it not
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        return isinstance(error, FileNotFoundError)
    return 400 <= status < 500 and status not in MAY_PASS


def _run_tagged(client: Any, experiment_id: str, tag: str, value: str) -> str | None:
    """The oldest run of an experiment with this tag, deleted or not; but no deleted parent."""
    from mlflow.entities import ViewType

    order = ["attributes.start_time ASC"]
    which = f"tags.`{tag}` = '{value}'"
    view = ViewType.ALL if tag == RUN_TAG else ViewType.ACTIVE_ONLY
    found = client.search_runs([experiment_id], which, view, order_by=order)
    return str(found[0].info.run_id) if found else None


def _experiment(client: Any, uri: str, name: str) -> str:
    """The experiment's id; a new one on a local database keeps its artifacts beside the database."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        database = database_of(uri)
        place = None if database is None else (database.absolute().parent / "mlartifacts").as_uri()
        try:
            tags = {KIND_TAG: KIND}
            return str(client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException:  # another run made it in between
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise Blocked(deleted_experiment(uri, found))
    return str(found.experiment_id)


def _dataset_input(card: dict[str, Any]) -> Any:
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
