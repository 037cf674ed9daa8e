"""The retry policy: what is tried again, how often, after what waits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from cubefs.store import open_store
from cubefs.store.answers import RETRY_AFTER_MAX_S
from cubefs.store.base import ObjectInfo
from cubefs.store.meter import Meter
from cubefs.store.retry import Backoff, Retrying, sleep_in_all
from tests.support.faulty_store import FaultyStore


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStore:
    return FaultyStore(open_store(f"local://{tmp_path}/store", create=True))


class Waits(list[float]):
    """Records the waits instead of waiting."""


def retrying(faulty: FaultyStore, waits: Waits, *, attempts: int = 4, seed: int = 1) -> Retrying:
    return Retrying(
        faulty,
        attempts=attempts,
        first_delay_s=1.0,
        longest_delay_s=3.0,
        sleep=waits.append,
        rng=random.Random(seed),
    )


def call(store: Retrying, verb: str) -> object:
    calls = {
        "put": lambda: store.put("b", b"2"),
        "put_new": lambda: store.put_new("c", b"3"),
        "get": lambda: store.get("a"),
        "get_range": lambda: store.get_range("a", start=0, length=1),
        "head": lambda: store.head("a").size_bytes,
        "delete": lambda: store.delete("a"),
        "list": lambda: [info.name for info in store.list("")],
    }
    return calls[verb]()


ANSWERS = {"put": None, "put_new": None, "get": b"1", "get_range": b"1", "head": 1, "delete": None, "list": ["a"]}


@pytest.mark.parametrize("verb", sorted(ANSWERS))
@pytest.mark.parametrize("error", [StoreUnavailableError("busy"), StoreFullError("full")])
def test_what_may_pass_is_tried_again(faulty: FaultyStore, verb: str, error: StoreError) -> None:
    faulty.inner.put("a", b"1")
    faulty.fail(verb, error, times=3)
    waits = Waits()
    store = retrying(faulty, waits)
    if verb == "list":  # the failures come behind the first object, hence at the end of this listing
        faulty.inner.put("b", b"")
        assert call(store, verb) == ["a", "b"]
    else:
        assert call(store, verb) == ANSWERS[verb]
        assert faulty.calls[verb] == 4
        assert len(waits) == 3


@pytest.mark.parametrize("verb", sorted(set(ANSWERS) - {"list"}))
def test_the_last_attempts_error_is_raised(faulty: FaultyStore, verb: str) -> None:
    faulty.inner.put("a", b"1")
    for number in range(4):
        faulty.fail(verb, StoreUnavailableError(f"failure {number}"))
    waits = Waits()
    with pytest.raises(StoreUnavailableError, match="failure 3"):
        call(retrying(faulty, waits), verb)
    assert (faulty.calls[verb], len(waits)) == (4, 3)


@pytest.mark.parametrize(
    "error", [StoreDeniedError("x"), ObjectMissingError("x"), ObjectExistsError("x"), StoreError("x"), OSError("x")]
)
def test_what_will_not_pass_is_raised_at_once(faulty: FaultyStore, error: Exception) -> None:
    faulty.fail("get", error)
    waits = Waits()
    with pytest.raises(type(error)):
        retrying(faulty, waits).get("a")
    assert (faulty.calls["get"], waits) == (1, [])


def test_waits_grow_are_bounded_and_jittered(faulty: FaultyStore) -> None:
    recorded = []
    for seed in range(200):
        faulty.fail("get", StoreUnavailableError("busy"), times=5)
        waits = Waits()
        with pytest.raises(StoreUnavailableError):
            retrying(faulty, waits, attempts=5, seed=seed).get("a")
        recorded.append(tuple(waits))
    for column, bound_s in zip(zip(*recorded, strict=True), (1.0, 2.0, 3.0, 3.0), strict=True):
        assert 0.0 <= min(column) < 0.1 * bound_s
        assert 0.9 * bound_s < max(column) <= bound_s
    assert len(set(recorded)) == 200


def test_a_listing_goes_on_where_it_was_cut(faulty: FaultyStore) -> None:
    expected = [f"a/{number:02d}" for number in range(20)]
    for name in expected:
        faulty.inner.put(name, b"")
    faulty.fail("list", StoreUnavailableError("cut"), times=15)
    waits = Waits()
    assert [info.name for info in retrying(faulty, waits, attempts=2).list("a/")] == expected
    assert len(waits) == 15  # each listing got further, so the attempts counted anew


def test_a_listing_that_gets_nowhere_ends(faulty: FaultyStore) -> None:
    def refuse(verb: str, name: str) -> None:
        raise StoreUnavailableError("down")

    faulty.hook = refuse
    waits = Waits()
    with pytest.raises(StoreUnavailableError, match="down"):
        list(retrying(faulty, waits).list(""))
    assert (faulty.calls["list"], len(waits)) == (4, 3)


def test_sleep_may_give_up(faulty: FaultyStore) -> None:
    class StopError(Exception):
        pass

    def stop(seconds: float) -> None:
        raise StopError

    faulty.fail("get", StoreUnavailableError("busy"), times=9)
    with pytest.raises(StopError):
        Retrying(faulty, sleep=stop).get("a")
    assert faulty.calls["get"] == 1


def test_retries_are_reported(faulty: FaultyStore) -> None:
    faulty.inner.put("a", b"1")
    faulty.fail("get", StoreUnavailableError("busy"), times=2)
    reports: list[tuple[str, int, str]] = []
    store = Retrying(
        faulty,
        sleep=lambda seconds: None,
        on_retry=lambda verb, failed_attempts, error: reports.append((verb, failed_attempts, str(error))),
    )
    assert store.get("a") == b"1"
    assert reports == [("get", 1, "busy"), ("get", 2, "busy")]


def test_many_are_deleted_all_over_again(faulty: FaultyStore) -> None:
    """Which of them are gone is not known after an error; the names may come from an iterator."""
    for name in ("a", "b", "c"):
        faulty.inner.put(name, b"")
    faulty.fail("delete", StoreUnavailableError("cut"), times=2)
    waits = Waits()
    retrying(faulty, waits).delete_many(iter(["a", "b", "c"]))
    assert list(faulty.inner.list("")) == []
    assert len(waits) == 2


def test_a_store_may_ask_for_more_time(faulty: FaultyStore) -> None:
    faulty.inner.put("a", b"1")
    faulty.fail("get", StoreBusyError("busy", retry_after_s=20.0))
    faulty.fail("get", StoreUnavailableError("maintenance", retry_after_s=1e9))
    faulty.fail("get", StoreUnavailableError("no answer"))
    waits = Waits()
    assert retrying(faulty, waits).get("a") == b"1"
    assert 20 < waits[0] <= 21  # on top of what the store wants, or all would come back together
    assert RETRY_AFTER_MAX_S < waits[1] <= RETRY_AFTER_MAX_S + 2
    assert waits[2] <= 3


def test_a_listing_obeys_too(faulty: FaultyStore) -> None:
    faulty.inner.put("a", b"1")
    faulty.fail("list", StoreBusyError("busy", retry_after_s=7.0))
    waits = Waits()
    assert call(retrying(faulty, waits), "list") == ["a"]
    assert 7 <= waits[0] <= 8


def test_attempts_are_counted(faulty: FaultyStore) -> None:
    meter = Meter()
    store = Retrying(faulty, attempts=3, sleep=lambda seconds: None, meter=meter)
    faulty.fail("put", StoreUnavailableError("busy"), times=2)
    store.put("a", b"")
    assert meter.statistics() == {"retry_count": 2}
    faulty.fail("get", StoreUnavailableError("busy"), times=3)
    with pytest.raises(StoreUnavailableError):
        store.get("a")
    faulty.fail("get", StoreDeniedError("no"))
    with pytest.raises(StoreDeniedError):
        store.get("a")
    assert meter.statistics() == {"gave_up_count": 1, "retry_count": 4}


def test_reading_back_reaches_the_driver(faulty: FaultyStore) -> None:
    asked: list[tuple[str, bool]] = []

    class Recording(FaultyStore):
        def get(self, name: str, *, newest: bool = False) -> bytes:
            asked.append(("get", newest))
            return super().get(name, newest=newest)

        def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
            asked.append(("head", newest))
            return super().head(name, newest=newest)

    store = Retrying(Recording(faulty.inner))
    store.put("a", b"")
    for newest in (False, True):
        store.get("a", newest=newest)
        store.head("a", newest=newest)
    assert asked == [("get", False), ("head", False), ("get", True), ("head", True)]


def test_the_rest_is_passed_through(faulty: FaultyStore) -> None:
    store = Retrying(faulty)
    assert store.describe() == faulty.inner.describe()
    assert store.now_ns() <= faulty.inner.now_ns()
    with pytest.raises(ValueError, match="attempts"):
        Retrying(faulty, attempts=0)


# -- the waits ----------


@given(
    first_s=st.floats(0.001, 100),
    longest_s=st.floats(0.001, 100),
    asked=st.lists(st.one_of(st.none(), st.floats(-10, 1e6)), max_size=30),
    seed=st.integers(),
)
def test_waits_are_within_their_bounds(
    first_s: float, longest_s: float, asked: list[float | None], seed: int
) -> None:
    backoff = Backoff(first_s, longest_s, random.Random(seed))
    for number, retry_after_s in enumerate(asked):
        least_s = min(max(retry_after_s or 0.0, 0.0), RETRY_AFTER_MAX_S)
        bound_s = min(longest_s, first_s * 2.0**number)
        assert least_s <= backoff.next_s(retry_after_s) <= least_s + bound_s * 1.000001
    backoff.reset()
    assert backoff.next_s() <= min(first_s, longest_s)


def test_a_wait_is_anywhere_within_its_bound() -> None:
    sequences = []
    for seed in range(200):
        backoff = Backoff(0.5, 8.0, random.Random(seed))
        sequences.append([backoff.next_s() for _ in range(6)])
    for waits, bound_s in zip(zip(*sequences, strict=True), (0.5, 1, 2, 4, 8, 8), strict=True):
        assert min(waits) < 0.1 * bound_s
        assert 0.9 * bound_s < max(waits) <= bound_s


def test_waits_go_on_for_days() -> None:
    backoff = Backoff(0.5, 30.0, random.Random(1))
    assert max(backoff.next_s() for _ in range(10_000)) <= 30.0


def test_somebody_who_waits_is_not_kept_for_long() -> None:
    """A store may ask to be left alone for ten minutes; a command gives up and says when it would go on."""
    naps: list[float] = []
    nap = sleep_in_all(20.0, sleep=naps.append)
    nap(5.0)
    nap(14.0)
    with pytest.raises(StoreUnavailableError, match="due in 600 s"):
        nap(600.0)
    with pytest.raises(StoreUnavailableError):
        nap(1.5)
    assert naps == [5.0, 14.0]
