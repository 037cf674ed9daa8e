"""All files that are open or hold unsealed data, by inode.

Must never: forget a file that is dirty.
"""

from __future__ import annotations

from cubefs.engine.dirty import DirtyLimit
from cubefs.engine.filestate import FileState
from cubefs.model import Attr


class FileTable:
    """The registry of FileState."""

    def __init__(self, limit: DirtyLimit) -> None:
        self.limit = limit
        self._states: dict[int, FileState] = {}

    def find(self, inode: int) -> FileState | None:
        """Return the state of a file, if there is any."""
        return self._states.get(inode)

    def get(self, attr: Attr) -> FileState:
        """Return the state of a file, made from its row when there is none."""
        state = self._states.get(attr.ino)
        if state is None:
            state = self._states[attr.ino] = FileState(attr, self.limit)
        return state

    def forget(self, inode: int) -> None:
        """Drop the state of a file that is gone."""
        self._states.pop(inode, None)

    def dirty(self) -> list[FileState]:
        """Return the files with data that is not in the database; forgets those neither dirty nor open."""
        idle = [inode for inode, state in self._states.items() if not (state.open_count or state.is_dirty)]
        for inode in idle:
            del self._states[inode]
        return [state for state in self._states.values() if state.is_dirty]

    def drop_tails(self) -> None:
        """Forget the last blocks of growing files: writers wait for the memory."""
        for state in self._states.values():
            state.drop_tail()

    @property
    def open_count(self) -> int:
        """Number of files that are open."""
        return sum(1 for state in self._states.values() if state.open_count)
