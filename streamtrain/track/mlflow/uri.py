"""Which MLflow: the tracking URI, its default, and the local database that it may name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from streamtrain.errors import ConfigError, complaint
from streamtrain.store import masked

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks", "uc", "")
DATABASE = re.compile(r"sqlite(\+\w+)?://[^/?]*/(?P<file>[^?]*)")
"""As SQLAlchemy reads it, which takes a while to import."""


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


def database_of(uri: str) -> Path | None:
    """The file of the SQLite database that a URI names, links followed; ``None`` where it names anything else."""
    found = DATABASE.match(uri)
    name = unquote(found["file"]) if found else ""
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(os.path.realpath(name))


def create_database(uri: str) -> None:
    """Makes the SQLite database that a URI names, with all of MLflow's tables, where there is none.

    MLflow itself makes the tables one by one in the file, and never opens again a database whose maker was killed on
    the way. Here the file gets its name once it is whole; of several processes that come for it, one makes it.

    Raises:
        OSError, sqlalchemy.exc.SQLAlchemyError: it cannot be made there.
    """
    file = database_of(uri)
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f"{file.name}.lock")
    with lock.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        if not file.exists():
            _create(file)
        with contextlib.suppress(FileNotFoundError):  # who waits for it, or comes later, finds the database
            lock.unlink()


def _create(file: Path) -> None:
    from mlflow.store.db import utils

    partial = file.with_name(f"{file.name}.partial")
    for killed in (partial, partial.with_name(f"{partial.name}-journal")):
        killed.unlink(missing_ok=True)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{partial}")  # type: ignore[no-untyped-call]  # MLflow types it not
    try:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()
    if file.exists():  # somebody else's: MLflow takes no lock of ours
        partial.unlink()
    else:
        partial.rename(file)
