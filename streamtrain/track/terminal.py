"""A run on the terminal: one live line, and plain lines that stay. Where there is no terminal, only the latter, and
the live line's facts now and then."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TextIO

FIRST_SECONDS, EVERY_SECONDS = 10.0, 30.0
"""Until the live line's facts are first written where there is no terminal, and from then to the next time."""


class Terminal:
    """Writes to ``stream`` (standard error by default); ``quiet`` writes nothing at all."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._lives = not quiet and self._stream.isatty()
        self._shown = False
        self._due = 0.0 if quiet else time.monotonic() + FIRST_SECONDS

    def live(self, *facts: str) -> None:
        """Replaces the live line; where the stream is not a terminal, a line every half a minute."""
        if not (self._lives or self._quiet) and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_SECONDS
            self.line(" · ".join(facts))
        if self._lives:
            width = shutil.get_terminal_size().columns - 1
            self._write("\r\x1b[2K" + " · ".join(facts)[:width])
            self._shown = True

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self.clear()
            self._write(text + "\n")

    def clear(self) -> None:
        """Takes the live line away."""
        if self._shown:
            self._write("\r\x1b[2K")
            self._shown = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone, or a file on a full disk, ends no run
            self._stream.write(text)
            self._stream.flush()
