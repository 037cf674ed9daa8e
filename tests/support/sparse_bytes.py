"""A file's content as a plain Python value: cheap to copy, huge holes cost nothing.

Imports nothing from cubefs: it is part of the model that cubefs is compared with.
"""

from __future__ import annotations

PAGE_BYTES = 64 * 1024


class SparseBytes:
    """A size, the pages that were written, and the exact ranges that were written."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._pages: dict[int, bytes] = {}  # immutable pages: a copy shares them
        self.written: list[tuple[int, int]] = []  # [start, stop), sorted, disjoint, not touching

    def copy(self) -> SparseBytes:
        """Return an independent copy."""
        twin = SparseBytes()
        twin.size_bytes = self.size_bytes
        twin._pages = dict(self._pages)
        twin.written = list(self.written)
        return twin

    @property
    def allocated_bytes(self) -> int:
        """Bytes that were written and not cut off since."""
        return sum(stop - start for start, stop in self.written)

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`, growing the file where needed; nothing at all for empty data."""
        if not data:
            return
        stop = offset + len(data)
        position = offset
        while position < stop:
            page, within = divmod(position, PAGE_BYTES)
            count = min(PAGE_BYTES - within, stop - position)
            piece = data[position - offset : position - offset + count]
            if count < PAGE_BYTES:
                old = self._pages.get(page, bytes(PAGE_BYTES))
                piece = old[:within] + piece + old[within + count :]
            self._pages[page] = piece
            position += count
        self.size_bytes = max(self.size_bytes, stop)
        self._note_written(offset, stop)

    def _note_written(self, start: int, stop: int) -> None:
        kept = []
        for a, b in self.written:
            if b < start or a > stop:
                kept.append((a, b))
            else:
                start, stop = min(a, start), max(b, stop)
        self.written = sorted([*kept, (start, stop)])

    def truncate(self, size_bytes: int) -> None:
        """Cut the file at `size_bytes`, or let it end in a hole there."""
        self.size_bytes = size_bytes
        self.written = [(a, min(b, size_bytes)) for a, b in self.written if a < size_bytes]
        last, within = divmod(size_bytes, PAGE_BYTES)
        for page in [page for page in self._pages if page > last or (page == last and within == 0)]:
            del self._pages[page]
        if last in self._pages:
            self._pages[last] = self._pages[last][:within] + bytes(PAGE_BYTES - within)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; short at the end of the file, empty behind it."""
        stop = min(offset + size, self.size_bytes)
        pieces = []
        position = offset
        while position < stop:
            page, within = divmod(position, PAGE_BYTES)
            count = min(PAGE_BYTES - within, stop - position)
            content = self._pages.get(page)
            pieces.append(bytes(count) if content is None else content[within : within + count])
            position += count
        return b"".join(pieces)

    def telling_ranges(self, margin_bytes: int = 100) -> list[tuple[int, int]]:
        """Return the (offset, size) that show the whole content: what was written and the holes' edges."""
        ranges: list[tuple[int, int]] = []
        for start, stop in [*self.written, (self.size_bytes, self.size_bytes)]:
            first, last = max(0, start - margin_bytes), stop + margin_bytes
            if ranges and first <= sum(ranges[-1]):
                first = ranges.pop()[0]
            ranges.append((first, last - first))
        return ranges
