"""A store in memory: the whole contract and nothing else, for tests and for deterministic simulation.

Implements `cubefs.store.base.Store`. Thread-safe; nothing in it depends on time, threads or chance except as
passed in.
"""

from __future__ import annotations

import bisect
import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreError
from cubefs.store import base
from cubefs.store.base import ObjectInfo, Pace
from cubefs.store.pace import PART_BYTES, PacedBody, Unpaced, receive

STEP_NAMES = 1000  # a listing takes so many names under the lock at a time, as other stores have pages


class _Objects:
    """What is stored: shared by all instances of one store."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.names: list[str] = []  # sorted
        self.held: dict[str, tuple[bytes, int]] = {}  # name -> (body, time in ns)


class MemoryStore:
    """A store that forgets everything when the last instance is gone."""

    def __init__(
        self,
        url: str = "memory://test",
        *,
        clock: Callable[[], int] = time.time_ns,
        pace: Pace | None = None,
    ) -> None:
        """Begin empty. `clock` returns ns since 1970: the store's time."""
        self._url = url
        self._clock = clock
        self._pace = pace or Unpaced()
        self._objects = _Objects()

    def another(self, *, pace: Pace | None = None) -> MemoryStore:
        """Return a second instance of the same store, as another machine would open it."""
        store = MemoryStore(self._url, clock=self._clock, pace=pace)
        store._objects = self._objects
        return store

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._create(name, data, exclusively=False)

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        self._create(name, data, exclusively=True)

    def get(self, name: str, *, newest: bool = False) -> bytes:
        body, _ = self._find(name)
        if len(body) > base.OBJECT_MAX_BYTES:
            raise StoreError(f"{name} in {self._url} is {len(body)} bytes long: not one of ours")
        return self._received(body)

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        base.check_name(name)
        base.check_range(name, start=start, length=length)
        body, _ = self._find(name)
        part = body[start : start + length]
        if len(part) != length:
            raise StoreError(f"{name} in {self._url} ends before byte {start + length}")
        return self._received(part)

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        body, modified_ns = self._find(name)
        return ObjectInfo(name, len(body), modified_ns)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        base.check_prefix(prefix)
        while page := self._page(prefix, start_after):
            yield from page
            start_after = page[-1].name

    def delete(self, name: str) -> None:
        base.check_name(name)
        objects = self._objects
        with objects.lock:
            if objects.held.pop(name, None) is not None:
                del objects.names[bisect.bisect_left(objects.names, name)]

    def delete_many(self, names: Iterable[str]) -> None:
        for name in names:
            self.delete(name)

    def describe(self) -> str:
        return self._url

    def now_ns(self) -> int:
        return self._clock()

    def free_bytes(self) -> int | None:
        return None

    def _create(self, name: str, data: bytes | memoryview, *, exclusively: bool) -> None:
        base.check_name(name)
        if self._pace.is_limited_up():
            source = PacedBody(data, self._pace)
            body = b"".join(iter(lambda: source.read(PART_BYTES), b""))
        else:
            body = bytes(data)
        objects = self._objects
        with objects.lock:
            taken = name in objects.held
            if taken and exclusively:
                raise ObjectExistsError(f"{name} exists already in {self._url}")
            if not taken:
                bisect.insort(objects.names, name)
            objects.held[name] = (body, self._clock())

    def _find(self, name: str) -> tuple[bytes, int]:
        base.check_name(name)
        with self._objects.lock:
            found = self._objects.held.get(name)
        if found is None:
            raise ObjectMissingError(f"no object {name} in {self._url}")
        return found

    def _received(self, body: bytes) -> bytes:
        if not self._pace.is_limited_down():
            return body
        return receive(io.BytesIO(body).read, length=len(body), pace=self._pace)

    def _page(self, prefix: str, start_after: str) -> list[ObjectInfo]:
        objects = self._objects
        with objects.lock:
            start = max(
                bisect.bisect_left(objects.names, prefix),
                bisect.bisect_right(objects.names, start_after) if start_after else 0,
            )
            page = []
            for name in objects.names[start : start + STEP_NAMES]:
                if not name.startswith(prefix):
                    break
                body, modified_ns = objects.held[name]
                page.append(ObjectInfo(name, len(body), modified_ns))
            return page
