"""A proxy in front of an HTTP or S3 server that spoils some answers, in an order that its seed decides.

Spoiled are requests for objects: at most `IN_A_ROW` times in a row for the same object and range, and an
object's bytes are flipped at most once; so that who tries again gets everything in the end. With
``always`` every answer is spoiled.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("reset", "unavailable", "stall", "short", "flip")
IN_A_ROW = 2


@dataclass
class Faults:
    """What to spoil, and what has been.

    Attributes:
        kinds: of `KINDS`.
        rate: part of the answers that are spoiled.
        only: spoil only objects whose path contains this.
        away: answers that are reset from now on, whatever they are to, before all are good again; takes precedence.
        sent: how many answers of each kind went out.
    """

    kinds: Sequence[str] = KINDS
    rate: float = 0.3
    seed: int = 0
    always: bool = False
    only: str = ".tar"
    away: int = 0
    sent: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()
        self._in_a_row: Counter[tuple[str, str]] = Counter()
        self._flipped: set[str] = set()

    def next(self, path: str, span: str) -> str | None:
        """The kind of fault for this answer."""
        with self._lock:
            if self.away:
                self.away -= 1
                self.sent["reset"] += 1
                return "reset"
            kind = self._random.choice(list(self.kinds))
            spoil = self._random.random() < self.rate and self._in_a_row[path, span] < IN_A_ROW
            if self.only not in path or not (self.always or (spoil and not (kind == "flip" and path in self._flipped))):
                self._in_a_row[path, span] = 0
                return None
            self._in_a_row[path, span] += 1
            if kind == "flip":
                self._flipped.add(path)
            self.sent[kind] += 1
            return kind


@contextlib.contextmanager
def proxy(upstream: str, faults: Faults) -> Iterator[str]:
    """The URL of a proxy in front of the server at ``upstream``."""
    closing = threading.Event()

    class Handler(_Handler):
        server_address, plan, closed = urlsplit(upstream).netloc, faults, closing

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that break off are expected here."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_address: str
    plan: Faults
    closed: threading.Event

    def do_GET(self) -> None:
        kind = self.plan.next(self.path, self.headers.get("Range", ""))
        if kind == "unavailable":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status, headers, body = self._forwarded()
        if kind == "flip" and body:
            body = bytearray(body)
            body[len(body) // 2] ^= 0x40
        if kind == "short":  # an answer that is well formed, and too little
            body = body[: len(body) // 2]
            headers["Content-Length"] = str(len(body))
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if kind not in ("reset", "stall"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True
        if kind == "stall":
            self.closed.wait()
        else:  # a reset, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    do_HEAD = do_PUT = do_GET  # noqa: N815 - as http.server calls them

    def _forwarded(self) -> tuple[int, dict[str, str], bytes | bytearray]:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.server_address)
        connection.request(self.command, self.path, sent, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        dropped = ("connection", "transfer-encoding", "keep-alive")
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
        headers.setdefault("Content-Length", str(len(body)))
        return answer.status, headers, body

    def log_message(self, *_: Any) -> None:
        """Nothing."""
