"""The disk journal: every number on disk before anybody tries to deliver it, in order (promise 8).

``journal.jsonl`` in the run's folder holds one entry a line, ``delivered`` beside it how many of them the
server has, ``refused.jsonl`` those that it will never take as they are. An entry may be sent again after a
crash between delivery and note: MLflow keeps one of two equal points (key, step, time, value), and what is
created is looked for by its key first, so nothing doubles.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from streamtrain.store import remove_partials, write_whole

FILE, DELIVERED, REFUSED = "journal.jsonl", "delivered", "refused.jsonl"
BATCH = 1000
"""Readings that are delivered at once."""

Kind = Literal["begin", "readings", "artifact", "tags", "model", "register", "finish"]
Entry = dict[str, Any]
"""``kind`` and what belongs to it, in JSON's types."""


class Journal:
    """Appends entries for one writer; ``folder`` exists.

    Attributes:
        file: the journal.
        key: names the run, the same in everything that was ever written to this folder.
        resumed: whether an earlier process began this journal.
        waiting: bytes that the disk has not taken yet; they wait in memory, and are tried again with every entry.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        first = next(entries_of(self.file), None) if self.file.exists() else None
        self.resumed = first is not None
        self.key = str(first["key"]) if first is not None and "key" in first else uuid.uuid4().hex
        self.waiting = bytearray()
        self._opened = self.file.open("ab", buffering=0)
        self._opened.truncate(_whole_bytes(self.file))  # what a crash cut short was never seen by anybody

    def append(self, kind: Kind, **content: Any) -> None:
        """Writes one entry through to the operating system; later, where the disk is full."""
        self.waiting += json.dumps({"kind": kind, **content}).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._write_out()

    def _write_out(self) -> None:
        while self.waiting:  # a full disk may take a part
            del self.waiting[: self._opened.write(self.waiting)]

    def last_steps(self) -> dict[str, int]:
        """The last step of every curve in the journal: a run that goes on from before makes those points again."""
        readings = (reading for entry in entries_of(self.file) for reading in entry.get("readings", ()))
        return {name: step for name, _, step, _ in readings}

    def close(self) -> None:
        """No more entries.

        Raises:
            OSError: what waits was not written.
        """
        try:
            self._write_out()
        finally:
            self._opened.close()


class Backlog:
    """What of a folder's journal is not with the server yet. Use it as a context: one process at a time has it.

    Args:
        wait: for another holder to let go.

    Attributes:
        count: entries that are done with.

    Raises:
        BlockingIOError: on entering, where another holds it and ``wait`` is false.
    """

    def __init__(self, folder: Path, *, wait: bool) -> None:
        self.folder = folder
        self._wait = wait
        self.count = 0
        self._delivered = folder / DELIVERED
        self._ahead: Entry | None = None

    def __enter__(self) -> Backlog:
        self._opened = (self.folder / FILE).open("rb")
        try:
            fcntl.flock(self._opened, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except OSError:
            self._opened.close()
            raise
        remove_partials(self.folder, DELIVERED, REFUSED)
        self.count = int(self._delivered.read_text()) if self._delivered.exists() else 0
        for _ in range(self.count):
            self._opened.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self) -> list[Entry]:
        """The next entry, and with readings those behind it, up to a batch; empty where nothing whole is there."""
        entries: list[Entry] = []
        readings = 0
        while readings < BATCH and (entry := self._next()) is not None:
            if entries and entry["kind"] != "readings":
                self._ahead = entry
                break
            entries.append(entry)
            if entry["kind"] != "readings":
                break
            readings += len(entry["readings"])
        return entries

    def mark_delivered(self, entries: int) -> None:
        """Notes that so many more entries are done with."""
        write_whole(self._delivered, b"%d\n" % (self.count + entries))
        self.count += entries

    def refused(self) -> list[Entry]:
        """What the server would not take, each with its reason under ``because``."""
        file = self.folder / REFUSED
        return list(entries_of(file)) if file.exists() else []

    def set_aside(self, refused: list[Entry]) -> None:
        """Replaces what `refused` gives."""
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in refused)
        if lines:
            write_whole(self.folder / REFUSED, lines)
        else:
            (self.folder / REFUSED).unlink(missing_ok=True)

    def _next(self) -> Entry | None:
        entry = self._ahead
        self._ahead = None
        if entry is None:
            start = self._opened.tell()
            line = self._opened.readline()
            if not line.endswith(b"\n"):  # still being written
                self._opened.seek(start)
                return None
            entry = json.loads(line)
        return entry


def entries_of(file: Path) -> Iterator[Entry]:
    """All whole entries of a journal; a last line that a crash cut short is left out."""
    with file.open("rb") as opened:
        for line in opened:
            if not line.endswith(b"\n"):
                return
            entry: Entry = json.loads(line)
            yield entry


def _whole_bytes(file: Path) -> int:
    """Bytes up to the last whole line's end."""
    with file.open("rb") as opened:
        return sum(len(line) for line in opened if line.endswith(b"\n"))
