"""Ranges of objects by plain HTTP, straight from the socket into the memory that is handed on.

A client for everything reads an answer in small portions and joins them: two copies more, on one thread for all. Here
each request has a thread and a connection of its own, and reads into the memory that its bytes stay in. Checksums and
files are the caller's, beside it: all of these let go of the interpreter's lock.

What is not plain (another answer than the range: refused, redirected, the whole object; a certificate that this machine
does not know) goes to the store's own client, whose answer, or error, then counts. A request that is silent for long is
asked once more beside (J. Dean & L. A. Barroso, "The Tail at Scale", 2013), and the first whole answer is taken.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, wait
from urllib.parse import urlsplit

import numpy as np

from streamtrain.store.addresses import Address
from streamtrain.store.retry import PASSING_STATUSES, RetryPolicy

STEP = 1 << 18
"""Bytes that are read at once: what a socket holds, and progress is told by."""
KEPT = 15.0
"""Seconds that a connection is kept unused: firewalls on the way forget it after minutes, and then nothing answers."""
Otherwise = Callable[[str, int, int], bytes]
Bytes = bytes | memoryview


class StatusError(OSError):
    """The server answered with a status that passes by itself."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status


class Request(Future[Bytes]):
    """The bytes of a range, on their way.

    Attributes:
        moved: when the last of what has come so far did, in `time.monotonic`'s seconds; infinite where that is
            not told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved = time.monotonic()
        self.connection: http.client.HTTPConnection | None = None

    def cancel(self) -> bool:
        """Ends it, for all who wait for it; its thread does not wait any longer."""
        try:
            self.set_exception(CancelledError())  # `Future.cancel` does not wake who is in `wait`
        except InvalidStateError:
            return False
        connection = self.connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        return True


class Direct:
    """See the module. May be used from any number of threads.

    Args:
        address: an object's URL, which any HTTP client may ask for as it is, where there is one.
        otherwise: the store's own way to bytes ``[start, stop)`` of an object.
        policy: how long a request may take, and be silent.
    """

    def __init__(self, address: Address, otherwise: Otherwise, policy: RetryPolicy) -> None:
        self._address = address
        self._otherwise = otherwise
        self._policy = policy
        self._idle: list[tuple[float, str, http.client.HTTPConnection]] = []
        self._context: ssl.SSLContext | None = None

    def begin(self, name: str, start: int, stop: int) -> Request:
        """Asks for bytes ``[start, stop)`` of an object; fewer come where it ends before."""
        request = Request()
        # a daemon: a store that does not answer keeps no process from ending
        threading.Thread(target=self._run, args=(request, name, start, stop), name="range", daemon=True).start()
        return request

    def at_once(self, request: Request, name: str, span: tuple[int, int], again: Callable[[], Request]) -> Bytes:
        """The same, read by this thread, as threads cost most where few bytes come; silent ones are asked ``again``.

        Raises:
            As `result`.
        """
        try:
            data = self._read(request, name, *span, self._policy.quiet)
        except TimeoutError:
            return self.result(again(), again)
        finally:
            request.cancel()  # nobody waits for it
        return self._otherwise(name, *span) if data is None else data

    def result(self, first: Request, again: Callable[[], Request]) -> Bytes:
        """What a request brought; ``again`` begins the same one once more, where it is silent.

        Raises:
            TimeoutError: neither was answered in full in time. Otherwise what the last of them raised.
        """
        until = time.monotonic() + self._policy.stall
        asked = [first]
        is_alone = True
        try:
            while True:
                silent = first.moved + self._policy.quiet if is_alone else until
                wait(asked, max(min(silent, until) - time.monotonic(), 0), FIRST_COMPLETED)
                done = [request for request in asked if request.done()]
                good = [request for request in done if request.exception() is None]
                if good or len(done) == len(asked):
                    return (good or done)[0].result()
                if time.monotonic() >= until:
                    raise TimeoutError
                asked = [request for request in asked if request not in done]
                if is_alone and time.monotonic() - first.moved >= self._policy.quiet:
                    is_alone = False
                    asked.append(again())
        finally:
            for request in asked:
                request.cancel()  # does nothing to one that is done

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        while self._idle:
            self._idle.pop()[-1].close()

    def _run(self, request: Request, name: str, start: int, stop: int) -> None:
        try:
            found = self._read(request, name, start, stop, self._policy.stall)
            if found is None:
                request.moved = math.inf
                found = self._otherwise(name, start, stop)
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):  # cancelled
                request.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                request.set_result(found)

    def _read(self, request: Request, name: str, start: int, stop: int, patience: float) -> Bytes | None:
        """The bytes; ``None`` where the answer is another than them. ``patience``: seconds that a byte may take."""
        url = self._url(name)
        if url is None:
            return None
        try:
            server, connection, answer = self._ask(request, url, (start, stop), patience)
        except ssl.SSLCertVerificationError:  # the client may know more: botocore has a bundle, and takes the user's
            return None
        whole = False
        try:
            if answer.status in PASSING_STATUSES:
                raise StatusError(answer.status, answer.reason)
            if answer.status != http.client.PARTIAL_CONTENT or answer.length is None or answer.length > stop - start:
                return None
            data = memoryview(np.empty(answer.length, np.uint8).data)
            at = 0
            while at < len(data):
                count = answer.readinto(data[at : at + STEP])
                if not count:
                    raise http.client.IncompleteRead(b"", len(data) - at)
                at += count
                request.moved = time.monotonic()
            whole = not answer.will_close
            return data
        finally:
            answer.close()
            request.connection = None
            if whole:
                self._idle.append((time.monotonic(), server, connection))
            else:
                connection.close()

    def _url(self, name: str) -> str | None:
        try:
            return self._address(name)
        except Exception:  # who has no credentials is told so by the store's own client
            return None

    def _ask(
        self, request: Request, url: str, span: tuple[int, int], patience: float
    ) -> tuple[str, http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request; by another connection, where one that was kept has been closed meanwhile."""
        scheme, netloc, path, query, _ = urlsplit(url)
        server = f"{scheme}://{netloc}"
        target = (path or "/") + (f"?{query}" if query else "")
        headers = {
            "Range": f"bytes={span[0]}-{span[1] - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "streamtrain",
        }
        while True:
            connection, kept = self._connection(server)
            request.connection = connection
            connection.timeout = patience
            try:
                if connection.sock is not None:
                    connection.sock.settimeout(patience)
                connection.request("GET", target, headers=headers)
                return server, connection, connection.getresponse()
            except BaseException as error:
                connection.close()
                if not (kept and isinstance(error, ConnectionError)) or request.done():
                    raise

    def _connection(self, server: str) -> tuple[http.client.HTTPConnection, bool]:
        """A connection to a server, and whether it was used before."""
        while self._idle:
            try:
                since, of, connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if of == server and time.monotonic() - since < KEPT:
                return connection, True
            connection.close()
        scheme, _, netloc = server.partition("://")
        if scheme == "http":
            return http.client.HTTPConnection(netloc, timeout=self._policy.stall), False
        self._context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(netloc, timeout=self._policy.stall, context=self._context), False
