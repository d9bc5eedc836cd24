"""Delivery of a journal: entry after entry, in order, each until the server has it or says that it never will.

Trouble (no answer, busy, read-only, not allowed yet) is waited out; a refusal of what was sent is set aside
with its reason, so that it holds up nothing behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamtrain.errors import one_line
from streamtrain.store import masked
from streamtrain.track.journal import FILE, Backlog, Entry, entries_of

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
TRIES = 4
"""Attempts of `deliver_once` before it takes a server for unreachable."""


class Refused(Exception):
    """The server will never take what it was sent."""


class Receiver(Protocol):
    """One run at a server."""

    def take(self, entries: Sequence[Entry]) -> None:
        """Takes entries that follow each other; a second time changes nothing.

        Raises:
            Refused: what was sent, whenever it is sent again.
            Exception: anything else is trouble, which may pass.
        """


class Delivery:
    """Delivers a folder's journal while it is written; `follow` is for a thread of its own.

    Attributes:
        done: set when everything is delivered and no more will be written.
        trouble: what the last failed attempt said.
    """

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self._folder, self._receiver = folder, receiver
        self._news, self._closed = threading.Event(), threading.Event()
        self.done = threading.Event()
        self.trouble = ""

    def notice(self) -> None:
        """Something was written."""
        self._news.set()

    def close(self) -> None:
        """Nothing more will be written."""
        self._closed.set()
        self._news.set()

    def follow(self) -> None:
        """Delivers until `close`, however long the server takes."""
        with Backlog(self._folder, wait=True) as backlog:
            while True:
                closed = self._closed.is_set()  # before looking: what was written before it is seen below
                entries = backlog.read()
                if entries:
                    self._deliver(backlog, entries)
                elif closed:
                    break
                else:
                    self._news.wait()
                    self._news.clear()
        self.done.set()

    def _deliver(self, backlog: Backlog, entries: Sequence[Entry]) -> None:
        """Again where it could not be noted on a full disk: nothing doubles at the server."""
        while True:
            try:
                return deliver(backlog, entries, self._insist)
            except OSError as error:
                self.trouble = one_line(error)
                time.sleep(LONGEST_PAUSE)

    def _insist(self, entries: Sequence[Entry]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                return self._receiver.take(entries)
            except Refused:
                raise
            except Exception as error:
                self.trouble = masked(one_line(error))[:300]
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True)
class Delivered:
    """What `deliver_once` did: entries that the server took, and those that it refuses."""

    entries: int
    refused: tuple[Entry, ...]


def deliver_once(backlog: Backlog, receiver: Receiver) -> Delivered:
    """Delivers what a journal holds, and offers what was refused before once more.

    Raises:
        Exception: the server's trouble, after some attempts; what went before stays delivered.
    """

    def attempt(entries: Sequence[Entry]) -> None:
        for tried in range(1, TRIES):
            try:
                return receiver.take(entries)
            except Refused:
                raise
            except Exception:
                time.sleep(FIRST_PAUSE * 2**tried)
        return receiver.take(entries)

    before = backlog.refused()
    count = 0
    while entries := backlog.read():
        count += len(entries)
        deliver(backlog, entries, attempt)
    now = backlog.refused()[len(before) :]
    again = [refused for entry in before for refused in _refused_of([entry], attempt)]
    backlog.set_aside([*again, *now])
    return Delivered(count + len(before) - len(again) - len(now), (*again, *now))


def deliver(backlog: Backlog, entries: Sequence[Entry], attempt: Callable[[Sequence[Entry]], None]) -> None:
    """Delivers one batch, sets aside what of it is refused, and notes that it is done with."""
    refused = list(_refused_of(entries, attempt))
    if refused:
        backlog.set_aside([*backlog.refused(), *refused])
    backlog.mark_delivered(len(entries))


def _refused_of(entries: Sequence[Entry], attempt: Callable[[Sequence[Entry]], None]) -> Iterator[Entry]:
    """Offers the entries; where they are refused, their halves, down to the single one (or reading) that is."""
    try:
        attempt(entries)
    except Refused as refusal:
        halves = _halves(entries)
        if not halves:
            yield {**entries[0], "because": str(refusal)}
        for half in halves:
            yield from _refused_of(half, attempt)


def _halves(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    if len(entries) > 1:
        return [entries[: len(entries) // 2], entries[len(entries) // 2 :]]
    readings = entries[0].get("readings", ())
    if len(readings) < 2:
        return []
    middle = len(readings) // 2
    return [[{**entries[0], "readings": part}] for part in (readings[:middle], readings[middle:])]


def first_begin(folder: Path) -> Entry:
    """The entry that began a folder's journal."""
    return next(entries_of(folder / FILE))
