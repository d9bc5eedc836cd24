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


class UntilClosed(io.FileIO):
    """A file descriptor that takes bytes for as long as anybody reads them, and then drops them.

    Attributes:
        is_closed: whether it has dropped some.
    """

    is_closed = False

    def write(self, data: object, /) -> int:
        """How many bytes were taken or dropped."""
        if self.is_closed:
            return memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            self.is_closed = True
            return memoryview(data).nbytes  # type: ignore[arg-type]


def survive_closed_pipes() -> None:
    """Standard output and error of this process, where they are pipes, outlive their readers."""
    if sys.stdout is sys.__stdout__ and _is_pipe(sys.stdout):
        sys.stdout = _outliving(sys.stdout)
    if sys.stderr is sys.__stderr__ and _is_pipe(sys.stderr):
        sys.stderr = _outliving(sys.stderr)


def nobody_reads(stream: TextIO) -> bool:
    """Whether the reader of a stream is known to have left."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(raw, UntilClosed) and raw.is_closed


def _is_pipe(stream: TextIO | None) -> TypeGuard[TextIO]:
    if stream is None:  # closed by who started this process
        return False
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _outliving(stream: TextIO) -> io.TextIOWrapper:
    stream.flush()
    raw = UntilClosed(stream.fileno(), "w", closefd=False)
    by_line = bool(getattr(stream, "line_buffering", False))
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=by_line
    )
