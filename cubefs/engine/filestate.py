"""What is known in memory of a file that is open or holds data not yet sealed.

Must never: be the only place of a change to names or attributes (those go to the database at once); it holds
data, and the size and times that came with that data.
"""

from __future__ import annotations

from collections.abc import Iterator

from cubefs.engine.dirty import DirtyLimit, Ranges
from cubefs.model import BLOCK_MAX_BYTES, Attr


class Tail:
    """The end of a growing file since its last settled block boundary: sealed, and kept to be cut again."""

    __slots__ = ("_parts", "bytes_held", "fresh_bytes", "start")

    def __init__(self, start: int, data: bytes) -> None:
        self.start = start
        self._parts = [data]
        self.bytes_held = len(data)
        self.fresh_bytes = 0  # of them, sealed as blocks of their own since

    @property
    def stop(self) -> int:
        """Where the next append begins."""
        return self.start + self.bytes_held

    def append(self, data: bytes) -> None:
        """Add what was sealed as blocks of its own."""
        self._parts.append(data)
        self.bytes_held += len(data)
        self.fresh_bytes += len(data)

    def is_outgrown_by(self, length: int) -> bool:
        """Whether appending `length` more is worth cutting everything again."""
        settled = self.bytes_held - self.fresh_bytes
        return 2 * (self.fresh_bytes + length) >= settled or self.bytes_held + length > BLOCK_MAX_BYTES

    def joined(self) -> bytes:
        """Return all of it."""
        return b"".join(self._parts)


class FileState:
    """One live regular file: its unsealed data, and its size as programs see it."""

    __slots__ = (
        "_charged_bytes",
        "_limit",
        "applied_count",
        "body",
        "ctime_ns",
        "dirty",
        "inode",
        "is_unlinked",
        "mtime_ns",
        "must_seal",
        "open_count",
        "rewrite_count",
        "sealing",
        "sealing_is_wanted",
        "sealing_stop",
        "size_bytes",
        "tail",
        "taken_count",
    )

    def __init__(self, attr: Attr, limit: DirtyLimit) -> None:
        self.inode = attr.ino
        self.body = attr.body
        self.size_bytes = attr.size_bytes
        self.mtime_ns: int | None = None  # of the last write not yet in the database
        self.ctime_ns: int | None = None
        self.dirty = Ranges()
        self.sealing: Ranges | None = None  # being hashed and packed: still served to readers
        self.sealing_stop: int | None = None  # a truncate has overtaken the sealing data beyond this
        self.sealing_is_wanted = False  # as `must_seal`, for the generation being sealed
        self.tail: Tail | None = None  # the end of a growing stream: cut again together with what is appended
        self.open_count = 0
        self.is_unlinked = False
        self.must_seal = False  # the next commit must include the data: a name or attribute change has relied on it
        self.rewrite_count = 0  # changes other than appends to the dirty run: invalidates a plan made from it
        self.taken_count = 0  # generations handed to the sealer
        self.applied_count = 0  # generations that reached the database
        self._limit = limit
        self._charged_bytes = 0

    @property
    def is_dirty(self) -> bool:
        """Whether any accepted data is not in the database yet."""
        return bool(self.dirty) or self.sealing is not None

    @property
    def is_wanted(self) -> bool:
        """Whether the next commit must include this file's data."""
        return self.must_seal or self.sealing_is_wanted

    @property
    def pending_bytes(self) -> int:
        """Data bytes not in the database yet."""
        return self.dirty.bytes_held + (self.sealing.bytes_held if self.sealing else 0)

    def charge(self) -> None:
        """Bring what this file counts against the dirty limit up to date."""
        cost = (
            self.dirty.cost_bytes
            + (self.sealing.cost_bytes if self.sealing else 0)
            + (self.tail.bytes_held if self.tail else 0)
        )
        if cost != self._charged_bytes:
            self._limit.change(cost - self._charged_bytes)
            self._charged_bytes = cost

    def write(self, offset: int, data: bytes, *, now_ns: int) -> None:
        """Accept data: it is what readers see from now on."""
        if self.dirty and self.dirty.stop != offset:
            self.rewrite_count += 1
        self.dirty.write(offset, data)
        self.size_bytes = max(self.size_bytes, offset + len(data))
        self.mtime_ns = self.ctime_ns = now_ns
        self.charge()

    def truncate(self, size_bytes: int) -> None:
        """Forget unsealed data beyond a new size, and note that data being sealed must not come back."""
        self.rewrite_count += 1
        self.tail = None
        self.dirty.truncate(size_bytes)
        if self.sealing is not None:
            stop = self.sealing_stop
            self.sealing_stop = size_bytes if stop is None else min(stop, size_bytes)
        self.size_bytes = size_bytes
        self.charge()

    def keep_tail(self, start: int, data: bytes, *, continues: bool) -> None:
        """Remember what was sealed of a growing stream since its last settled block boundary.

        continues: `data` was cut by itself although it follows what is remembered already.
        """
        if continues and self.tail and start == self.tail.stop:
            self.tail.append(data)
        else:
            self.tail = Tail(start, data)
        self.charge()

    def drop_tail(self) -> None:
        """Forget what `keep_tail` kept: the memory is needed, or the file has changed otherwise."""
        if self.tail is not None:
            self.tail = None
            self.charge()

    def absorb_tail(self, *, always: bool = False) -> None:
        """Let what was appended be cut from the last settled boundary, as if all had been written in one go.

        Unless `always`, only when at least half as much was appended since: each byte is then sealed a few times
        at most, however often a small append is synced.
        """
        tail, dirty = self.tail, self.dirty
        if tail is None:
            return
        grows = dirty.is_stream and len(dirty) == 1 and next(iter(dirty)).start == tail.stop
        if not grows:
            self.tail = None
        elif always or tail.is_outgrown_by(dirty.bytes_held):
            self.tail = None
            dirty.prepend(tail.joined())
        self.charge()

    def merge_tail(self) -> None:
        """At the last close: cut the end of a file that grew slowly once more, when it lies in several blocks."""
        if self.tail is not None and self.sealing is None:
            if self.dirty:
                self.absorb_tail(always=True)
            elif self.tail.fresh_bytes:
                self.dirty.write(self.tail.start, self.tail.joined())
        self.drop_tail()
        self.charge()

    def take(self) -> Ranges:
        """Hand all dirty data to the sealer as the next generation."""
        taken, self.dirty = self.dirty, Ranges()
        self.sealing_is_wanted, self.must_seal = self.must_seal, False
        self._start(taken)
        return taken

    def take_planned(self, joined: memoryview, *, length: int, part_count: int, rest: bytes) -> Ranges:
        """Hand the first `length` bytes of the dirty run to the sealer.

        `joined` are its first `part_count` parts in one, `rest` a copy of joined[length:]. The caller has checked
        that `rewrite_count` is what it was when it looked.
        """
        taken = self.dirty.replace_head(joined, length=length, part_count=part_count, rest=rest)
        self._start(taken)
        return taken

    def _start(self, taken: Ranges) -> None:
        assert self.sealing is None
        self.sealing = taken
        self.sealing_stop = None
        self.taken_count += 1
        self.rewrite_count += 1
        self.charge()

    def finish_sealing(self) -> None:
        """The generation being sealed has reached the database (or was overtaken)."""
        self.sealing = None
        self.sealing_stop = None
        self.sealing_is_wanted = False
        self.applied_count += 1
        if not self.dirty:
            self.must_seal = False
            self.mtime_ns = self.ctime_ns = None
        self.charge()

    def drop(self) -> None:
        """Forget all unsealed data: the file is gone."""
        self.dirty = Ranges()
        self.tail = None
        self.rewrite_count += 1
        self.must_seal = False
        if self.sealing is not None:
            self.sealing_stop = 0
        self.charge()

    def overlay(self, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
        """Yield unsealed bytes in [start, stop), older generations first: later ones lie over them."""
        if self.sealing is not None:
            limit = stop if self.sealing_stop is None else min(stop, self.sealing_stop)
            if limit > start:
                yield from self.sealing.overlay(start, limit)
        yield from self.dirty.overlay(start, stop)

    def seen(self, attr: Attr) -> Attr:
        """Return `attr`, the database's row, as programs see it: with the size and times of unsealed data."""
        return attr._replace(
            size_bytes=self.size_bytes,
            # at most: the unsealed data may lie over bytes that are counted already
            allocated_bytes=min(attr.allocated_bytes + self.pending_bytes, self.size_bytes),
            mtime_ns=attr.mtime_ns if self.mtime_ns is None else self.mtime_ns,
            ctime_ns=attr.ctime_ns if self.ctime_ns is None else self.ctime_ns,
        )
