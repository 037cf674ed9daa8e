"""Data written but not yet sealed: ranges in memory, per inode, and the bound on all of them together.

Must never: drop an accepted byte; what leaves a `Ranges` has been sealed, overwritten, truncated or unlinked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import trio

_PART_OVERHEAD_BYTES = 200  # of a list entry and a bytes object: counted, so that tiny writes are bounded too


class Run:
    """One contiguous dirty range, as the parts that were written."""

    __slots__ = ("parts", "start", "stop")

    def __init__(self, start: int, parts: list[bytes | memoryview], stop: int) -> None:
        self.start = start
        self.parts = parts
        self.stop = stop

    def joined(self) -> bytes | memoryview:
        """Return the bytes as one buffer (copies when there are several parts; may run in a worker)."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    def compact(self) -> memoryview:
        """Make the run one part and return it."""
        joined = memoryview(self.joined())
        self.parts = [joined]
        return joined


class Ranges:
    """Sorted dirty runs of one file that do not overlap; the newest write wins."""

    __slots__ = ("_runs", "_starts", "bytes_held", "is_stream", "parts_held")

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._starts: list[int] = []
        self.bytes_held = 0
        self.parts_held = 0
        self.is_stream = True  # every write so far began where the one before it ended

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def cost_bytes(self) -> int:
        """What these ranges count against the dirty limit."""
        return self.bytes_held + self.parts_held * _PART_OVERHEAD_BYTES

    @property
    def stop(self) -> int:
        """The end of the last run (0 when there is none)."""
        return self._runs[-1].stop if self._runs else 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Lay `data` over what is there."""
        stop = offset + len(data)
        runs = self._runs
        if runs and runs[-1].stop == offset:
            runs[-1].parts.append(data)
            runs[-1].stop = stop
        elif not runs or runs[-1].stop < offset:
            self.is_stream = self.is_stream and not runs
            self._add(len(runs), Run(offset, [data], stop))
        else:
            self.is_stream = False
            self.cut(offset, stop)
            index = bisect_right(self._starts, offset)
            if index and runs[index - 1].stop == offset:
                runs[index - 1].parts.append(data)
                runs[index - 1].stop = stop
            else:
                self._add(index, Run(offset, [data], stop))
        self.bytes_held += len(data)
        self.parts_held += 1

    def prepend(self, data: bytes) -> None:
        """Lay `data` right before the one run of a stream."""
        run = self._runs[0]
        run.parts.insert(0, data)
        run.start -= len(data)
        self._starts[0] = run.start
        self._count(len(data))

    def cut(self, start: int, stop: int) -> None:
        """Forget what lies in [start, stop): it was overwritten, truncated or taken."""
        index = bisect_left(self._starts, start)
        if index and self._runs[index - 1].stop > start:
            index -= 1
        while index < len(self._runs) and self._runs[index].start < stop:
            run = self._runs[index]
            self._remove(index)
            if run.start < start or run.stop > stop:
                view = run.compact()
                if run.start < start:
                    self._add(index, Run(run.start, [_kept(view[: start - run.start])], start))
                    self._count(start - run.start)
                    index += 1
                if run.stop > stop:
                    self._add(index, Run(stop, [_kept(view[stop - run.start :])], run.stop))
                    self._count(run.stop - stop)

    def truncate(self, size_bytes: int) -> None:
        """Forget everything at or beyond `size_bytes`."""
        if self.stop > size_bytes:
            self.is_stream = False
            self.cut(size_bytes, self.stop)

    def replace_head(self, joined: memoryview, *, length: int, part_count: int, rest: bytes) -> Ranges:
        """Split off the first `length` bytes of the first run and return them.

        `joined` holds the run's first `part_count` parts in one buffer, `rest` a copy of joined[length:].
        """
        run = self._runs[0]
        later = run.parts[part_count:]
        later_bytes = run.stop - run.start - len(joined)
        head = Ranges()
        head.write(run.start, joined[:length])
        self._remove(0)
        kept: list[bytes | memoryview] = [rest, *later] if rest else later
        if kept:
            self._add(0, Run(run.start + length, kept, run.stop))
            self.bytes_held += len(rest) + later_bytes
            self.parts_held += len(kept)
        return head

    def overlay(self, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
        """Yield (file offset, bytes) of what lies in [start, stop), in order."""
        index = bisect_left(self._starts, start)
        if index and self._runs[index - 1].stop > start:
            index -= 1
        for run in self._runs[index:]:
            if run.start >= stop:
                return
            offset = run.start
            for part in run.parts:
                part_stop = offset + len(part)
                if part_stop > start and offset < stop:
                    first, last = max(start - offset, 0), min(stop - offset, len(part))
                    yield offset + first, memoryview(part)[first:last]
                offset = part_stop

    def _add(self, index: int, run: Run) -> None:
        self._runs.insert(index, run)
        self._starts.insert(index, run.start)

    def _count(self, length: int) -> None:
        self.bytes_held += length
        self.parts_held += 1

    def _remove(self, index: int) -> None:
        run = self._runs.pop(index)
        del self._starts[index]
        self.bytes_held -= run.stop - run.start
        self.parts_held -= len(run.parts)


def _kept(view: memoryview) -> bytes | memoryview:
    """Return `view`, or a copy where it would keep more than twice its size alive, uncounted."""
    return bytes(view) if 2 * len(view) < memoryview(view.obj).nbytes else view


class DirtyLimit:
    """The bound on dirty memory: writers wait, never more than the limit and one write each is held."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.waiting_count = 0
        self._changed = trio.Event()

    @property
    def is_full(self) -> bool:
        """Whether a writer would have to wait."""
        return self.used_bytes >= self.limit_bytes

    def change(self, delta_bytes: int) -> None:
        """Count bytes in or out."""
        self.used_bytes += delta_bytes
        if delta_bytes < 0 and self.waiting_count:
            self._changed.set()
            self._changed = trio.Event()

    async def wait_less(self) -> None:
        """Wait until something has been counted out: there may be room now."""
        self.waiting_count += 1
        try:
            await self._changed.wait()
        finally:
            self.waiting_count -= 1
