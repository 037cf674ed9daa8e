"""Owns the syntax of HTTP/1.1 as far as a proxy needs it: heads, and where bodies end.

Pure: bytes in, facts out. Must never: touch a socket, change a byte.
"""

from __future__ import annotations

from typing import Protocol

LINE_MAX_BYTES = 65536

Span = tuple[int, int]


class BadMessageError(Exception):
    """This is not HTTP/1.1."""


class TruncatedError(Exception):
    """The sender, `client` or `server`, stopped in the middle of a message."""

    def __init__(self, side: str) -> None:
        super().__init__(side)
        self.side = side


class Body(Protocol):
    """The body of one message while it passes. `length` is None where it is not announced."""

    length: int | None
    is_done: bool
    ends_with_connection: bool

    def want(self, most: int) -> int:
        """Return how many bytes to read at most: nothing of the next message."""
        ...

    def feed(self, data: bytes | memoryview) -> tuple[int, list[Span]]:
        """Take bytes. Return how many of them belong to the body, and where in them its content is."""
        ...


class FixedBody:
    """A body of announced length."""

    ends_with_connection = False

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self._left = length
        self.is_done = length == 0

    def want(self, most: int) -> int:
        """Return no more than is left of the body."""
        return min(self._left, most)

    def feed(self, data: bytes | memoryview) -> tuple[int, list[Span]]:
        """Take bytes; all of them are content."""
        used = min(len(data), self._left)
        self._left -= used
        self.is_done = self._left == 0
        return used, [(0, used)]


class OpenBody:
    """A body that ends with the connection."""

    ends_with_connection = True

    def __init__(self) -> None:
        self.length: int | None = None
        self.is_done = False

    def want(self, most: int) -> int:
        """Return `most`."""
        return most

    def feed(self, data: bytes | memoryview) -> tuple[int, list[Span]]:
        """Take bytes; all of them are content."""
        return len(data), [(0, len(data))]


class ChunkedBody:
    """A chunked body (RFC 9112, 7.1), with extensions and trailers; the aws-chunked framing of S3 fits too."""

    ends_with_connection = False

    def __init__(self) -> None:
        self.length: int | None = None
        self.is_done = False
        self._expected = "size"  # or data, its line end, trailer
        self._left = 0
        self._line = b""

    def want(self, most: int) -> int:
        """Return `most`: where the body ends is only known when it is seen."""
        return most

    def feed(self, data: bytes | memoryview) -> tuple[int, list[Span]]:
        """Take bytes, find the content between the lines."""
        place, stop = 0, len(data)
        spans: list[Span] = []
        while place < stop and not self.is_done:
            if self._expected == "data":
                taken = min(self._left, stop - place)
                spans.append((place, place + taken))
                place += taken
                self._left -= taken
                if not self._left:
                    self._expected = "line end"
            else:
                place = self._take_line(data, place)
        return place, spans

    def _take_line(self, data: bytes | memoryview, place: int) -> int:
        part = bytes(data[place : place + LINE_MAX_BYTES])
        found = part.find(b"\n")
        if found < 0:
            self._line += part
            if len(self._line) > LINE_MAX_BYTES:
                raise BadMessageError("endless line in a chunked body")
            return place + len(part)
        line = (self._line + part[:found]).rstrip(b"\r")
        self._line = b""
        if self._expected == "line end":
            self._expected = "size"
        elif self._expected == "size":
            self._left = _chunk_size(line)
            self._expected = "data" if self._left else "trailer"
        elif not line:  # the empty line behind the trailers
            self.is_done = True
        return place + found + 1


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.split(b";")[0], 16)
    except ValueError:
        raise BadMessageError(f"bad size of a chunk: {line[:40]!r}") from None


class Head:
    """The start line and the fields of a message. Names are lower case, repeated fields joined by a comma."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
        self.start = lines[0].split(b" ", 2)
        if len(self.start) < 2:
            raise BadMessageError(f"bad first line: {lines[0][:80]!r}")
        self.fields: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon:
                raise BadMessageError(f"bad field: {line[:80]!r}")
            name = name.lower()
            value = value.strip()
            self.fields[name] = self.fields[name] + b"," + value if name in self.fields else value

    def announced_body(self) -> Body | None:
        """Return the body that the fields announce, None where they say nothing."""
        if b"chunked" in self.fields.get(b"transfer-encoding", b"").lower():
            return ChunkedBody()
        length = self.fields.get(b"content-length")
        if length is None:
            return None
        if not length.isdigit():
            raise BadMessageError(f"bad Content-Length: {length[:40]!r}")
        return FixedBody(int(length))

    def wants_close(self, version: bytes) -> bool:
        """Tell whether the sender is through with the connection after this message."""
        value = self.fields.get(b"connection", b"").lower()
        return b"close" in value or (version == b"HTTP/1.0" and b"keep-alive" not in value)

    def status(self) -> int:
        """Return the status of an answer."""
        if not self.start[1].isdigit():
            raise BadMessageError(f"bad status: {self.start[1][:40]!r}")
        return int(self.start[1])

    def with_field(self, name: bytes, value: bytes) -> Head:
        """Return the same head with another value in a field, which is added where it is missing."""
        lines = self.raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].lower() != name.lower()]
        return Head(b"\r\n".join([*kept, name + b": " + value, b"", b""]))
