"""What the answers of a Swift cluster say: headers, listings, bulk deletes. Pure; ValueError for nonsense.

Must never: ask anything, or believe more of an answer than was checked here.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import unquote

from cubefs.store.base import ObjectInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGE_OBJECT = ("x-static-large-object", "x-object-manifest")

Headers = Mapping[str, str]


class Head(NamedTuple):
    """What a HEAD says."""

    info: ObjectInfo
    etag: str


class Deleted(NamedTuple):
    """What became of a bulk delete."""

    gone_count: int  # deleted, or not there before
    errors: Sequence[tuple[str, int]]  # full name and HTTP status of those that are still there
    status: int  # of the whole


def is_manifest(headers: Headers) -> bool:
    """Tell whether an object is the list of the parts of a large one, which are what a GET returns."""
    return any(header in headers for header in _LARGE_OBJECT)


def size_bytes(headers: Headers) -> int:
    """Return Content-Length, which must be there."""
    size = int(headers.get("content-length", ""))
    if size < 0:
        raise ValueError("a negative length")
    return size


def etag(headers: Headers) -> str:
    """Return the ETag without the quotes that some clusters put around it, "" without one."""
    return headers.get("etag", "").strip('"')


def head(name: str, headers: Headers) -> Head:
    """Return size, time and ETag of the object `name`.

    The time is X-Timestamp: seconds since 1970 with a fraction, taken without a float's rounding.
    """
    seconds, _, fraction = headers.get("x-timestamp", "").partition(".")
    modified_ns = int(seconds) * 10**9 + int((fraction + "0" * 9)[:9])
    return Head(ObjectInfo(name, size_bytes(headers), modified_ns), etag(headers))


def date_ns(headers: Headers) -> int:
    """Return the Date of an answer (RFC 9110, 6.6.1) in ns since 1970."""
    return _since_1970_ns(email.utils.parsedate_to_datetime(headers.get("date", "")))


def page(entries: Any, *, marker: str) -> list[ObjectInfo]:
    """Return a page of a listing by full names, all behind `marker` and in order, or it would never end."""
    found: list[ObjectInfo] = []
    try:
        for entry in entries:
            name, modified = str(entry["name"]), datetime.fromisoformat(entry["last_modified"])
            if name <= marker:
                raise ValueError("a listing out of order")
            found.append(ObjectInfo(name, int(entry["bytes"]), _since_1970_ns(modified)))
            marker = name
    except (LookupError, TypeError) as error:
        raise ValueError("not a listing") from error
    return found


def bulk_max_count(capabilities: Any, *, most: int) -> int:
    """Return how many names a bulk delete may have, at most `most`; 0 where the cluster offers none."""
    offered = capabilities.get("bulk_delete") if isinstance(capabilities, dict) else None
    return min(most, int(offered.get("max_deletes_per_request", most))) if isinstance(offered, dict) else 0


def deleted(answer: Any) -> Deleted:
    """Understand the answer to a bulk delete: its HTTP status is 200 whatever happened."""
    try:
        errors = [(unquote(path).lstrip("/").partition("/")[2], _code(status)) for path, status in answer["Errors"]]
        gone_count = int(answer["Number Deleted"]) + int(answer["Number Not Found"])
        return Deleted(gone_count, errors, _code(answer["Response Status"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("not the answer to a bulk delete") from error


def _code(status: str) -> int:
    return int(status.split()[0])


def _since_1970_ns(moment: datetime) -> int:
    """Return ns since 1970; times without a zone are UTC in Swift."""
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1) * 1000
