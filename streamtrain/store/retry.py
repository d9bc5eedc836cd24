"""Trying again: which errors pass by themselves, how long to wait, and how to say that it did not help.

A request is tried a bounded number of times. Before attempt ``n + 1`` it waits a time drawn uniformly
from ``[0, min(longest, first · 2ⁿ)]``: exponential backoff with full jitter (M. Brooker, "Exponential
Backoff and Jitter", AWS Architecture Blog, 2015), so that many workers do not come back together.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from streamtrain.errors import StoreError, StreamtrainError, complaint, one_line
from streamtrain.store.secrets import masked

Result = TypeVar("Result")

PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP: timeouts, conflicts, throttling, and trouble of the server's own."""

_LASTING = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES",
        "EDQUOT",
        "EEXIST",
        "EFBIG",
        "EINVAL",
        "EISDIR",
        "ENOENT",
        "ENOSPC",
        "ENOTDIR",
        "EPERM",
        "EROFS",
    )
)
"""Errors of the operating system, and of stores that speak in their numbers, that no waiting mends."""

_LASTING_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""The same, where fsspec raises them without a number."""

_PASSING = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError", "IncompleteRead"}
    | {"IncompleteReadError", "ProtocolError", "ResponseStreamingError", "SSLError", "TransportError"}
)
"""Base classes, by name since their packages are optional, of what clients raise when a connection breaks:
aiohttp, botocore, http.client, ssl (whose numbers are its own), urllib3, httpx."""


class WrongLengthError(OSError):
    """A request brought another number of bytes than it asked for."""


def temporary(error: BaseException) -> bool:
    """Whether the same request may go well a moment later."""
    status = _status(error)
    if status is not None:
        return status in PASSING_STATUSES
    if any(base.__name__ in _PASSING for base in type(error).__mro__):
        return True
    lasting = isinstance(error, _LASTING_ERRORS) or getattr(error, "errno", None) in _LASTING
    return isinstance(error, (OSError, EOFError)) and not lasting


@dataclass(frozen=True)
class RetryPolicy:
    """How patient to be; all times in seconds.

    Attributes:
        attempts: of one request, the first included.
        first: bound of the wait before the second attempt.
        longest: bound of any wait.
        stall: time in which one request of at most 16 MiB must be answered in full.
        quiet: time without a byte after which a range is asked for once more beside, where that can be told.
    """

    attempts: int = 8
    first: float = 0.2
    longest: float = 20.0
    stall: float = 60.0
    quiet: float = 3.0


class Retrier:
    """Carries out requests under a policy, from any number of threads, and counts what it tried again."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.retries = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._random = random.Random()  # noqa: S311 - spreads waits, keeps no secret; nothing else may depend on it

    def call(self, where: str, expected: str, attempt: Callable[[], Result]) -> Result:
        """What ``attempt`` returns, tried as the policy says.

        Args:
            where: object and offset, for the message; without secrets.
            expected: what it should have brought, for the message.

        Raises:
            StoreError: in one line without secrets; also when ``stop`` was called meanwhile.
        """
        number = 0
        while True:
            if self._stopped.is_set():
                raise StoreError(complaint(where, expected=expected, found="the store closed", do="open it again"))
            try:
                return attempt()
            except StreamtrainError:
                raise
            except Exception as error:
                number += 1
                if number == self.policy.attempts or not temporary(error):
                    raise self._gave_up(where, expected, error, number) from None
            self.count()
            self._stopped.wait(self._random.uniform(0, min(self.policy.longest, self.policy.first * 2 ** (number - 1))))

    def count(self) -> None:
        """Counts a request that is tried again."""
        with self._lock:
            self.retries += 1

    def stop(self) -> None:
        """Ends all waiting, and lets no request begin any more."""
        self._stopped.set()

    def _gave_up(self, where: str, expected: str, error: Exception, attempts: int) -> StoreError:
        found, do = _cause(error)
        times = f" after {attempts} attempts" if attempts > 1 else ""
        return StoreError(complaint(where, expected=expected, found=masked(found) + times, do=do))


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries: aiohttp's, huggingface_hub's or botocore's."""
    response = getattr(error, "response", None)
    inner = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for status in (getattr(error, "status", None), getattr(response, "status_code", None), inner):
        if isinstance(status, int):
            return status
    return None


def _cause(error: Exception) -> tuple[str, str]:
    """What was found, and what to do about it."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such object", "check data.url, or restore the object"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"no access ({one_line(error)})", "check the store's credentials in this environment"
    if status == 416:
        return "a shorter object", "restore it or pack again"
    if isinstance(error, TimeoutError):
        return "no answer in time", "see whether the store can be reached, then run again"
    if isinstance(error, WrongLengthError):
        return str(error), "restore the object, or see whether the store is well, then run again"
    return one_line(error), "see whether the store is well, then run again"
