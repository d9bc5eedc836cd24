"""Which MLflow: the tracking URI and its default."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from streamtrain.errors import ConfigError, complaint
from streamtrain.store import masked

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks", "uc", "")


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
        raise ConfigError(
            complaint("tracking.uri", expected=expected, found=masked(uri), do="set it or MLFLOW_TRACKING_URI")
        )
    return uri
