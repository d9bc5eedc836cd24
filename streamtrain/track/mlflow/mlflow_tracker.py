"""A `Tracker` that journals every call and delivers the journal to MLflow from one background thread."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamtrain.errors import one_line
from streamtrain.store import masked
from streamtrain.track.delivery import Delivery
from streamtrain.track.journal import REFUSED, Journal, Kind, entries_of
from streamtrain.track.mlflow.model import save_model
from streamtrain.track.mlflow.receiver import MlflowReceiver
from streamtrain.track.mlflow.uri import check_uri
from streamtrain.track.tracker import ModelCard, RunCard, Status
from streamtrain.values import Reading

FLUSH_SECONDS, KILLED_FLUSH_SECONDS = 30.0, 5.0
START_SECONDS = 10.0
"""Until when delivery waits for the first points: loading MLflow takes a core, which the starting workers need."""
LOADING: tuple[Kind, ...] = ("readings", "finish")
"""Kinds of entries that it does not wait before: what a run is made of is journaled before there are workers."""


class MlflowTracker:
    """See the module and `Tracker`.

    Args:
        uri: of the tracking store or server.
        flush_seconds: how long ``finish`` waits for what is not delivered yet; less after Ctrl-C, and where waiting is
            no use.
        say: takes a line when MLflow takes nothing, or refuses something.
    """

    def __init__(
        self, uri: str, flush_seconds: float = FLUSH_SECONDS, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._uri = check_uri(uri)
        self._flush_seconds = flush_seconds
        self._say = say
        self._receiver = MlflowReceiver(self._uri)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; ``None`` until the server has answered."""
        return self._receiver.run_id

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """Opens the journal, and a thread that delivers it; asks the server for nothing."""
        self._folder = folder
        self._journal = Journal(folder)
        self._last_steps: dict[str, int] = self._journal.last_steps()
        self._receiver.key = self._journal.key
        self._receiver.folder = folder
        who = f"MLflow at {masked(self._uri)}"
        self._delivery = Delivery(folder, self._receiver, lambda line: self._say(f"{who} {line}"))
        self._begun = threading.Event()
        self._put(
            "begin",
            key=self._journal.key,
            run_id=run_id,
            resumed=self._journal.resumed or run_id is not None,
            uri=self._uri,
            card=dataclasses.asdict(card),
            time=time.time(),
        )
        self._thread = threading.Thread(target=self._deliver, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, readings: Sequence[Reading]) -> None:
        """Journals the points; returns when they are on disk."""
        new = [reading for reading in readings if reading.step > self._last_steps.get(reading.name, -1)]
        self._last_steps |= {reading.name: reading.step for reading in new}
        if new:
            self._put("readings", readings=[dataclasses.astuple(reading) for reading in new])

    def artifact(self, file: Path, place: str) -> None:
        """Journals that the file is to be delivered."""
        self._put("artifact", file=str(file.relative_to(self._folder)), place=place)

    def tag(self, name: str, value: str) -> None:
        """Journals a tag."""
        self._put("tags", tags={name: value})

    def describe(self, markdown: str) -> None:
        """Journals the run's description."""
        self.tag("mlflow.note.content", markdown)

    def model(self, card: ModelCard) -> None:
        """Saves the model in the run's folder, to be delivered from there."""
        save_model(card, self._folder / "model")
        self._put("model", folder="model", step=card.step)
        if card.register is not None:
            self._put("register", name=card.register)

    def finish(self, status: Status, note: str) -> str | None:
        """Closes the journal; waits a bounded time for its delivery, and says what is left."""
        self._put("finish", status=status, note=note, time=time.time())
        words = []
        try:
            self._journal.close()
        except OSError as error:
            words.append(f"will miss the last {len(self._journal.waiting):,} bytes of the journal ({one_line(error)})")
        self._delivery.close()
        all_taken = self._delivery.done.wait(min(self._flush_seconds, KILLED_FLUSH_SECONDS))
        if not all_taken and status != "killed" and not self._delivery.is_blocked:
            all_taken = self._delivery.done.wait(max(0.0, self._flush_seconds - KILLED_FLUSH_SECONDS))
        self._delivery.give_up()
        refused = self._folder / REFUSED
        if refused.exists() and (entries := list(entries_of(refused))):
            words.append(
                f"refused {len(entries)} of its entries ({entries[0]['because']}): "
                f"streamtrain sync {self._folder} offers them again, out of {refused}"
            )
        if not all_taken:
            trouble = self._delivery.trouble or "still busy"
            lost = "" if words else "nothing is lost, "
            words.append(
                f"has not taken everything ({trouble}): {lost}the rest is in {self._journal.file}; "
                f"deliver it with streamtrain sync {self._folder}"
            )
        return f"MLflow at {masked(self._uri)} " + ", and ".join(words) if words else None

    def _deliver(self) -> None:
        self._begun.wait(START_SECONDS)
        self._delivery.follow()

    def _put(self, kind: Kind, **content: object) -> None:
        """Writes one entry; texts without the secrets in them, since the disk and MLflow's users see them."""
        self._journal.append(kind, **(content if kind == "readings" else _without_secrets(content)))
        self._delivery.notice()
        if kind in LOADING:
            self._begun.set()


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(each) for each in value]
    return masked(value) if isinstance(value, str) else value
