"""What a run of `chaos` stands on, and what fails of it: MLflow's server, the store of its data, its disk."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import Service, file_service, mlflow_service
from tests.support.small_disk import SmallDisk, small_disk

KINDS = {"mlflow": 1, "store": 1, "disk": 1}
"""How many of each come with ten victims among the processes."""
CACHE_BYTES = 900_000
"""Of shards, which all together are larger: each pass fetches some anew."""
LEAST_DISK, DISK_A_KILL = 64 << 20, 400_000
"""Bytes of the disk for the run's folder."""


@dataclass
class Services:
    """Running; ``folder`` has the small disk and the servers' files.

    Attributes:
        database: of MLflow's server.
        runs: on the small disk, for the run's folder.
    """

    folder: Path
    mlflow: Service
    store: Service
    disk: SmallDisk

    @property
    def database(self) -> Path:
        """SQLite's file."""
        return self.folder / "mlflow" / "server.db"

    @property
    def runs(self) -> Path:
        """A folder on the small disk."""
        return self.disk.folder / "runs"

    def fail(self, kind: str, chance: random.Random) -> None:
        """One of `KINDS` is away for up to two seconds and its start, or full for as long."""
        away = chance.uniform(0, 2)
        if kind == "disk":
            self.disk.fill()
            time.sleep(away)  # how long it is full, and not a wait for something
            self.disk.free()
            return
        service = self.mlflow if kind == "mlflow" else self.store
        service.kill()
        time.sleep(away)  # the same
        service.start(wait=False)  # MLflow's takes some seconds, in which the run goes on


@contextlib.contextmanager
def services(folder: Path, data: Path, kills: int) -> Iterator[Services]:
    """All of them; the store serves ``data``."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk", LEAST_DISK + kills * DISK_A_KILL))
        store, mlflow = file_service(data), mlflow_service(folder / "mlflow")
        for service in (store, mlflow):
            stack.callback(service.kill)  # also one that does not answer
            service.start()
        yield Services(folder, mlflow, store, disk)


@dataclass
class Recoveries:
    """How long it took until a run went on, by what had failed.

    Attributes:
        seconds: in order, by kind.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    _open: list[tuple[str, float, Callable[[], bool]]] = field(default_factory=list)

    def failed(self, kind: str, is_over: Callable[[], bool]) -> None:
        """Notes that something fails now, and how to tell that it is over; others may still be away."""
        self._open.append((kind, time.monotonic(), is_over))

    def look(self) -> None:
        """Notes what is over now."""
        for each in [each for each in self._open if each[2]()]:
            self._open.remove(each)
            self.seconds.setdefault(each[0], []).append(time.monotonic() - each[1])

    def table(self) -> str:
        """Rows in Markdown: kind, how many, median, nine of ten, longest."""
        rows = ["| failed | times | median, s | 9 of 10 within, s | longest, s |", "| --- | --- | --- | --- | --- |"]
        for kind, found in sorted(self.seconds.items()):
            each = sorted(found)
            shown = (each[len(each) // 2], each[min(len(each) - 1, len(each) * 9 // 10)], each[-1])
            rows.append(f"| {kind} | {len(each)} | " + " | ".join(f"{value:.1f}" for value in shown) + " |")
        return "\n".join(rows)
