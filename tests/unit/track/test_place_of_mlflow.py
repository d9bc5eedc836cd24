"""The database or folder that a tracking URI names, and a run that is refused where it cannot be written."""

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st_
from sqlalchemy.engine import make_url

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.track.mlflow.uri import database_of, place_of
from tests.support.datasets import pack_digits

NAMES = st_.text(st_.sampled_from("abz09/._-~ %?=&:@#ä"), max_size=20)


@given(driver=st_.sampled_from(["", "+pysqlite"]), host=st_.sampled_from(["", "h"]), name=NAMES)
def test_the_database_is_the_one_that_sqlalchemy_opens(driver: str, host: str, name: str) -> None:
    uri = f"sqlite{driver}://{host}/{name}"
    theirs = None
    with contextlib.suppress(ValueError):  # a question mark and what is no query
        theirs = make_url(uri).database
    alone = not theirs or theirs == ":memory:" or theirs.startswith("file:")
    assert database_of(uri) == (None if alone else Path(str(theirs)))


@pytest.mark.parametrize(
    "uri", ["http://h:5000", "databricks", "databricks://me", "uc", "postgresql://h/d", "sqlite://"]
)
def test_a_place_that_is_not_on_this_machine(uri: str) -> None:
    assert place_of(uri) is None


def test_places_on_this_machine() -> None:
    assert place_of("sqlite:///a/m.db") == Path.cwd() / "a" / "m.db"
    assert place_of("sqlite:////a/m.db?timeout=9") == Path("/a/m.db")
    assert place_of("file:///a/runs") == place_of("/a/runs") == Path("/a/runs")


@pytest.mark.parametrize("named", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_promise_10_a_database_that_cannot_be_is_refused_before_anything_starts(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_digits(tmp_path / "data")
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    chosen = st.Tracking(folder=str(tmp_path / "runs"), uri=uri if named == "tracking.uri" else None)
    if named == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv(named, uri)
    data = st.Data(str(tmp_path / "data"), transform=lambda batch: {**batch, "image": batch["image"].float()})
    job = st.Job(data, lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), tracking=chosen)
    with pytest.raises(ConfigError) as refused:
        st.train(job, inline=True, quiet=True)
    said = str(refused.value)
    assert said.startswith(f"{named}: expected to be able to write to {tmp_path / 'file' / 'mlflow.db'}, found ")
    assert said.endswith(f"set {named} to another place, or work in another folder") and "\n" not in said
    assert not (tmp_path / "runs").exists()
