"""The hands of an examination: calls with repetition, patience, many at once, and tidying up afterwards.

Must never: judge what it sees (the checks do), or touch an object outside its own prefix.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from cubefs.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreLiesError,
    StoreUnavailableError,
)
from cubefs.model import KIB
from cubefs.store.base import Store
from cubefs.store.examine_report import Leftover
from cubefs.store.retry import Retrying

TEST_PREFIX = "store-test-"  # of all our names; a random part and a slash follow
RUN_ID_BYTES = 8
SMALL_BYTES = KIB

PATIENCE_S = 30.0  # what a store has not done after this long, it will not do
ATTEMPTS = 4  # at one call; somebody is watching
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

T = TypeVar("T")
Progress = Callable[[str], None]


class _StoppedError(Exception):
    """Another task of the same group has failed: this one need not go on. Never leaves this module."""


class _Group:
    """Tasks that run together; groups nest."""

    def __init__(self, parent: _Group | None) -> None:
        self._parent = parent
        self._is_stopping = threading.Event()

    def stop(self) -> None:
        self._is_stopping.set()

    def check(self) -> None:
        if self._is_stopping.is_set():
            raise _StoppedError
        if self._parent is not None:
            self._parent.check()


_group: ContextVar[_Group | None] = ContextVar("_group", default=None)  # of the running thread


class Probe:
    """One examination's access to a store, for many threads.

    Every call goes through the retry policy: a single hiccup condemns no store, but is counted.
    """

    def __init__(
        self,
        store: Store,
        *,
        progress: Progress = lambda text: None,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`progress` is called with what is being done, often, in any thread, but never in two at once."""
        self.prefix = f"{TEST_PREFIX}{random(RUN_ID_BYTES).hex()}/"
        self.patience_s = patience_s
        self.clock = clock
        self.wall_clock_ns = wall_clock_ns
        self.random = random
        self.may_delete = True  # until the store refuses it
        self.call_count = 0
        self.retry_count = 0
        self.last_retry = ""
        self.mended_damage = ""  # a body that came back wrong once, and right when read again
        self._progress = progress
        self._phase = "examining"
        self._sleep = sleep
        self._store = Retrying(store, attempts=ATTEMPTS, sleep=self._pause, on_retry=self._note_retry)
        self._lock = threading.Lock()
        self._sizes_bytes: dict[str, int] = {}  # of our objects that may be there

    def begin(self, phase: str) -> None:
        """Say what is examined next."""
        self._phase = phase

    # -- calls ---------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return the store's URL."""
        return self._store.describe()

    def name(self, rest: str) -> str:
        """Return the full name of one of our objects."""
        return self.prefix + rest

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Put. Raises StoreDeniedError that tells a read-only key from a wrong one."""
        self._writing(name, data, self._store.put)

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """Put on condition that the name is free; raises as `put`, and ObjectExistsError."""
        self._writing(name, data, self._store.put_new)

    def find(self, name: str, *, newest: bool = False) -> bytes | None:
        """Get, None for an object that is not there."""
        self._count()
        try:
            return self._store.get(name, newest=newest)
        except ObjectMissingError:
            return None

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Get a range."""
        self._count()
        return self._store.get_range(name, start=start, length=length)

    def listed(self, prefix: str, *, start_after: str = "") -> list[str]:
        """Return all names that start with `prefix`, which begins with our own."""
        self._count()
        return [info.name for info in self._store.list(prefix, start_after=start_after)]

    def delete(self, name: str) -> bool:
        """Delete; return False, from then on for ever, where that is refused."""
        return self._deleting([name], lambda: self._store.delete(name))

    def delete_many(self, names: Sequence[str]) -> bool:
        """Delete many at once; False as for `delete`."""
        return self._deleting(names, lambda: self._store.delete_many(names))

    def store_now_ns(self) -> int:
        """Return the store's time."""
        self._count()
        return self._store.now_ns()

    # -- patience ------------------------------------------------------------------------------------------

    def until(self, holds: Callable[[], bool], *, steady: int = 1) -> float | None:
        """Ask until `holds` is true `steady` times in a row; return after how many seconds the first of them
        was asked, 0.0 when that was at once, None when patience ended before.
        """
        started_s = self.clock()
        pause_s = FIRST_PAUSE_S
        waited_s = 0.0
        while not all(holds() for _ in range(steady)):
            if waited_s >= self.patience_s:
                return None
            self._pause(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
            waited_s = self.clock() - started_s
        return waited_s

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, tried again while the object is missing; then ObjectMissingError."""
        found: list[T] = []

        def holds() -> bool:
            with contextlib.suppress(ObjectMissingError):
                found.append(attempt())
            return bool(found)

        self.until(holds)
        return found[0] if found else attempt()

    def look(self, name: str, *, among: Sequence[bytes], newest: bool = False) -> bytes | None:
        """Get an object that must be one of `among` or missing.

        Anything else is read once more: right then, it is remembered as `mended_damage`; still wrong, the
        store did not keep what it was given: StoreLiesError.
        """
        data = self.find(name, newest=newest)
        if data is None or data in among:
            return data
        damage = describe_damage(data, among[0])
        again = self.find(name, newest=newest)
        if again is not None and again not in among:
            raise StoreLiesError(f"what was stored is not what is read back: {describe_damage(again, among[0])}")
        with self._lock:
            self.mended_damage = damage
        return again

    def look_patiently(self, name: str, *, among: Sequence[bytes]) -> bytes:
        """Look at an object that was put, however late it appears (other checks find fault with that)."""

        def attempt() -> bytes:
            data = self.look(name, among=among)
            if data is None:
                raise ObjectMissingError(f"{name} in {self.describe()} was put, but cannot be read")
            return data

        return self.patiently(attempt)

    # -- many at once --------------------------------------------------------------------------------------

    def together(self, tasks: Iterable[Callable[[], T]], *, lanes: int | None = None) -> list[T]:
        """Run tasks in threads, `lanes` at once (default: all); return their results in order.

        The first failure is raised, when all threads have ended: the others stop before their next call.
        """
        pending = list(tasks)
        group = _Group(_group.get())

        def run(task: Callable[[], T]) -> T:
            _group.set(group)
            return task()

        with ThreadPoolExecutor(lanes or len(pending) or 1) as pool:
            futures = [pool.submit(run, task) for task in pending]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                if not any(future.exception() for future in done):
                    return [future.result() for future in futures]
            finally:  # also after Ctrl-C, while waiting
                group.stop()
                for future in futures:
                    future.cancel()
        errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
        raise next((error for error in errors if not isinstance(error, _StoppedError)), errors[0])

    # -- the end -------------------------------------------------------------------------------------------

    def clean_up(self) -> Leftover | None:
        """Remove all our objects; return how many stay. Where deleting is refused, large ones are emptied."""
        names = sorted(self._sizes_bytes)
        where = f"{self.describe()}, {self.prefix}"
        try:
            if not names or (self.may_delete and self.delete_many(names)):
                self._remove_directories()
                return None
            for name in names:
                if self._sizes_bytes[name] > SMALL_BYTES:
                    self._store.put(name, b"")
        except StoreError as error:
            return Leftover(len(names), where, str(error))
        return Leftover(len(names), where, "the store does not allow deleting")

    # -- inside --------------------------------------------------------------------------------------------

    def _writing(self, name: str, data: bytes | memoryview, put: Callable[[str, bytes | memoryview], None]) -> None:
        self._count()
        with self._lock:
            known_bytes = self._sizes_bytes.get(name)
            self._sizes_bytes[name] = max(len(data), known_bytes or 0)
        try:
            put(name, data)
        except (ObjectExistsError, StoreUnavailableError):
            raise  # something is there, or may be
        except StoreError as error:
            if known_bytes is None:
                with self._lock:
                    self._sizes_bytes.pop(name, None)
            if isinstance(error, StoreDeniedError):
                raise self._explained(error) from error
            raise

    def _explained(self, denial: StoreDeniedError) -> StoreDeniedError:
        """Tell a key that may not write from one that may do nothing: about that, the store's own words."""
        try:
            for _ in self._store.list(self.prefix):
                break
        except StoreDeniedError as error:
            return error
        return StoreDeniedError(
            f"the credentials may read but not write in {self.describe()}: allow putting objects ({denial})"
        )

    def _deleting(self, names: Sequence[str], delete: Callable[[], None]) -> bool:
        self._count()
        try:
            delete()
        except StoreDeniedError:
            self.may_delete = False
            return False
        with self._lock:
            for name in names:
                self._sizes_bytes.pop(name, None)
        return True

    def _remove_directories(self) -> None:
        """A local store keeps the directories of deleted objects for the next put; nobody else uses ours."""
        scheme, _, path = self.describe().partition("://")
        if scheme == "local":
            for directory, _, _ in os.walk(Path(path) / self.prefix, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()

    def _count(self) -> None:
        _check_group()
        with self._lock:
            self.call_count += 1
            self._progress(f"{self._phase}, request {self.call_count:,}")

    def _note_retry(self, verb: str, failed_attempts: int, error: StoreError) -> None:
        with self._lock:
            self.retry_count += 1
            self.last_retry = str(error)

    def _pause(self, seconds: float) -> None:
        _check_group()
        if seconds > self.patience_s:
            raise StoreBusyError(f"{self.describe()} asks to be left alone for {seconds:.0f} s: try again later")
        self._sleep(seconds)


def _check_group() -> None:
    group = _group.get()
    if group is not None:
        group.check()


def describe_damage(seen: bytes | memoryview, expected: bytes | memoryview) -> str:
    """Say how what was read differs from what was put."""
    if len(seen) != len(expected):
        return f"of {len(expected):,} bytes {len(seen):,} came back"
    place = next((place for place in range(len(seen)) if seen[place] != expected[place]), 0)
    return f"an object of {len(expected):,} bytes came back with byte {place:,} changed"
