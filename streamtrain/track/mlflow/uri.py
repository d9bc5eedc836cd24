"""Which MLflow: the tracking URI, its default, and what of it may be written down."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from streamtrain.errors import ConfigError, complaint

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
        raise ConfigError(complaint("tracking.uri", expected=expected, found=uri, do="set it or MLFLOW_TRACKING_URI"))
    return uri


def without_password(uri: str) -> str:
    """The URI for eyes and disks: a password in it becomes ``***``."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()
