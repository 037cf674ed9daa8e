"""How fast we may talk to the store: limits of the user, the store's wish to be left alone, and the counting.

One `Throttle` holds all that is known about the line to one store; `Throttled` puts every call through it; the
drivers ask it about the bytes of bodies (`base.Pace`). Rates are kept by rates.py. Must never: try again
(retry.py does), or keep a lock while it waits.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cubefs.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from cubefs.store.answers import RETRY_AFTER_MAX_S
from cubefs.store.base import ObjectInfo, Store
from cubefs.store.meter import Meter
from cubefs.store.rates import AdaptiveRate, ByteBucket, OperationRate, SlidingWindow

NAP_MAX_S = 0.1  # who waits looks that often whether the limits have changed or the daemon stops
DELETES_PER_CALL = 1000  # what S3 takes in one request, so that each is admitted


class Kind(enum.Enum):
    """What an operation is, for limits. The value is the word in options and messages."""

    PUT = "put"
    GET = "get"  # whole, range and head
    LIST = "list"
    DELETE = "delete"

    @property
    def is_write(self) -> bool:
        """Whether it changes the store: stores complain about writing and reading separately."""
        return self in (Kind.PUT, Kind.DELETE)


@dataclass(frozen=True)
class Limits:
    """What the user allows. None: no limit."""

    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    operations: Mapping[Kind, OperationRate] = field(default_factory=dict, hash=False)
    adaptive: bool = True  # go slower when the store says that it is busy

    def __post_init__(self) -> None:
        """Keep a copy that nobody changes."""
        object.__setattr__(self, "operations", MappingProxyType(dict(self.operations)))


@dataclass(frozen=True)
class ThrottleStatistics:
    """What a throttle does at the moment, and has done."""

    writes_per_s: float | None  # what the store can bear, None while it does not complain
    reads_per_s: float | None
    writes_held_s: float  # for how long the store has asked to be left alone, from now
    reads_held_s: float
    waiting_count: int  # callers that wait now
    wait_count: int  # operations and parts of bodies that had to wait
    waited_s: float  # by all of them together


class _Direction:
    """What the store bears in one direction: writing or reading. Guarded by the throttle's lock."""

    def __init__(self) -> None:
        self.rate = AdaptiveRate()
        self.held_until_s = float("-inf")


class Throttle:
    """Decides when an operation may start and a part of a body may pass. Thread-safe. Implements `base.Pace`.

    Operations of one kind start in the order in which they were asked for. A waiting thread sees new limits within
    NAP_MAX_S. `sleep` may raise GivenUpError (a daemon that is being stopped): drivers let it through.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`clock` and `sleep` are in seconds."""
        self.meter = meter or Meter()
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        # who waits for an operation of a kind, in order; the event of the first is set, the others sleep
        self._queues: dict[Kind, deque[threading.Event]] = {kind: deque() for kind in Kind}
        self._writing, self._reading = _Direction(), _Direction()
        self._windows: dict[Kind, SlidingWindow] = {}
        self._up: ByteBucket | None = None
        self._down: ByteBucket | None = None
        self._waiting_count = 0
        self._wait_count = 0
        self._waited_s = 0.0
        self._limits = Limits()
        self.change(limits or Limits())

    @property
    def limits(self) -> Limits:
        """The limits that hold now."""
        return self._limits

    def change(self, limits: Limits) -> None:
        """Let other limits hold from now on, also for those who wait already and for bodies under way.

        The store's own wish to be left alone (Retry-After, up to RETRY_AFTER_MAX_S) ends with it: who changes the
        limits wants something to happen now. A store that still wants rest says so again.
        """
        with self._lock:
            now_s = self._clock()
            self._limits = limits
            self._writing.held_until_s = self._reading.held_until_s = float("-inf")
            self._up = _changed(self._up, limits.up_bytes_per_s, now_s)
            self._down = _changed(self._down, limits.down_bytes_per_s, now_s)
            for kind in Kind:
                rate = limits.operations.get(kind)
                if rate is None:
                    self._windows.pop(kind, None)
                elif kind in self._windows:
                    self._windows[kind].change(rate)
                else:
                    self._windows[kind] = SlidingWindow(rate)
            if not limits.adaptive:
                self._writing.rate, self._reading.rate = AdaptiveRate(), AdaptiveRate()

    # -- operations ----------

    def admit(self, kind: Kind) -> None:
        """Wait until an operation of this kind may start; it is counted as started."""
        queue, turn = self._queues[kind], threading.Event()
        with self._lock:
            if not queue and self._admission_delay_s(kind, self._clock()) <= 0:
                return
            queue.append(turn)
            queue[0].set()
        with self._counted_wait():
            try:
                turn.wait()
                self._sleep_until(lambda now_s: self._admission_delay_s(kind, now_s))
            finally:
                with self._lock:
                    queue.remove(turn)
                    if queue:
                        queue[0].set()

    def finished(self, kind: Kind) -> None:
        """Note that the store has served an operation, if only by saying that there is no such object."""
        if self._limits.adaptive:
            with self._lock:
                self._direction(kind).rate.served(self._clock())

    def busy(self, kind: Kind, retry_after_s: float | None) -> None:
        """Note that the store asked for fewer requests, and for how long it wants none at all."""
        with self._lock:
            if self._limits.adaptive:
                self._direction(kind).rate.busy(self._clock())
        self.hold(kind, retry_after_s)

    def hold(self, kind: Kind, retry_after_s: float | None) -> None:
        """Start no operation of this kind's direction for so long: what Retry-After asks for."""
        if retry_after_s is None:
            return
        with self._lock:
            until_s = self._clock() + min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)
            direction = self._direction(kind)
            direction.held_until_s = max(direction.held_until_s, until_s)

    def _admission_delay_s(self, kind: Kind, now_s: float) -> float:
        """Return how long an operation has to wait, 0 when it has been counted as started. Under the lock."""
        direction = self._direction(kind)
        window = self._windows.get(kind)
        delay_s = max(direction.held_until_s - now_s, direction.rate.delay_s(now_s), 0.0)
        if window is not None:
            delay_s = max(delay_s, window.delay_s(now_s))
        if delay_s <= 0:
            direction.rate.take(now_s)
            if window is not None:
                window.take(now_s)
        return delay_s

    def _direction(self, kind: Kind) -> _Direction:
        return self._writing if kind.is_write else self._reading

    # -- bytes (base.Pace) ----------

    def is_limited_up(self) -> bool:
        """Whether there is a limit for bytes sent."""
        return self._up is not None

    def is_limited_down(self) -> bool:
        """Whether there is a limit for bytes received."""
        return self._down is not None

    def sending(self, byte_count: int) -> None:
        """Wait until `byte_count` more bytes may be sent."""
        self._pass(lambda: self._up, byte_count)

    def received(self, byte_count: int) -> None:
        """Wait until the line would have brought these bytes at the rate allowed."""
        self._pass(lambda: self._down, byte_count)

    def _pass(self, current: Callable[[], ByteBucket | None], byte_count: int) -> None:
        with self._lock:
            bucket = current()
            if bucket is None:
                return
            now_s = self._clock()
            place = bucket.reserve(byte_count, now_s)
            if bucket.delay_s(place, now_s) <= 0:
                return
        with self._counted_wait():
            # a bucket that is not the current one any more binds nobody: the limit was lifted meanwhile
            self._sleep_until(lambda now_s: bucket.delay_s(place, now_s) if current() is bucket else 0.0)

    # -- waiting ----------

    def _sleep_until(self, delay_s: Callable[[float], float]) -> None:
        """Sleep until `delay_s(now)`, called under the lock, says 0."""
        while True:
            with self._lock:
                rest_s = delay_s(self._clock())
            if rest_s <= 0:
                return
            self._sleep(min(rest_s, NAP_MAX_S))

    @contextlib.contextmanager
    def _counted_wait(self) -> Iterator[None]:
        with self._lock:
            began_s = self._clock()
            self._waiting_count += 1
            self._wait_count += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting_count -= 1
                self._waited_s += self._clock() - began_s

    def statistics(self) -> ThrottleStatistics:
        """Return what happens now and how much was waited."""
        with self._lock:
            now_s = self._clock()
            return ThrottleStatistics(
                writes_per_s=self._writing.rate.rate,
                reads_per_s=self._reading.rate.rate,
                writes_held_s=max(0.0, self._writing.held_until_s - now_s),
                reads_held_s=max(0.0, self._reading.held_until_s - now_s),
                waiting_count=self._waiting_count,
                wait_count=self._wait_count,
                waited_s=self._waited_s,
            )


def _changed(bucket: ByteBucket | None, bytes_per_s: float | None, now_s: float) -> ByteBucket | None:
    if bytes_per_s is None:
        return None
    if bucket is None:
        return ByteBucket(bytes_per_s, now_s)
    bucket.change(bytes_per_s, now_s)
    return bucket


class Throttled:
    """A store around a driver: every request is admitted first, and counted. Implements `base.Store`.

    Counters of the throttle's meter: put_count, get_count, head_count, list_count, delete_count for requests made
    (of a listing and of many deletions as far as they can be seen here: one per call, one per 1000 names);
    sent_bytes, received_bytes of bodies that arrived; of failures busy_count, unavailable_count, denied_count,
    missing_count, exists_count, and error_count for all others.
    """

    def __init__(self, store: Store, throttle: Throttle) -> None:
        """`throttle` should also be the pace of the driver."""
        self._store = store
        self._throttle = throttle
        self._meter = throttle.meter

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Put when it may be."""
        with self._request(Kind.PUT, "put_count"):
            self._store.put(name, data)
        self._meter.add("sent_bytes", memoryview(data).nbytes)

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """Put exclusively when it may be."""
        with self._request(Kind.PUT, "put_count"):
            self._store.put_new(name, data)
        self._meter.add("sent_bytes", memoryview(data).nbytes)

    def get(self, name: str, *, newest: bool = False) -> bytes:
        """Get when it may be."""
        with self._request(Kind.GET, "get_count"):
            data = self._store.get(name, newest=newest)
        self._meter.add("received_bytes", len(data))
        return data

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Get a range when it may be."""
        with self._request(Kind.GET, "get_count"):
            data = self._store.get_range(name, start=start, length=length)
        self._meter.add("received_bytes", len(data))
        return data

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        """Ask when it may be."""
        with self._request(Kind.GET, "head_count"):
            return self._store.head(name, newest=newest)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List; the request is admitted when the first name is asked for."""
        self._admit(Kind.LIST, "list_count")
        with self._noted(Kind.LIST):
            yield from self._store.list(prefix, start_after=start_after)

    def delete(self, name: str) -> None:
        """Delete when it may be."""
        with self._request(Kind.DELETE, "delete_count"):
            self._store.delete(name)

    def delete_many(self, names: Iterable[str]) -> None:
        """Delete in steps, each when it may be."""
        rest = iter(names)
        while some := tuple(itertools.islice(rest, DELETES_PER_CALL)):
            with self._request(Kind.DELETE, "delete_count"):
                self._store.delete_many(some)

    def describe(self) -> str:
        """Return the URL."""
        return self._store.describe()

    def now_ns(self) -> int:
        """Return the store's time, when it may be asked: in the cloud that is a HEAD, and counted as one."""
        with self._request(Kind.GET, "head_count"):
            return self._store.now_ns()

    def free_bytes(self) -> int | None:
        """Return what the store has left."""
        return self._store.free_bytes()

    def _admit(self, kind: Kind, counter: str) -> None:
        self._throttle.admit(kind)
        self._meter.add(counter)

    @contextlib.contextmanager
    def _request(self, kind: Kind, counter: str) -> Iterator[None]:
        self._admit(kind, counter)
        with self._noted(kind):
            yield

    @contextlib.contextmanager
    def _noted(self, kind: Kind) -> Iterator[None]:
        """Tell throttle and meter how a request ended."""
        try:
            yield
        except StoreBusyError as error:
            self._meter.add("busy_count")
            self._throttle.busy(kind, error.retry_after_s)
            raise
        except StoreUnavailableError as error:
            self._meter.add("unavailable_count")
            self._throttle.hold(kind, error.retry_after_s)
            raise
        except (ObjectMissingError, ObjectExistsError) as error:
            self._meter.add("missing_count" if isinstance(error, ObjectMissingError) else "exists_count")
            self._throttle.finished(kind)
            raise
        except StoreError as error:
            self._meter.add("denied_count" if isinstance(error, StoreDeniedError) else "error_count")
            raise
        else:
            self._throttle.finished(kind)
