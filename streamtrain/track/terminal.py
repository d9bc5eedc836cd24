"""A run on the terminal: one live line, and plain lines that stay. Where there is no terminal, only the latter, and
the live line's facts now and then; in a notebook a bar with them."""

from __future__ import annotations

import contextlib
import html
import shutil
import sys
import time
from typing import Any, TextIO

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

    def live(self, *facts: str, part: float = 0.0) -> None:  # noqa: ARG002 - a line has no bar
        """Replaces the live line; where the stream is not a terminal, a line every half a minute.

        Args:
            part: of the whole that is done, from 0 to 1.
        """
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


class Notebook(Terminal):
    """The same in a notebook: a bar below the cell that moves, and lines that stay.

    Args:
        display: IPython's, which shows an object and returns a handle with ``update``.
    """

    def __init__(self, display: Any, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._display = display
        self._handle: Any = None

    def live(self, *facts: str, part: float = 0.0) -> None:
        """Moves the bar."""
        bar = Bar(f'<progress value="{part:.4f}"></progress> {html.escape(" · ".join(facts))}', " · ".join(facts))
        if self._handle is None:
            self._handle = self._display(bar, display_id=True)
        else:
            self._handle.update(bar)


class Bar:
    """What a notebook shows of a run's progress: HTML, or a text where it shows none."""

    def __init__(self, markup: str, text: str) -> None:
        self._markup = markup
        self._text = text

    def _repr_html_(self) -> str:
        return self._markup

    def __repr__(self) -> str:
        return self._text


def terminal_here(*, quiet: bool = False) -> Terminal:
    """Where this process tells of a run: its terminal, or the notebook whose kernel it is."""
    if not quiet and "ipykernel" in sys.modules and "IPython" in sys.modules:
        ipython = sys.modules["IPython"]
        shell = ipython.get_ipython()
        if shell is not None and "IPKernelApp" in shell.config:
            return Notebook(ipython.display.display)
    return Terminal(quiet=quiet)
