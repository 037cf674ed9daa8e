"""Owns a small HTTP server with known behaviour: objects by path in memory, for the tests of the proxy.

The query tells how to answer: `?chunked`, `?open` (the body ends with the connection), `?reject` (403 before
the body is read). Must never: stand in for a real store in tests of cubefs.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK_BYTES = 10_007  # fits into nothing


class PlainStore(ThreadingHTTPServer):
    """The server; `objects` is what it holds."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.objects: dict[str, bytes] = {}
        self.hosts: set[str] = set()  # what clients think they talk to
        self.truncated: list[tuple[str, int, int]] = []  # path, bytes received, bytes announced
        self.rejected = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that is gone is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: PlainStore

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    @property
    def name(self) -> str:
        """The path without the query."""
        return self.path.partition("?")[0]

    def find_body(self) -> bytes | None:
        """Return the request's body, None where it is cut."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return data
        size = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(size)
        if len(data) == size:
            return data
        self.close_connection = True
        self.server.truncated.append((self.name, len(data), size))
        return None

    def reply(self, status: int, body: bytes = b"", **fields: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_expect_100(self) -> bool:
        """Say that the body is welcome, or answer at once."""
        if "reject" in self.path:
            self.server.rejected += 1
            self.reply(403, b"no")
        else:
            super().handle_expect_100()
        self.wfile.flush()
        return "reject" not in self.path

    def do_PUT(self) -> None:
        if "reject" in self.path:
            self.close_connection = True
            self.reply(403, b"no", Connection="close")
            return
        body = self.find_body()
        if body is not None:
            self.server.objects[self.name] = body
            self.server.hosts.add(self.headers["Host"])
            self.reply(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_GET(self) -> None:
        body = self.server.objects.get(self.name)
        if body is None:
            self.reply(404, b"nope")
        elif "chunked" in self.path:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), CHUNK_BYTES):
                part = body[start : start + CHUNK_BYTES]
                self.wfile.write(b"%x;extension=1\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\nX-Trailer: 1\r\n\r\n")
        elif "open" in self.path:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        else:
            self.reply(200, body)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.name, None)
        self.send_response(204)
        self.end_headers()


@contextmanager
def plain_store() -> Iterator[PlainStore]:
    """Run a server in a thread."""
    store = PlainStore()
    thread = threading.Thread(target=lambda: store.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
        thread.join()
