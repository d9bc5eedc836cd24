"""The database that a tracking URI names, and a run that is refused where it cannot be written."""

import contextlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st_
from sqlalchemy.engine import make_url

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.prepare.surroundings import check_database
from streamtrain.track.mlflow.uri import create_database, database_of
from tests.support.datasets import pack_digits

NAMES = st_.text(st_.sampled_from("abz09/._-~ %?=&:@#ä"), max_size=20)


@given(driver=st_.sampled_from(["", "+pysqlite"]), host=st_.sampled_from(["", "h"]), name=NAMES)
def test_the_database_is_the_one_that_sqlalchemy_opens(driver: str, host: str, name: str) -> None:
    uri = f"sqlite{driver}://{host}/{name}"
    theirs = None
    with contextlib.suppress(ValueError):  # a question mark and what is no query
        theirs = make_url(uri).database
    if "\0" not in (theirs or ""):
        alone = not theirs or theirs == ":memory:" or theirs.startswith("file:")
        assert database_of(uri) == (None if alone else Path(os.path.realpath(str(theirs))))


@pytest.mark.parametrize("uri", ["http://h:5000", "databricks", "postgresql://h/d", "sqlite://", "sqlite:///:memory:"])
def test_what_is_no_file_of_this_machine(uri: str) -> None:
    assert database_of(uri) is None


def test_a_database_is_made_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "disk" / "mlflow.db")
    create_database(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlflow.db").is_symlink()
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["mlflow.db"]


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
    assert said.endswith(f"set {named} to another place") and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_promise_10_places_that_sqlite_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, folder = tmp_path / "closed", tmp_path / "folder"
    closed.mkdir()
    folder.mkdir()
    (closed / "mlflow.db").touch()
    (tmp_path / "link.db").symlink_to(closed / "mlflow.db")

    def refused(place: Path) -> str:
        job = st.Job(st.Data("d"), torch.nn.Identity, tracking=st.Tracking(uri=f"sqlite:///{place}"))
        with pytest.raises(ConfigError) as error:
            check_database(job)
        return str(error.value)

    assert f"expected a database, found a folder, {folder}; set tracking.uri" in refused(folder)
    assert "found File name too long" in refused(folder / ("n" * 300))
    made = "streamtrain.prepare.surroundings.writable.tempfile.TemporaryDirectory"

    def nowhere(dir: Path, **_: object) -> None:  # its name there; root may write anywhere
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(made, nowhere)
    for place in (closed / "mlflow.db", tmp_path / "link.db"):
        assert f"tracking.uri: expected to be able to write to {closed}, found Permission denied" in refused(place)
