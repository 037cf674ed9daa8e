"""Stores that break one promise each, on a clock that only tests move: what `cubefs store-test` has to find out.

Each is the store in memory with something overridden.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreDeniedError
from cubefs.store.base import ObjectInfo
from tests.support.memory_store import MemoryStore

FOREVER_S = 1e9


class ManualClock:
    """Time that passes when somebody sleeps, for all threads."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return round(self.now_s * 1e9)


class HonestStore(MemoryStore):
    """Keeps every promise, by the clock of the test."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock.time_ns)
        self.time = clock


class LateStore(HonestStore):
    """Shows changes late: each kind of change after a time of its own, in `late_s`.

    Kinds: put, overwrite, delete (for readers), listed, unlisted (for listings), remembered (how long a name
    that was asked for in vain is taken for missing).
    """

    def __init__(self, clock: ManualClock, **late_s: float) -> None:
        super().__init__(clock)
        self.late_s = late_s
        self._changes: dict[str, list[tuple[str, bytes | None]]] = {}
        self._visible_s: dict[str, list[float]] = {}
        self._missed_s: dict[str, float] = {}
        self._change_lock = threading.Lock()

    def _create(self, name: str, data: bytes | memoryview, *, exclusively: bool) -> None:
        super()._create(name, data, exclusively=exclusively)
        self._note(name, bytes(data))

    def delete(self, name: str) -> None:
        super().delete(name)
        self._note(name, None)

    def get(self, name: str, *, newest: bool = False) -> bytes:
        now_s = self.time.now_s
        with self._change_lock:
            body = self._seen(name, now_s)
            if body is None:
                self._missed_s[name] = now_s
            if body is None or now_s < self._missed_s.get(name, 0) + self.late_s.get("remembered", 0):
                raise ObjectMissingError(f"no object {name} yet")
        return body

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        now_s = self.time.now_s
        with self._change_lock:
            seen = [name for name in sorted(self._changes) if self._is_listed(name, now_s)]
        for name in seen:
            if name.startswith(prefix) and name > start_after:
                yield ObjectInfo(name, 0, 0)

    def _note(self, name: str, body: bytes | None) -> None:
        with self._change_lock:
            changes = self._changes.setdefault(name, [])
            was_there = bool(changes) and changes[-1][1] is not None
            kind = "delete" if body is None else "overwrite" if was_there else "put"
            changes.append((kind, body))
            self._visible_s.setdefault(name, []).append(self.time.now_s)

    def _seen(self, name: str, now_s: float) -> bytes | None:
        body = None
        for (kind, new), at_s in zip(self._changes.get(name, []), self._visible_s.get(name, []), strict=True):
            if at_s + self.late_s.get(kind, 0) <= now_s:
                body = new
        return body

    def _is_listed(self, name: str, now_s: float) -> bool:
        listed = False
        for (kind, _), at_s in zip(self._changes[name], self._visible_s[name], strict=True):
            late_s = self.late_s.get("unlisted" if kind == "delete" else "listed", 0)
            if at_s + late_s <= now_s:
                listed = kind != "delete"
        return listed


class ReplicatedStore(LateStore):
    """Two replicas answer in turn: every second answer is from the one that is late."""

    def __init__(self, clock: ManualClock, **late_s: float) -> None:
        super().__init__(clock, **late_s)
        self._turns: dict[str, int] = {}

    def get(self, name: str, *, newest: bool = False) -> bytes:
        with self._change_lock:
            turn = self._turns[name] = self._turns.get(name, -1) + 1
        return MemoryStore.get(self, name) if turn % 2 == 0 else super().get(name, newest=newest)


class IgnoresCondition(HonestStore):
    """Overwrites whatever the condition says."""

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        self.put(name, data)


class SaysDone(HonestStore):
    """Keeps the first body of a name and tells everybody that theirs was stored."""

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        try:
            super().put_new(name, data)
        except ObjectExistsError:
            return


class RefusesFree(HonestStore):
    """Puts, and says that the name was taken."""

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        self.put(name, data)
        raise ObjectExistsError(f"{name} exists already")


class ChecksThenActs(HonestStore):
    """Looks whether a name is free, and puts later: of several at once the second replaces the first.

    Without `tells`, the second is refused and its contents are there all the same.
    """

    def __init__(self, clock: ManualClock, *, tells: bool = True) -> None:
        super().__init__(clock)
        self._tells = tells
        self._tries: dict[str, int] = {}
        self._try_lock = threading.Lock()

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        with self._try_lock:
            tried = self._tries[name] = self._tries.get(name, 0) + 1
            if tried == 2 and "/race/" in name:
                self.put(name, data)
                if self._tells:
                    return
            super().put_new(name, data)

    def delete(self, name: str) -> None:
        super().delete(name)
        with self._try_lock:
            self._tries.pop(name, None)


class WrongRanges(HonestStore):
    """Ranges as `wrong` makes them of the whole body."""

    def __init__(self, clock: ManualClock, wrong: Callable[[bytes, int, int], bytes]) -> None:
        super().__init__(clock)
        self._wrong = wrong

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        return self._wrong(self.get(name), start, length)


class AppendOnly(HonestStore):
    """Allows everything but deleting."""

    def delete(self, name: str) -> None:
        raise StoreDeniedError(f"{name}: no permission to delete")


class KeepsDeleted(HonestStore):
    """Acknowledges deletions of names that contain `which` and does nothing."""

    def __init__(self, clock: ManualClock, which: str) -> None:
        super().__init__(clock)
        self._which = which

    def delete(self, name: str) -> None:
        if self._which not in name:
            super().delete(name)

    def delete_many(self, names: Iterable[str]) -> None:
        for name in names:
            super().delete(name) if "paging" in name else self.delete(name)


class ShortNames(HonestStore):
    """Knows the first 255 bytes of a name."""

    def _create(self, name: str, data: bytes | memoryview, *, exclusively: bool) -> None:
        super()._create(name[:255], data, exclusively=exclusively)

    def get(self, name: str, *, newest: bool = False) -> bytes:
        return super().get(name[:255], newest=newest)

    def delete(self, name: str) -> None:
        super().delete(name[:255])


class WrongListings(HonestStore):
    """Listings as `wrong` makes them of the right ones; it is given start_after, too."""

    def __init__(self, clock: ManualClock, wrong: Callable[[list[ObjectInfo], str], list[ObjectInfo]]) -> None:
        super().__init__(clock)
        self._wrong = wrong

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        yield from self._wrong([*super().list(prefix)], start_after)
