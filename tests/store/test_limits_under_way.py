"""Limits that come while a body is under way: every driver heeds them within it, not from the next call on."""

from __future__ import annotations

import os

import pytest

from cubefs.model import MIB
from cubefs.store import local
from cubefs.store.pace import Unpaced
from tests.support.store_drivers import DRIVERS, Driver


@pytest.fixture(scope="module", params=[name for name in DRIVERS if name != "memory"])
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param](request)


class Late(Unpaced):
    """A pace that begins to limit when it is asked for the third time, and writes down what it is told then."""

    def __init__(self) -> None:
        self.asked_count = 0
        self.told_bytes = 0

    def is_limited_up(self) -> bool:
        self.asked_count += 1
        return self.asked_count > 2

    is_limited_down = is_limited_up

    def sending(self, byte_count: int) -> None:
        self.told_bytes += byte_count

    received = sending


@pytest.mark.parametrize("verb", ["put", "put_new", "get", "get_range"])
def test_a_limit_is_heeded_from_the_next_part_on(
    driver: Driver, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "FREE_PART_BYTES", MIB)
    pace, data, url = Late(), os.urandom(4 * MIB), driver.new_url()
    store, other = driver.open(url, pace=pace), driver.open(url)
    if verb in ("put", "put_new"):
        getattr(store, verb)("a", data)
        assert other.get("a") == data
    else:
        other.put("a", data)
        assert data == (store.get("a") if verb == "get" else store.get_range("a", start=0, length=len(data)))
    assert MIB <= pace.told_bytes < len(data)
