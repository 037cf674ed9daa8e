"""What an HTTP answer that is no success means: the one place that decides it, for all drivers.

Must never: know a library or a provider; drivers that know more (an error code in the body) decide that first.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from datetime import UTC

from cubefs.errors import (
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

RETRY_AFTER_MAX_S = 600.0  # a store that asks for more is asked again all the same

_BUSY = frozenset({429, 503})
_DENIED = frozenset({401, 403, 407})
_FULL = frozenset({413, 507})  # 413 is how Swift says that a quota is used up
# 408 and the gateways' errors pass; 409: two conditional puts at once (S3); 422: damaged on the way (Swift);
# 499: a body did not arrive whole (Swift, nginx); 52x: proxies of big networks
_PASSING = frozenset({408, 409, 422, 499, 500, 502, 504}) | frozenset(range(520, 531))


def error_for(status: int, *, what: str, retry_after_s: float | None = None) -> StoreError:
    """Return the error for an HTTP status that the driver has no special meaning for.

    what: the rest of the line, with the object and the store: "meta/1 in s3://...: SlowDown (503)".
    """
    if status in _BUSY:
        return StoreBusyError(f"the store is busy: {what}", retry_after_s=retry_after_s)
    if status in _DENIED:
        return StoreDeniedError(f"the store refuses us: {what}")
    if status in _FULL:
        return StoreFullError(f"no room: {what}")
    if status in _PASSING:
        return StoreUnavailableError(f"the store has trouble: {what}", retry_after_s=retry_after_s)
    return StoreError(f"unexpected answer of the store: {what}")


def parse_retry_after(value: str | None, *, now_s: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), None without a usable one."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        until_s = parse_date(text)
        if until_s is None:
            return None
        seconds = until_s - now_s()
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)


def parse_date(value: str | None) -> float | None:
    """Return the seconds since 1970 that a Date header tells (RFC 9110, 5.6.7), None without a usable one."""
    if value is None:
        return None
    try:
        date = email.utils.parsedate_to_datetime(value)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
