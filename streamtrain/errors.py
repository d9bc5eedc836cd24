"""Every error that streamtrain raises on purpose, as one tree.

    StreamtrainError
    ├── ConfigError        a setting, a flag or a job's declaration        exit 2
    │   └── JobError       the user's own code: job file, model, loss
    ├── DataError          what lies on disk                               exit 3
    │   ├── SourceError    raw data on its way into `pack`
    │   │   └── BadExample one example of it, while others may be good
    │   ├── ManifestError  the card of a data set
    │   ├── ShardError     one tar, one example in it
    │   └── StoreError     a store that does not answer, or gives other bytes than it should
    ├── TrainingError      what happens in a run                           exit 4
    │   ├── NonFiniteError a loss or gradient is NaN or infinite
    │   └── WorkerLost     a worker process died or stopped answering
    ├── Interrupted        asked to stop, with a checkpoint written              exit 6
    └── TrackingError      what MLflow does not take                       exit 5

A message is one line: what, expected, found, what to do. All are built from that one string, so
they survive pickling between processes unless a class says otherwise.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from typing import ClassVar

COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""An escape sequence of a terminal (ECMA-48, CSI)."""


class StreamtrainError(Exception):
    """Base of all. ``exit_code`` is what the command line returns for it."""

    exit_code: ClassVar[int] = 1


class ConfigError(StreamtrainError):
    """A setting is wrong: refused before anything starts."""

    exit_code = 2


class JobError(ConfigError):
    """The job file, its model, loss or transform fails."""


class DataError(StreamtrainError):
    """What was read from disk is not what it must be."""

    exit_code = 3


class SourceError(DataError):
    """Raw data that `pack` cannot take."""


class BadExample(SourceError):
    """One example of a source cannot be taken; others may be good.

    Args:
        where: which one, e.g. its file and field.
        expected: what it should be.
        found: what it is.
    """

    def __init__(self, where: str, expected: str, found: str) -> None:
        self.where = where
        self.expected = expected
        self.found = found
        super().__init__(complaint(where, expected=expected, found=found, do="repair or remove it"))

    def __reduce__(self) -> tuple[type[BadExample], tuple[str, str, str]]:
        return type(self), (self.where, self.expected, self.found)


class ManifestError(DataError):
    """A data set's manifest is missing, newer, damaged or does not fit its shards."""


class ShardError(DataError):
    """A shard or an example in it is damaged or not in the accepted layout."""


class StoreError(DataError):
    """A store does not answer, refuses, or gives other bytes than the manifest says."""


class TrainingError(StreamtrainError):
    """A run that started and could not go on."""

    exit_code = 4


class NonFiniteError(TrainingError):
    """Loss or gradient became NaN or infinite; raised before the update, so the parameters are still good.

    Args:
        step: the global step, from 0, whose update was refused.
        learning_rate: the rate that the refused update would have used.
        gradient_norm: the norm found, NaN or infinite, or finite where only the loss is not.
        loss: the minibatch's mean loss.
        saved: file with the parameters of the last good step, where they were saved.
    """

    def __init__(self, step: int, learning_rate: float, gradient_norm: float, loss: float, saved: str = "") -> None:
        self.values = (step, learning_rate, gradient_norm, loss)
        kept = f"; parameters of the last good step are in {saved}" if saved else ""
        super().__init__(
            f"step {step}: expected a finite loss and gradient, found loss {loss:g} and gradient norm "
            f"{gradient_norm:g} at learning rate {learning_rate:g}; lower optimizer.lr, set clip.norm or look at the "
            f"data{kept}"
        )

    def with_parameters_in(self, file: str) -> NonFiniteError:
        """The same error, saying where the last good parameters are."""
        return NonFiniteError(*self.values, saved=file)

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[int, float, float, float]]:
        return type(self), self.values


class MiscomputedError(TrainingError):
    """Two processes computed other bits for the same lane of a step, which was not made.

    Args:
        step, lane: of the run.
        found: checksum of what the lane's worker computed.
        expected: checksum of what its auditor computed.
    """

    def __init__(self, step: int, lane: int, found: str, expected: str) -> None:
        self.step = step
        self.lane = lane
        self.found = found
        self.expected = expected
        super().__init__(f"step {step}, lane {lane}: expected checksum {expected[:12]}, found {found[:12]}")

    def __reduce__(self) -> tuple[type[MiscomputedError], tuple[int, int, str, str]]:
        return type(self), (self.step, self.lane, self.found, self.expected)


class WorkerLost(TrainingError):
    """A worker died or stopped answering while others waited for it."""


class Interrupted(StreamtrainError):
    """The run was asked to stop (SIGTERM); `--resume` goes on from the checkpoint that it has written."""

    exit_code = 6


class TrackingError(StreamtrainError):
    """MLflow has not taken what `streamtrain sync` has for it; the journal keeps it."""

    exit_code = 5


def complaint(where: str, *, expected: str, found: str, do: str) -> str:
    """One line in the form that every message has, whatever the names in it hold."""
    line = COLOUR.sub("", f"{where}: expected {expected}, found {found}; {do}")
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class users_code:  # noqa: N801  # used like `contextlib.suppress`; a class, since every step enters it some times
    """Turns whatever the user's own code raises inside into one line that says where it was raised.

    Raises:
        JobError: with ``what`` failed, the exception, and the innermost line of the traceback.
    """

    __slots__ = ("_do", "_what")

    def __init__(self, what: str, do: str = "repair the job") -> None:
        self._what = what
        self._do = do

    def __enter__(self) -> None:
        """Nothing is set up."""

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, StreamtrainError) or not isinstance(error, Exception):
            return
        frames = [frame for frame in traceback.extract_tb(trace) if "site-packages" not in frame.filename]
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
        raise JobError(f"{self._what} failed: {one_line(error)}{place}; {self._do}") from error


def one_line(error: BaseException) -> str:
    """An exception's type and message, on one line, without the colours that Ray and others write into theirs."""
    return flat(f"{type(error).__name__}: {error}")


def flat(text: str) -> str:
    """A text on one line, without colours."""
    return " ".join(COLOUR.sub("", text).split())
