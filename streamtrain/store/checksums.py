"""Checksums of what is being written: SHA-256 of all of it, and CRC-32 of every piece.

They cost as much as the writing does. So a thread computes them, while the caller makes and writes what follows: both
algorithms let go of the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

BEHIND = 4 << 20
"""Bytes that wait before the thread is given them; less than that is summed up by the caller."""
GIVEN = 2
"""Such portions that the thread may have at once."""


class Checksums:
    """Sums up contents in their order.

    Args:
        piece: bytes that a CRC-32 is kept of.
    """

    def __init__(self, piece: int) -> None:
        self._piece = piece
        self._hash = hashlib.sha256()
        self._sums: list[int] = []
        self._summed = piece
        self._waiting: list[bytes | memoryview] = []
        self._bytes = 0
        self._given: deque[Future[None]] = deque()
        self._thread: ThreadPoolExecutor | None = None

    def add(self, content: bytes | memoryview) -> None:
        """The next bytes, which nobody changes afterwards."""
        self._waiting.append(content)
        self._bytes += len(content)
        if self._bytes >= BEHIND:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checksums")
            if len(self._given) == GIVEN:
                self._given.popleft().result()
            self._given.append(self._thread.submit(self._sum_up, self._waiting))
            self._waiting, self._bytes = [], 0

    def finish(self) -> tuple[str, list[int]]:
        """SHA-256 in hexadecimal digits, and the CRC-32 of each piece."""
        self.discard()
        self._sum_up(self._waiting)
        self._waiting = []
        return self._hash.hexdigest(), self._sums

    def discard(self) -> None:
        """Waits for the thread and ends it; harmless a second time."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        while self._given:
            self._given.popleft().result()

    def _sum_up(self, contents: list[bytes | memoryview]) -> None:
        for content in contents:
            self._hash.update(content)
            rest = memoryview(content)
            while rest:
                if self._summed == self._piece:
                    self._sums.append(0)
                    self._summed = 0
                piece = rest[: self._piece - self._summed]
                self._sums[-1] = zlib.crc32(piece, self._sums[-1])
                self._summed += len(piece)
                rest = rest[len(piece) :]
