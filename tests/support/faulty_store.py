"""A store around a store that fails, lies or waits on command: faults that a real one does not produce.

Implements `cubefs.store.base.Store`. Thread-safe, as a store has to be.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from cubefs.store.base import ObjectInfo, Store

Spoil = Callable[[bytes], bytes]
MUTATING = ("put", "put_new", "delete")


class FaultyStore:
    """Passes every call on to `inner`, except as told by `fail`, `spoil` and `hook`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        # called with (verb, name) before each call; may raise (it counts as a failure), block, or do anything
        self.hook: Callable[[str, str], None] = lambda verb, name: None
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, bool], list[BaseException]] = {}
        self._spoils: dict[str, list[Spoil]] = {}

    def fail(self, verb: str, error: BaseException, *, times: int = 1, done: bool = False) -> None:
        """The next `times` calls of `verb` raise; with `done` the work is done and only the answer lost."""
        self._failures.setdefault((verb, done), []).extend([error] * times)

    def spoil(self, verb: str, spoil: Spoil, *, times: int = 1) -> None:
        """The next `times` calls of `verb` store (put, put_new) or return (get, get_range) other bytes."""
        self._spoils.setdefault(verb, []).extend([spoil] * times)

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._before("put", name)
        self.inner.put(name, self._spoilt("put", data))
        self._raise("put", done=True)

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        self._before("put_new", name)
        self.inner.put_new(name, self._spoilt("put_new", data))
        self._raise("put_new", done=True)

    def get(self, name: str, *, newest: bool = False) -> bytes:
        self._before("get", name)
        return self._spoilt("get", self.inner.get(name, newest=newest))

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        self._before("get_range", name)
        return self._spoilt("get_range", self.inner.get_range(name, start=start, length=length))

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        self._before("head", name)
        return self.inner.head(name, newest=newest)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Failures come in the middle: each after the first object of a listing."""
        self._note("list", prefix)
        for info in self.inner.list(prefix, start_after=start_after):
            yield info
            self._raise("list", done=False)

    def delete(self, name: str) -> None:
        self._before("delete", name)
        self.inner.delete(name)
        self._raise("delete", done=True)

    def delete_many(self, names: Iterable[str]) -> None:
        for name in names:
            self.delete(name)

    def describe(self) -> str:
        return self.inner.describe()

    def now_ns(self) -> int:
        return self.inner.now_ns()

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def _note(self, verb: str, name: str) -> None:
        with self._lock:
            self.calls[verb] += 1
        self.hook(verb, name)

    def _before(self, verb: str, name: str) -> None:
        self._note(verb, name)
        self._raise(verb, done=False)

    def _raise(self, verb: str, *, done: bool) -> None:
        with self._lock:
            planned = self._failures.get((verb, done))
            error = planned.pop(0) if planned else None
        if error is not None:
            raise error

    def _spoilt(self, verb: str, data: bytes | memoryview) -> bytes:
        with self._lock:
            planned = self._spoils.get(verb)
            spoil = planned.pop(0) if planned else None
        return spoil(bytes(data)) if spoil else bytes(data)
