"""The throttle: when operations and bytes may go, for many threads, and the store around a driver that asks it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
from cubefs.store.meter import Meter
from cubefs.store.rates import OperationRate
from cubefs.store.throttle import DELETES_PER_CALL, NAP_MAX_S, Kind, Limits, Throttle, Throttled
from tests.support.faulty_store import FaultyStore

WRITES, READS = (Kind.PUT, Kind.DELETE), (Kind.GET, Kind.LIST)


class Clock:
    """A clock that only goes on while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.longest_nap_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.longest_nap_s = max(self.longest_nap_s, seconds)
        self.now_s += seconds


class HandClock:
    """A clock that is moved by hand; sleepers look at it all the time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        time.sleep(0.0005)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def throttle_at(clock: Clock | HandClock, limits: Limits | None = None) -> Throttle:
    return Throttle(limits, clock=clock, sleep=clock.sleep)


def starts(throttle: Throttle, clock: Clock, kind: Kind, count: int) -> list[float]:
    """Return when `count` operations, asked for one after the other, may start."""
    times = []
    for _ in range(count):
        throttle.admit(kind)
        times.append(clock() - 1000.0)
    return times


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.0005)


# -- operations ----------


@pytest.mark.parametrize("kind", Kind)
def test_without_limits_nothing_waits(clock: Clock, kind: Kind) -> None:
    throttle = throttle_at(clock)
    assert starts(throttle, clock, kind, 1000) == [0.0] * 1000
    throttle.sending(10**9)
    throttle.received(10**9)
    assert not throttle.is_limited_up()
    assert not throttle.is_limited_down()
    assert throttle.statistics().wait_count == 0


@pytest.mark.parametrize("kind", Kind)
def test_operations_per_interval(clock: Clock, kind: Kind) -> None:
    throttle = throttle_at(clock, Limits(operations={kind: OperationRate(3, 5.0)}))
    assert starts(throttle, clock, kind, 7) == pytest.approx([0, 0, 0, 5, 5, 5, 10])
    for other in set(Kind) - {kind}:
        assert starts(throttle, clock, other, 100) == [clock() - 1000.0] * 100
    assert clock.longest_nap_s <= NAP_MAX_S  # so that a change is seen
    statistics = throttle.statistics()
    assert (statistics.wait_count, statistics.waited_s) == (2, pytest.approx(10))


def test_threads_start_in_the_order_they_came() -> None:
    clock = HandClock()
    throttle = throttle_at(clock, Limits(operations={Kind.GET: OperationRate(1, 10.0)}))
    throttle.admit(Kind.GET)
    started: list[int] = []

    def operation(number: int) -> None:
        throttle.admit(Kind.GET)
        started.append(number)

    with ThreadPoolExecutor(12) as pool:
        for number in range(12):
            pool.submit(operation, number)
            wait_until(lambda count=number + 1: throttle.statistics().waiting_count == count)
        throttle.admit(Kind.PUT)  # others do not stand in this queue
        for number in range(12):
            assert len(started) == number
            clock.now_s += 10.0
            wait_until(lambda count=number + 1: len(started) == count)
    assert started == list(range(12))
    assert throttle.statistics().waiting_count == 0


def test_nobody_overtakes_a_sleeper() -> None:
    """Who comes at the right moment stands behind those who came earlier and have not woken up yet."""
    clock, may_wake = HandClock(), threading.Event()
    throttle = Throttle(
        Limits(operations={Kind.GET: OperationRate(1, 10.0)}), clock=clock, sleep=lambda seconds: may_wake.wait(20)
    )
    throttle.admit(Kind.GET)
    started: list[str] = []

    def operation(name: str) -> None:
        throttle.admit(Kind.GET)
        started.append(name)
        clock.now_s += 10.0

    with ThreadPoolExecutor(2) as pool:
        pool.submit(operation, "sleeper")
        wait_until(lambda: throttle.statistics().waiting_count == 1)
        clock.now_s += 10.0
        pool.submit(operation, "newcomer")
        wait_until(lambda: throttle.statistics().waiting_count == 2 or bool(started))
        may_wake.set()
    assert started == ["sleeper", "newcomer"]


def test_many_threads_keep_the_limit() -> None:
    """With the real clock."""
    throttle = Throttle(Limits(operations={Kind.PUT: OperationRate(5, 0.05)}))
    begin_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(throttle.admit, Kind.PUT) for _ in range(32)]:
            future.result()
    # the 6th waits for the 1st, the 31st hence six times the interval; a busy machine may be slower
    assert time.monotonic() - begin_s >= 6 * 0.05


@pytest.mark.parametrize("limits", [Limits(), Limits(operations={Kind.PUT: OperationRate(100, 1.0)})])
def test_who_waits_sees_new_limits(limits: Limits) -> None:
    clock = HandClock()
    strict = Limits(up_bytes_per_s=1000, down_bytes_per_s=1000, operations={Kind.PUT: OperationRate(1, 3600.0)})
    throttle = throttle_at(clock, strict)
    throttle.admit(Kind.PUT)
    calls: list[Callable[[], None]] = [
        *[lambda: throttle.admit(Kind.PUT)] * 4,
        *[lambda: throttle.sending(10**8)] * 4,
        *[lambda: throttle.received(10**8)] * 4,
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        wait_until(lambda: throttle.statistics().waiting_count == len(calls))
        throttle.change(limits)
        assert throttle.limits is limits
        for future in futures:
            future.result(timeout=20)
    assert clock.now_s == 1000.0


def test_a_stricter_limit_counts_what_was_done(clock: Clock) -> None:
    throttle = throttle_at(clock, Limits(operations={Kind.PUT: OperationRate(10, 1.0)}))
    starts(throttle, clock, Kind.PUT, 10)
    throttle.change(Limits(operations={Kind.PUT: OperationRate(5, 2.0)}))
    assert starts(throttle, clock, Kind.PUT, 6) == pytest.approx([2] * 5 + [4])


def test_sleep_may_give_up() -> None:
    """The next in the queue has its turn; nothing is stuck."""

    class StopError(Exception):
        pass

    is_stopping = threading.Event()

    def sleep(seconds: float) -> None:
        time.sleep(0.0005)
        if is_stopping.is_set():
            raise StopError

    throttle = Throttle(Limits(operations={Kind.LIST: OperationRate(1, 1e4)}), sleep=sleep)
    throttle.admit(Kind.LIST)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(throttle.admit, Kind.LIST) for _ in range(4)]
        wait_until(lambda: throttle.statistics().waiting_count == 4)
        is_stopping.set()
        for future in futures:
            assert isinstance(future.exception(timeout=20), StopError)
    assert throttle.statistics().waiting_count == 0
    throttle.change(Limits())
    throttle.admit(Kind.LIST)


# -- what the store asks for ----------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("adaptive", [True, False])
def test_retry_after_holds_a_direction_back(clock: Clock, kind: Kind, adaptive: bool) -> None:
    throttle = throttle_at(clock, Limits(adaptive=adaptive))
    throttle.busy(kind, 30.0)
    throttle.busy(kind, 10.0)  # an earlier end does not count
    statistics = throttle.statistics()
    held = (statistics.writes_held_s, statistics.reads_held_s)
    same, opposite = (WRITES, READS) if kind in WRITES else (READS, WRITES)
    assert held == ((30, 0) if kind in WRITES else (0, 30))
    for other in opposite:
        assert starts(throttle, clock, other, 1) == [0]
    assert starts(throttle, clock, same[0], 1) == pytest.approx([30])
    assert starts(throttle, clock, same[1], 1) == pytest.approx([32 if adaptive else 30], abs=0.11)


def test_retry_after_is_bounded(clock: Clock) -> None:
    throttle = throttle_at(clock)
    throttle.hold(Kind.GET, 1e9)
    throttle.hold(Kind.GET, None)
    throttle.hold(Kind.PUT, -5.0)
    assert starts(throttle, clock, Kind.PUT, 1) == [0]
    assert starts(throttle, clock, Kind.GET, 1) == pytest.approx([RETRY_AFTER_MAX_S])


def test_it_adapts_to_a_busy_store(clock: Clock) -> None:
    throttle = throttle_at(clock)

    def serve(count: int, pause_s: float) -> None:
        for _ in range(count):
            throttle.admit(Kind.PUT)
            clock.now_s += pause_s
            throttle.finished(Kind.PUT)

    serve(200, 0.02)
    assert throttle.statistics().writes_per_s is None
    throttle.busy(Kind.PUT, None)
    statistics = throttle.statistics()
    assert statistics.writes_per_s == pytest.approx(25, rel=0.05)
    assert statistics.reads_per_s is None
    begin_s = clock()
    serve(100, 0.0)
    assert clock() - begin_s > 3  # 25/s and a little more
    throttle.change(Limits(adaptive=False))
    assert throttle.statistics().writes_per_s is None
    throttle.busy(Kind.PUT, None)
    serve(1000, 0.0)
    assert throttle.statistics().writes_per_s is None


# -- bytes ----------


def test_bytes_per_second(clock: Clock) -> None:
    throttle = throttle_at(clock, Limits(up_bytes_per_s=1e6, down_bytes_per_s=4e6))
    assert throttle.is_limited_up()
    assert throttle.is_limited_down()
    for _ in range(100):
        throttle.sending(65536)
    assert clock() - 1000.0 == pytest.approx((6_553_600 - 250_000) / 1e6, abs=0.001)
    begin_s = clock()
    throttle.received(41_000_000)
    assert clock() - begin_s == pytest.approx(40 / 4, abs=0.001)
    assert throttle.statistics().waited_s == pytest.approx(clock() - 1000.0)


def test_many_threads_share_the_line() -> None:
    """With the real clock, up and down at once."""
    throttle = Throttle(Limits(up_bytes_per_s=10e6, down_bytes_per_s=20e6))

    def send() -> None:
        for _ in range(8):
            throttle.sending(65536)

    def receive() -> None:
        for _ in range(8):
            throttle.received(2 * 65536)

    begin_s = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(call) for call in (send, receive) * 8]:
            future.result()
    # 4.19 MB at 10 MB/s, of which 2.5 MB go at once; nothing can be faster, and a busy machine is slower
    assert time.monotonic() - begin_s >= (64 * 65536 - 2_500_000) / 10e6 - 0.01


# -- the store around a driver ----------


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStore:
    return FaultyStore(open_store(f"local://{tmp_path}/store", create=True))


def use_everything(store: Throttled) -> None:
    store.put("a/1", b"12345")
    store.put_new("a/2", memoryview(b"123"))
    assert store.get("a/1", newest=True) == b"12345"
    assert store.get_range("a/1", start=1, length=3) == b"234"
    assert store.head("a/2", newest=True).size_bytes == 3
    assert [info.name for info in store.list("a/", start_after="a/1")] == ["a/2"]
    store.delete("a/1")
    store.delete_many(iter(["a/2", "a/3"]))


def test_everything_is_passed_on_and_counted(faulty: FaultyStore) -> None:
    meter = Meter()
    store = Throttled(faulty, Throttle(meter=meter))
    use_everything(store)
    assert meter.statistics() == {
        "delete_count": 2,
        "get_count": 2,
        "head_count": 1,
        "list_count": 1,
        "put_count": 2,
        "received_bytes": 8,
        "sent_bytes": 8,
    }
    assert store.describe() == faulty.describe()
    assert store.now_ns() <= faulty.now_ns()
    assert meter.statistics()["head_count"] == 2
    assert (store.free_bytes() or 0) > 0


def test_every_request_is_admitted(faulty: FaultyStore, clock: Clock) -> None:
    throttle = throttle_at(clock, Limits(operations={kind: OperationRate(1, 7.0) for kind in Kind}))
    store = Throttled(faulty, throttle)
    faulty.inner.put("a/0", b"")
    use_everything(store)
    assert clock() - 1000.0 == pytest.approx(4 * 7)  # one of two puts, two of three gets, one of two deletions
    clock.now_s += 7.0
    begin_s = clock()
    store.delete_many(f"x/{number}" for number in range(2 * DELETES_PER_CALL + 1))
    assert clock() - begin_s == pytest.approx(14)
    listing = store.list("a/")
    clock.now_s += 7.0
    before = faulty.calls["list"]
    next(listing)
    assert faulty.calls["list"] == before + 1


FAILURES: dict[str, StoreError] = {
    "busy_count": StoreBusyError("busy", retry_after_s=5.0),
    "unavailable_count": StoreUnavailableError("no answer"),
    "denied_count": StoreDeniedError("no"),
    "error_count": StoreFullError("full"),
    "missing_count": ObjectMissingError("gone"),
    "exists_count": ObjectExistsError("taken"),
}
CALLS: dict[str, Callable[[Throttled], object]] = {
    "put": lambda store: store.put("a", b"1"),
    "put_new": lambda store: store.put_new("b", b"1"),
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", start=0, length=1),
    "head": lambda store: store.head("a"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("a"),
}


@pytest.mark.parametrize("counter", FAILURES)
@pytest.mark.parametrize("verb", CALLS)
def test_failures_are_counted_and_reported(faulty: FaultyStore, clock: Clock, counter: str, verb: str) -> None:
    faulty.inner.put("a", b"1")
    throttle = throttle_at(clock)
    error = FAILURES[counter]
    faulty.fail(verb, error)
    with pytest.raises(type(error)) as caught:
        CALLS[verb](Throttled(faulty, throttle))
    assert caught.value is error
    counts = throttle.meter.statistics()
    kind = {"get_range": "get", "put_new": "put"}.get(verb, verb)
    assert counts == {f"{kind}_count": 1, counter: 1}  # no bytes: nothing arrived
    statistics = throttle.statistics()
    is_busy = counter == "busy_count"
    is_write = verb in ("put", "put_new", "delete")
    assert (statistics.writes_held_s, statistics.reads_held_s) == (
        5.0 * (is_busy and is_write),
        5.0 * (is_busy and not is_write),
    )
    assert (statistics.writes_per_s is not None) == (is_busy and is_write)
    assert (statistics.reads_per_s is not None) == (is_busy and not is_write)


def test_who_changes_the_limits_does_not_wait_for_retry_after(clock: Clock) -> None:
    throttle = throttle_at(clock, Limits(up_bytes_per_s=1e6))
    throttle.hold(Kind.PUT, 600.0)
    throttle.hold(Kind.GET, 300.0)
    assert (throttle.statistics().writes_held_s, throttle.statistics().reads_held_s) == (600.0, 300.0)
    throttle.change(Limits())
    begin_s = clock()
    throttle.admit(Kind.PUT)
    throttle.admit(Kind.GET)
    assert clock() == begin_s
    throttle.hold(Kind.PUT, 5.0)  # it asks again
    assert throttle.statistics().writes_held_s == 5.0


def test_an_unavailable_store_may_ask_for_rest_too(faulty: FaultyStore, clock: Clock) -> None:
    throttle = throttle_at(clock)
    faulty.fail("get", StoreUnavailableError("maintenance", retry_after_s=60.0))
    with pytest.raises(StoreUnavailableError):
        Throttled(faulty, throttle).get("a")
    assert throttle.statistics().reads_held_s == 60.0
    assert throttle.statistics().reads_per_s is None


def test_a_listing_that_is_not_finished_does_no_harm(faulty: FaultyStore) -> None:
    for name in ("a", "b"):
        faulty.inner.put(name, b"")
    throttle = Throttle()
    listing = Throttled(faulty, throttle).list("")
    next(listing)
    listing.close()
    assert throttle.meter.statistics() == {"list_count": 1}


def test_bodies_of_the_local_driver_are_paced(tmp_path: Path, clock: Clock) -> None:
    throttle = throttle_at(clock, Limits(up_bytes_per_s=1e6, down_bytes_per_s=2e6))
    store = open_store(f"local://{tmp_path}/store", create=True, throttle=throttle)
    data = random.Random(1).randbytes(2_250_000)
    store.put("a", data)
    assert clock() - 1000.0 == pytest.approx(2, abs=0.01)
    begin_s = clock()
    assert store.get("a") == data
    assert clock() - begin_s == pytest.approx((2.25 - 0.5) / 2, abs=0.01)


def test_a_busy_store_is_left_alone_by_all_threads() -> None:
    """A store that serves 20 in each second: after a few complaints all callers together ask for about that."""
    clock = Clock()
    throttle = throttle_at(clock)
    served: list[float] = []
    refused: list[float] = []
    while clock() < 1120.0:
        throttle.admit(Kind.PUT)
        clock.now_s += 0.002
        if sum(time_s > clock() - 1.0 for time_s in served[-20:]) < 20:
            served.append(clock())
            throttle.finished(Kind.PUT)
        else:
            refused.append(clock())
            throttle.busy(Kind.PUT, None)
    assert len(served) > 0.65 * 20 * 120
    assert len(refused) < 0.1 * len(served)


def test_limits_are_values() -> None:
    operations = {Kind.PUT: OperationRate(1, 1.0)}
    limits = Limits(operations=operations)
    operations.clear()
    assert limits == Limits(operations={Kind.PUT: OperationRate(1, 1.0)})
    assert limits != Limits()
    assert len({limits, Limits(operations={Kind.PUT: OperationRate(1, 1.0)})}) == 1
    with pytest.raises(TypeError):
        limits.operations[Kind.GET] = OperationRate(1, 1.0)
