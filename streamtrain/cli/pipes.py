"""Standard output and error into pipes whose reader leaves early, as that of ``streamtrain inspect … | head`` does.

What is printed from then on goes nowhere, and the command does the rest of its work: its exit code is that of its work,
and a run does not end because nobody reads what it says.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TextIO, TypeGuard


class UntilClosed(io.TextIOWrapper):
    """A stream that takes text for as long as anybody reads it, and then drops it.

    It wraps the text and not the bytes' writing: a Ctrl-C in a write of ours, once the bytes are out and before their
    buffer knows, would have them written again.

    Attributes:
        is_closed: whether it has dropped some.
    """

    is_closed = False

    def write(self, text: str, /) -> int:
        """How many characters were taken or dropped."""
        try:
            taken = super().write(text)
            if self.write_through:  # what it writes through to is a buffer of ours
                super().flush()
            return taken
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Hands on what is buffered."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """What is still buffered, and all that comes, goes where nobody reads."""
        self.is_closed = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


def survive_closed_pipes() -> None:
    """Standard output and error of this process, where they are pipes, outlive their readers."""
    if sys.stdout is sys.__stdout__ and _is_pipe(sys.stdout):
        sys.stdout = _outliving(sys.stdout)
    if sys.stderr is sys.__stderr__ and _is_pipe(sys.stderr):
        sys.stderr = _outliving(sys.stderr)


def nobody_reads(stream: TextIO) -> bool:
    """Whether the reader of a stream is known to have left."""
    return isinstance(stream, UntilClosed) and stream.is_closed


def _is_pipe(stream: TextIO | None) -> TypeGuard[TextIO]:
    if stream is None:  # closed by who started this process
        return False
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _outliving(stream: TextIO) -> UntilClosed:
    stream.flush()
    raw = io.FileIO(stream.fileno(), "w", closefd=False)
    by_line, at_once = (bool(getattr(stream, name, False)) for name in ("line_buffering", "write_through"))
    return UntilClosed(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=by_line,
        write_through=at_once,  # python -u, PYTHONUNBUFFERED
    )
