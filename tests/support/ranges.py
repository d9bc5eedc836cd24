"""A web server of one object, in this process: answers ranges, and can be told to do so badly."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class RangeServer:
    """What it serves and how.

    Attributes:
        data: the object.
        asked: who asked and for which range, in order.
        peers: addresses of the connections that asked.
        before: called with the number of the request; whether it answers afterwards, or closes the connection.
        closes: closes the connection after every answer, without saying so.
        status: of its answers.
        headers: that its answers have beside the usual ones.
    """

    data: bytes
    asked: list[tuple[str, str]] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)
    before: Callable[[int], bool] = lambda _: True
    closes: bool = False
    status: int = 206
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""


@contextlib.contextmanager
def serving(plan: RangeServer) -> Iterator[RangeServer]:
    """The server, while this lasts; its ``url`` is the object's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            number = len(plan.asked)
            plan.peers.add(self.client_address)
            plan.asked.append((self.headers["User-Agent"].split("/")[0], self.headers["Range"]))
            if not plan.before(number):
                self.close_connection = True
                return
            first, last = (int(word) for word in self.headers["Range"].removeprefix("bytes=").split("-"))
            body = plan.data[first : last + 1] if plan.status == 206 else b""
            self.send_response(plan.status)
            for name, value in {"Content-Length": str(len(body)), **plan.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = plan.closes

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that break off are expected here."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    plan.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield plan
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
