"""What `cubefs status` says to a person about a store that fails."""

from __future__ import annotations

from typing import Any

import pytest

from cubefs.app import status

QUIET: dict[str, Any] = {
    "store_error": None,
    "store_error_since_ns": None,
    "writers_waiting_for_store": 0,
    "readers_waiting_for_store": 0,
    "not_checked": None,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        (
            {"store_error": "refused", "store_error_since_ns": 0},
            [("store trouble", "since 1970-01-01T00:00:00Z: refused")],
        ),
        ({"store_error": "busy"}, [("store trouble", "busy")]),  # being tried again, nothing has failed yet
        (
            {"writers_waiting_for_store": 2},
            [("writers wait", "the cache is full of data that the store has not taken yet")],
        ),
        ({"readers_waiting_for_store": 3}, [("readers wait", "3, for data that only the store has")]),
        ({"not_checked": "who wrote"}, [("not checked yet", "who wrote")]),
    ],
)
def test_trouble_is_told(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert status._trouble({**QUIET, **change}) == expected
