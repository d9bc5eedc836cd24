"""`streamtrain sync`: what runs left in their journals goes to MLflow, in order, nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, TrackingError, complaint, one_line
from streamtrain.job import RUNS
from streamtrain.store import masked
from streamtrain.track.delivery import Blocked, Delivered, deliver_once, first_begin
from streamtrain.track.journal import FILE, REFUSED, Backlog
from streamtrain.track.mlflow.receiver import MlflowReceiver
from streamtrain.track.mlflow.uri import check_uri, default_uri


@dataclass(frozen=True)
class Synced:
    """What became of one folder. ``problem`` is empty where MLflow has everything."""

    folder: Path
    run_id: str | None
    delivered: int
    refused: int
    problem: str

    @property
    def line(self) -> str:
        """For people."""
        did = f"{self.delivered} entries delivered" if self.delivered else "nothing new to deliver"
        return f"{self.folder}: {did}" + (f"; {self.problem}" if self.problem else "")

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "mlflow_run_id": self.run_id,
            "delivered": self.delivered,
            "refused": self.refused,
            "problem": self.problem,
        }


def folders_with_journals(named: Sequence[Path]) -> list[Path]:
    """The folders named, or all below ``runs/``.

    Raises:
        ConfigError: a named one holds no journal.
    """
    for folder in named:
        if not (folder / FILE).is_file():
            do = "name runs' folders, as a run prints them"
            raise ConfigError(complaint(str(folder), expected=f"a run's folder with {FILE}", found="none", do=do))
    return list(named) or sorted(file.parent for file in Path(RUNS).glob(f"*/{FILE}"))


def sync(folder: Path, uri: str | None) -> Synced:
    """Delivers one folder's journal.

    Args:
        uri: where to; by default where the run was told to, or MLFLOW_TRACKING_URI where that is not known.
    """
    try:
        begin = first_begin(folder)
    except StopIteration:
        return Synced(folder, None, 0, 0, "")  # a run that was killed before its first word
    receiver = MlflowReceiver(check_uri(uri or _uri_of(begin)), begin.get("key", ""), folder)
    try:
        with Backlog(folder, wait=False) as backlog:
            count_before = backlog.count
            receiver.is_known = count_before > 0
            try:
                done = deliver_once(backlog, receiver)
                problem = ""
            except Blocked as error:
                done = Delivered(backlog.count - count_before, tuple(backlog.refused()))
                problem = f"MLflow takes nothing now: {masked(str(error))}; then sync again"
            except Exception as error:
                done = Delivered(backlog.count - count_before, tuple(backlog.refused()))
                problem = f"MLflow has not taken the rest ({masked(one_line(error))[:300]}); try again later"
    except BlockingIOError:
        return Synced(folder, None, 0, 0, "its run is still going on and delivers by itself")
    if done.refused and not problem:
        problem = f"MLflow refuses {len(done.refused)} ({done.refused[0]['because']}): see {folder / REFUSED}"
    return Synced(folder, receiver.run_id, done.entries, len(done.refused), problem)


def raise_for(done: Sequence[Synced]) -> None:
    """Nothing where MLflow has everything.

    Raises:
        TrackingError: with the number of folders of which it has not.
    """
    behind = [synced for synced in done if synced.problem]
    if behind:
        raise TrackingError(f"{len(behind)} of {len(done)} journals are not delivered whole: {behind[0].line}")


def _uri_of(begin: dict[str, Any]) -> str:
    """Where a run's numbers were to go; secrets are not in the journal, so a URI that has some comes from outside."""
    uri = begin.get("uri")
    return uri if uri is not None and "***" not in uri else default_uri()
