"""The one retry policy: how long to wait before another attempt, and a store that tries again.

Must never: decide what is retryable (the error's class says so) or retry anything but one store call.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cubefs.errors import StoreError, StoreUnavailableError
from cubefs.store.answers import RETRY_AFTER_MAX_S
from cubefs.store.base import ObjectInfo, Store
from cubefs.store.meter import Meter

ATTEMPTS = 6  # with the delays below about 6 s at most: long enough for a hiccup, short enough for a person
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0

T = TypeVar("T")
OnRetry = Callable[[str, int, StoreError], None]


class Backoff:
    """The waits between attempts: uniformly between 0 and first, 2 * first, 4 * first ... up to longest.

    Full jitter, so that many clients of a busy store do not come back together. Pure; not thread-safe.
    """

    def __init__(self, first_s: float, longest_s: float, rng: random.Random | None = None) -> None:
        """Begin with a wait of up to `first_s`."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng or random.Random()
        self._bound_s = min(first_s, longest_s)

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Return how long to wait now.

        retry_after_s: what the store asked for, RETRY_AFTER_MAX_S counts at most: the wait comes on top of it.
        """
        wait_s = self._rng.uniform(0.0, self._bound_s)
        self._bound_s = min(self._bound_s * 2, self._longest_s)
        if retry_after_s is not None:
            wait_s += min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)
        return wait_s

    def reset(self) -> None:
        """Begin again: something went well."""
        self._bound_s = min(self._first_s, self._longest_s)


class Retrying:
    """A store around a store. Implements `base.Store`.

    Waits before each further attempt as `Backoff` says, and at least as long as the store asks for. The last
    attempt's error is raised. Counts in the meter: retry_count, gave_up_count.

    `put_new` may report ObjectExistsError for our own bytes when an earlier attempt got through but its
    answer did not: callers read back, as the contract says.
    """

    def __init__(
        self,
        store: Store,
        *,
        attempts: int = ATTEMPTS,
        first_delay_s: float = FIRST_DELAY_S,
        longest_delay_s: float = LONGEST_DELAY_S,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        on_retry: OnRetry | None = None,
        meter: Meter | None = None,
    ) -> None:
        """`on_retry(verb, failed_attempts, error)` is called before each wait, in the caller's thread.

        `sleep` may raise to give up (a daemon that is being stopped).
        """
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._store = store
        self._attempts = attempts
        self._first_delay_s = first_delay_s
        self._longest_delay_s = longest_delay_s
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._on_retry = on_retry
        self._meter = meter or Meter()
        self._problems: dict[object, StoreError] = {}  # of the calls that are being tried again now

    @property
    def problem(self) -> str | None:
        """Why a call is being tried again at this moment, None when none is. From any thread."""
        for error in list(self._problems.values()):
            return str(error)
        return None

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Put, again where that can help."""
        self._call("put", lambda: self._store.put(name, data))

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """Put exclusively, again where that can help. See the class about ObjectExistsError."""
        self._call("put_new", lambda: self._store.put_new(name, data))

    def get(self, name: str, *, newest: bool = False) -> bytes:
        """Get, again where that can help."""
        return self._call("get", lambda: self._store.get(name, newest=newest))

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Get a range, again where that can help."""
        return self._call("get_range", lambda: self._store.get_range(name, start=start, length=length))

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        """Ask, again where that can help."""
        return self._call("head", lambda: self._store.head(name, newest=newest))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List; after an error that may pass, the listing goes on behind the last name yielded."""
        backoff, failed_attempts = self._backoff(), 0
        while True:
            try:
                for info in self._store.list(prefix, start_after=start_after):
                    yield info
                    start_after = info.name
                    if failed_attempts:
                        backoff, failed_attempts = self._backoff(), 0
                return
            except StoreError as error:
                failed_attempts += 1
                self._wait_or_raise("list", failed_attempts, error, backoff)

    def delete(self, name: str) -> None:
        """Delete, again where that can help."""
        self._call("delete", lambda: self._store.delete(name))

    def delete_many(self, names: Iterable[str]) -> None:
        """Delete, all of them again where that can help."""
        every = tuple(names)
        self._call("delete_many", lambda: self._store.delete_many(every))

    def describe(self) -> str:
        """Return the URL."""
        return self._store.describe()

    def now_ns(self) -> int:
        """Return the store's time."""
        return self._call("now_ns", self._store.now_ns)

    def free_bytes(self) -> int | None:
        """Return what the store has left; never retried, it is a hint."""
        return self._store.free_bytes()

    def _call(self, verb: str, attempt: Callable[[], T]) -> T:
        backoff, failed_attempts = self._backoff(), 0
        try:
            while True:
                try:
                    return attempt()
                except StoreError as error:
                    failed_attempts += 1
                    if error.retryable:
                        self._problems[backoff] = error
                    self._wait_or_raise(verb, failed_attempts, error, backoff)
        finally:
            self._problems.pop(backoff, None)

    def _backoff(self) -> Backoff:
        return Backoff(self._first_delay_s, self._longest_delay_s, self._rng)

    def _wait_or_raise(self, verb: str, failed_attempts: int, error: StoreError, backoff: Backoff) -> None:
        """Called while `error` is handled."""
        if not error.retryable:
            raise error
        if failed_attempts >= self._attempts:
            self._meter.add("gave_up_count")
            raise error
        self._meter.add("retry_count")
        if self._on_retry is not None:
            self._on_retry(verb, failed_attempts, error)
        self._sleep(backoff.next_s(error.retry_after_s if isinstance(error, StoreUnavailableError) else None))


def sleep_in_all(limit_s: float, *, sleep: Callable[[float], None] = time.sleep) -> Callable[[float], None]:
    """Return a `sleep` for `Retrying` that gives up instead of sleeping for more than `limit_s` in all.

    For callers that somebody waits for: a store may ask to be left alone for minutes (Retry-After).
    """
    left_s = limit_s

    def nap(seconds: float) -> None:
        nonlocal left_s
        if seconds > left_s:
            raise StoreUnavailableError(f"the store does not answer; the next attempt is due in {seconds:.0f} s")
        left_s -= seconds
        sleep(seconds)

    return nap
