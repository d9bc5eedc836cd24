"""A proxy before a server: wants a token, can be read-only, and loses answers to requests that were carried out."""

import http.server
import threading
import urllib.error
import urllib.request
from typing import Any


class Proxy:
    """Listens on localhost while its context is open.

    Attributes:
        is_read_only: whether everything but GET and searching is answered with 503.
        loses: ends of paths; the next request to each is forwarded, and its answer thrown away.
    """

    def __init__(self, server: str, token: str) -> None:
        self.is_read_only, self.loses = False, set[str]()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy._forward(self, server, token)

            do_POST = do_PATCH = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._listening.server_address[1]}"

    def __enter__(self) -> "Proxy":
        self._thread = threading.Thread(target=self._listening.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown()
        self._listening.server_close()
        self._thread.join()

    def _forward(self, request: http.server.BaseHTTPRequestHandler, server: str, token: str) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path = request.path.partition("?")[0]
        if request.headers.get("Authorization") != f"Bearer {token}":
            return self._answer(request, 401, b'{"error_code": "UNAUTHENTICATED", "message": "wrong token"}')
        if self.is_read_only and request.command != "GET" and not path.endswith("search"):
            return self._answer(request, 503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "read-only"}')
        sent = urllib.request.Request(server + request.path, body or None, method=request.command)
        sent.add_header("Content-Type", request.headers.get("Content-Type", "application/json"))
        try:
            with urllib.request.urlopen(sent, timeout=60) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        except OSError:
            status, content = 502, b"no server"
        lost = {end for end in self.loses if path.endswith(end) and status == 200}
        self.loses -= lost
        if not lost:
            return self._answer(request, status, content)
        request.close_connection = True
        return None

    @staticmethod
    def _answer(request: http.server.BaseHTTPRequestHandler, status: int, content: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
