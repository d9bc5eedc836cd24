"""Batches from a streamer's process to a worker's on another host, by TCP: to the worker the same as a `ring`.

The streamer listens at its host's address and sends to the first who has the stream's token. On either side batches
wait in a queue, between the thread that decodes or trains and the one that sends or receives. Nothing is parsed: a
batch is a line of integers, the sizes of its arrays among them, then their bytes. They travel as they are, unencrypted.
"""

from __future__ import annotations

import contextlib
import hmac
import queue
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import WorkerLost
from streamtrain.stream.ahead.ring import RingShape
from streamtrain.values import Arrays, Loading

TOKEN_BYTES = 32
HANDSHAKE_SECONDS = 5.0
"""Within which who connects shows the token."""
LOOK_SECONDS = 0.1
PROBES = 4
"""Signs of life that a host may fail to give; the worker asks for them within the seconds that it may be silent."""


@dataclass(frozen=True)
class WireHandle:
    """Names a stream to a process of another host."""

    address: str
    port: int
    token: bytes
    shape: RingShape


class WireWriter:
    """The streamer's end.

    Args:
        address: of this host, at which the worker's reaches it.
    """

    def __init__(self, shape: RingShape, address: str) -> None:
        self._shape = shape
        self._listener = socket.create_server((address, 0))
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._batches: queue.Queue[list[NDArray[np.uint8]] | None] = queue.Queue(shape.depth)
        self._loading = Loading()
        self.handle = WireHandle(address, self._listener.getsockname()[1], secrets.token_bytes(TOKEN_BYTES), shape)
        self._thread = threading.Thread(target=self._send, name="sender", daemon=True)
        self._thread.start()

    def put(self, arrays: Arrays, stopped: Callable[[], bool]) -> bool:
        """Waits until one batch less is on its way; ``False`` if ``stopped()`` came true first."""
        batch = self._bytes_of(arrays)
        while not stopped():
            with contextlib.suppress(queue.Full):
                self._batches.put(batch, timeout=LOOK_SECONDS)
                return True
        return False

    def note(self, loading: Loading) -> None:
        """What reading has cost so far goes with the next batch."""
        self._loading = loading

    def fail(self) -> None:
        """No more will come: the reader raises once it has taken what is there."""
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._batches.put(None, timeout=LOOK_SECONDS)
                return

    def close(self) -> None:
        """Ends the connection, whatever is on its way."""
        with self._lock:
            self._closed = True
            for each in (self._listener, self._connection):
                if each is not None:
                    with contextlib.suppress(OSError):  # the worker's host is gone
                        each.shutdown(socket.SHUT_RDWR)  # wakes who waits in it, as closing does not
        with contextlib.suppress(queue.Full):  # full: it does not wait for a batch
            self._batches.put_nowait(None)
        self._thread.join()

    def _bytes_of(self, arrays: Arrays) -> list[NDArray[np.uint8]]:
        """What is sent, in this order."""
        parts = [np.array([*astuple(self._loading)[1:], *self._shape.sizes_of(arrays)], np.int64)]
        for name, (dtype, _) in self._shape.fields.items() if arrays else ():
            parts.append(np.ascontiguousarray(arrays[name], dtype))
        return [part.reshape(-1).view(np.uint8) for part in parts]

    def _send(self) -> None:
        # an OSError: the worker is gone, or this end was closed
        with contextlib.suppress(OSError), self._listener, self._accepted() as connection:
            for batch in iter(self._batches.get, None):
                for part in batch:
                    connection.sendall(part.data)

    def _accepted(self) -> socket.socket:
        """The worker's connection.

        Raises:
            OSError: closed before.
        """
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(HANDSHAKE_SECONDS)
            token = np.zeros(TOKEN_BYTES, np.uint8)
            with contextlib.suppress(OSError):
                _receive(connection, token)
            with self._lock:
                if hmac.compare_digest(token.tobytes(), self.handle.token) and not self._closed:
                    connection.settimeout(None)
                    self._connection = connection
                    return connection
            connection.close()


class WireReader:
    """The worker's end.

    Args:
        lost_after: seconds without a heartbeat from the streamer's host after which it is lost.

    Raises:
        WorkerLost: the streamer cannot be reached.
    """

    def __init__(self, handle: WireHandle, lost_after: float) -> None:
        self._shape = handle.shape
        try:
            self._connection = socket.create_connection((handle.address, handle.port), timeout=lost_after)
            self._connection.sendall(handle.token)
        except OSError as error:
            raise WorkerLost(f"the streamer at {handle.address} cannot be reached: {error}") from None
        self._connection.settimeout(None)
        _ask_for_life(self._connection, lost_after)
        self._batches: queue.Queue[Arrays | None] = queue.Queue(handle.shape.depth)
        self.loading = Loading()
        self._thread = threading.Thread(target=self._fill, name="receiver", daemon=True)
        self._thread.start()

    def get(self) -> Arrays:
        """The next batch, as arrays of its own; no arrays where all its examples were skipped.

        Raises:
            WorkerLost: the streamer failed or died, or its host.
        """
        arrays = self._batches.get()
        if arrays is None:
            self._batches.put(None)  # for who asks again
            raise WorkerLost("the streamer failed or died before its next batch")
        return arrays

    @property
    def ahead(self) -> int:
        """Batches that are there and not taken."""
        return self._batches.qsize()

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._batches.get(timeout=LOOK_SECONDS)  # the thread may wait for a place

    def _fill(self) -> None:
        # a size that is none, or for which there is no memory, is not a streamer's
        with self._connection, contextlib.suppress(OSError, ValueError, MemoryError):
            while True:
                self._batches.put(self._received())
        self._batches.put(None)

    def _received(self) -> Arrays:
        counts = len(fields(Loading)) - 1
        line = np.empty(counts + len(self._shape.sizes), np.int64)
        _receive(self._connection, line)
        self.loading = Loading(0.0, *map(int, line[:counts]))
        arrays: Arrays = {}
        for name, dtype, shape in self._shape.forms(line[counts:].tolist()):
            if not 0 <= shape[0] <= self._shape.examples:
                raise ConnectionError(f"a batch of {shape[0]} examples")
            arrays[name] = np.empty(shape, dtype)
            _receive(self._connection, arrays[name])
        return arrays if line[counts] else {}


def _receive(connection: socket.socket, array: NDArray[np.generic]) -> None:
    """Fills an array's bytes.

    Raises:
        OSError: the other end was closed, or is lost.
    """
    left = array.reshape(-1).view(np.uint8).data
    while left:
        received = connection.recv_into(left)
        if not received:
            raise ConnectionError("closed by the other end")
        left = left[received:]


def _ask_for_life(connection: socket.socket, seconds: float) -> None:
    """Has the kernel end a connection whose other host is silent for so long; a slow process's kernel is not."""
    every = max(1, round(seconds / PROBES))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES - 1)
