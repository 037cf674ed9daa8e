"""Owns the answers that the proxy gives by itself, in the manner of S3 or of Swift.

Pure. Must never: decide which answer is due.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

S3_CODES = {
    400: "BadRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    408: "RequestTimeout",
    409: "OperationAborted",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    502: "BadGateway",
    503: "SlowDown",
    504: "GatewayTimeout",
}
SIGNATURE = "fault-proxy"


def error_body(
    status: int, *, swift: bool, code: str | None = None, message: str | None = None
) -> tuple[str, bytes]:
    """Return content type and body of an error."""
    message = message or SIGNATURE
    if swift:
        text = f"<html><h1>{HTTPStatus(status).phrase}</h1><p>{message}</p></html>"
        return "text/html; charset=UTF-8", text.encode()
    code = code or S3_CODES.get(status, "Fault")
    text = (
        "<?xml version='1.0' encoding='UTF-8'?>\n"
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{SIGNATURE}</RequestId></Error>"
    )
    return "application/xml", text.encode()


def compose(status: int, fields: dict[str, str], body: bytes, *, bodiless: bool, close: bool) -> bytes:
    """Return a whole answer; `bodiless` is for HEAD, which is told the length only."""
    fields = {
        **fields,
        "Date": formatdate(usegmt=True),
        "x-amz-request-id": SIGNATURE,
        "X-Trans-Id": SIGNATURE,
        "Content-Length": str(len(body)),
    }
    if close:
        fields["Connection"] = "close"
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin1") + (b"" if bodiless else body)
