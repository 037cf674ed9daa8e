"""What HTTP answers mean, and the times in their headers."""

from __future__ import annotations

import pytest

from cubefs.errors import (
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from cubefs.store.answers import RETRY_AFTER_MAX_S, error_for, parse_date, parse_retry_after

NOON_S = 1_732_104_000.0  # Wed, 20 Nov 2024 12:00:00 GMT


@pytest.mark.parametrize(
    ("kind", "is_retryable", "statuses"),
    [
        (StoreBusyError, True, [429, 503]),
        (StoreUnavailableError, True, [408, 409, 422, 499, 500, 502, 504, 520, 522, 525, 530]),
        (StoreDeniedError, False, [401, 403, 407]),
        (StoreFullError, True, [413, 507]),
        (StoreError, False, [0, 200, 204, 301, 307, 400, 404, 405, 410, 412, 416, 418, 501, 505, 531, 999]),
    ],
)
def test_each_status_has_its_class(kind: type[StoreError], is_retryable: bool, statuses: list[int]) -> None:
    for status in statuses:
        error = error_for(status, what="a in s3://b: this and that", retry_after_s=7.0)
        assert (type(error), error.retryable) == (kind, is_retryable)
        assert "a in s3://b: this and that" in str(error)
        if isinstance(error, StoreUnavailableError):
            assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("Wed, 99 Nov 2024 12:00:00 GMT", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("100000", RETRY_AFTER_MAX_S),
        ("9" * 5000, RETRY_AFTER_MAX_S),
        ("Wed, 20 Nov 2024 12:00:30 GMT", 30.0),
        ("Wed, 20 Nov 2024 11:00:00 GMT", 0.0),
        ("Thu, 20 Nov 2025 12:00:00 GMT", RETRY_AFTER_MAX_S),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now_s=lambda: NOON_S) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Wed, 20 Nov 2024 12:00:00 GMT", NOON_S),
        ("Wed, 20 Nov 2024 12:00:00 -0000", NOON_S),  # no zone is said: UTC
        ("Wednesday, 20-Nov-24 12:00:00 GMT", NOON_S),  # obsolete, but RFC 9110 wants it understood
        ("Wed, 20 Nov 2024 14:00:00 +0200", NOON_S),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(value: str | None, seconds: float | None) -> None:
    assert parse_date(value) == seconds
