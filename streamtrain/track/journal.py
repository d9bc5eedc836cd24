"""The disk journal: every number on disk before anybody tries to deliver it, in order (promise 8).

``journal.jsonl`` in the run's folder holds one entry a line; ``delivered`` beside it holds how many of
them the server has. An entry may be delivered again after a crash between the two writes: MLflow keeps
one of two equal points (key, step, time, value), so a doubled delivery adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from streamtrain.store import write_whole

FILE = "journal.jsonl"
DELIVERED = "delivered"

Kind = Literal["begin", "readings", "artifact", "model", "finish"]
Entry = dict[str, Any]
"""``kind`` and what belongs to it, in JSON's types."""


class Journal:
    """Appends entries for one writer; ``folder`` exists."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._delivered = folder / DELIVERED
        self._opened = self.file.open("a", encoding="utf-8")

    def append(self, kind: Kind, **content: Any) -> Entry:
        """Writes one entry through to the operating system, and returns it."""
        entry = {"kind": kind, **content}
        self._opened.write(json.dumps(entry) + "\n")
        self._opened.flush()
        return entry

    def mark_delivered(self, entries: int) -> None:
        """Notes that the first ``entries`` are with the server."""
        write_whole(self._delivered, b"%d\n" % entries)

    def delivered(self) -> int:
        """How many entries are with the server."""
        return int(self._delivered.read_text()) if self._delivered.exists() else 0

    def close(self) -> None:
        """No more entries."""
        self._opened.close()


def entries_of(file: Path) -> Iterator[Entry]:
    """All whole entries of a journal; a last line that a crash cut short is left out."""
    with file.open(encoding="utf-8") as opened:
        for line in opened:
            if not line.endswith("\n"):
                return
            entry: Entry = json.loads(line)
            yield entry
