"""A small file out of a run's artifacts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from streamtrain.track.mlflow.model import quieten
from streamtrain.track.mlflow.uri import check_uri, database_of, default_uri


def fetch(run_id: str, artifact: str, uri: str | None) -> bytes | None:
    """The artifact's content; ``None`` where there is no such run or it has none."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    quieten()
    uri = check_uri(uri or default_uri())
    database = database_of(uri)
    if database is not None and not database.exists():  # MLflow would make one
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = MlflowClient(uri).download_artifacts(run_id, artifact, folder)
        except (MlflowException, OSError):
            return None
        return Path(place).read_bytes()
