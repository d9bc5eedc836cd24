"""Delivery of a journal: entry after entry, in order, each until the server has it or says that it never will.

Trouble (no answer, busy, read-only, not allowed yet) is waited out; a refusal of what was sent is set aside
with its reason, so that it holds up nothing behind it. Both are told while the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamtrain.errors import one_line
from streamtrain.store import masked
from streamtrain.track.journal import FILE, REFUSED, Backlog, Entry, entries_of

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
TELL_SECONDS = 3.0
"""Trouble that is over sooner is not told."""
TRIES = 4
"""Attempts of `deliver_once` before it takes a server for unreachable."""


class Refused(Exception):
    """The server will never take what it was sent."""


class GivenUp(Exception):
    """Nobody waits for the delivery any more; the journal is left to `streamtrain sync`."""


class Blocked(Exception):
    """The server takes nothing for the run until somebody changes something there; the message says what."""


class Receiver(Protocol):
    """One run at a server."""

    def take(self, entries: Sequence[Entry]) -> None:
        """Takes entries that follow each other; a second time changes nothing.

        Raises:
            Refused: what was sent, whenever it is sent again.
            Blocked: all that is sent for this run.
            Exception: anything else is trouble, which may pass.
        """


class Delivery:
    """Delivers a folder's journal while it is written; `follow` is for a thread of its own.

    Args:
        say: takes a line when the server is in trouble, and when it refuses something.

    Attributes:
        done: set when everything is delivered, no more will be written, and the journal is free.
        trouble: what the last failed attempt said.
        is_blocked: whether it said that trying again is no use for now.
    """

    def __init__(self, folder: Path, receiver: Receiver, say: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._receiver = receiver
        self._say = say
        self._news = threading.Event()
        self._closed = threading.Event()
        self._given_up = threading.Event()
        self._told: set[str] = set()
        self.done = threading.Event()
        self.trouble = ""
        self.is_blocked = False

    def notice(self) -> None:
        """Something was written."""
        self._news.set()

    def close(self) -> None:
        """Nothing more will be written."""
        self._closed.set()
        self._news.set()

    def give_up(self) -> None:
        """Ends with what is under way, and leaves the rest; so that others may deliver it."""
        self._given_up.set()

    def follow(self) -> None:
        """Delivers until `close`, however long the server takes; at the end, offers once more what it set aside."""
        try:
            with Backlog(self._folder, wait=True) as backlog:
                self._follow(backlog)
        except GivenUp:
            return
        self.done.set()  # only now: whoever waits for it may sync at once, and finds the journal free

    def _follow(self, backlog: Backlog) -> None:
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
        with contextlib.suppress(OSError):  # a disk that is full: what was set aside stays so
            offer_again(backlog, self._insist, [each for each in backlog.refused() if each["kind"] != "readings"])

    def _deliver(self, backlog: Backlog, entries: Sequence[Entry]) -> None:
        """Again where it could not be noted on a full disk: nothing doubles at the server."""
        while True:
            try:
                self._tell_refused(deliver(backlog, entries, self._insist))
            except OSError as error:
                self.trouble = one_line(error)
                self._pause(LONGEST_PAUSE)
            else:
                return

    def _insist(self, entries: Sequence[Entry]) -> None:
        pause = FIRST_PAUSE
        began = time.monotonic()
        while True:
            try:
                self._receiver.take(entries)
            except Refused:
                raise
            except Exception as error:
                self.is_blocked = isinstance(error, Blocked)
                self.trouble = masked(str(error) if self.is_blocked else one_line(error))[:500]
                if self.is_blocked or time.monotonic() - began > TELL_SECONDS:
                    self._tell(f"takes nothing now ({self.trouble}); training goes on, and what it measures is kept")
                self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self.is_blocked = False
                return

    def _pause(self, seconds: float) -> None:
        if self._given_up.wait(seconds):
            raise GivenUp

    def _tell_refused(self, refused: Sequence[Entry]) -> None:
        for entry in refused:
            readings = [reading[0] for reading in entry.get("readings", ())]
            which = (readings or [entry[name] for name in ("file", "folder", "name") if name in entry] or [""])[0]
            what = f"{'metric' if readings else entry['kind']} {which}".rstrip()
            again = f"`streamtrain sync {self._folder}` offers it again"
            self._tell(f"refuses the {what} ({entry['because']}); it is in {self._folder / REFUSED}: {again}")

    def _tell(self, line: str) -> None:
        """Once, however often it happens."""
        if line not in self._told:
            self._told.add(line)
            self._say(line)


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
            except (Refused, Blocked):
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
    again = offer_again(backlog, attempt, before)
    return Delivered(count + len(before) - len(again) - len(now), (*again, *now))


def deliver(backlog: Backlog, entries: Sequence[Entry], attempt: Callable[[Sequence[Entry]], None]) -> list[Entry]:
    """Delivers one batch, sets aside what of it is refused, and notes that it is done with; what was refused."""
    refused = list(_refused_of(entries, attempt))
    if refused:
        backlog.set_aside([*backlog.refused(), *refused])
    backlog.mark_delivered(len(entries))
    return refused


def offer_again(backlog: Backlog, attempt: Callable[[Sequence[Entry]], None], entries: Sequence[Entry]) -> list[Entry]:
    """Offers entries that were set aside once more; those that are refused again, which stay there."""
    again = [refused for entry in entries for refused in _refused_of([entry], attempt)]
    offered = {json.dumps(entry) for entry in entries}
    backlog.set_aside([*again, *(entry for entry in backlog.refused() if json.dumps(entry) not in offered)])
    return again


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
