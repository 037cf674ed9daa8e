"""The state machine finds deliberate faults: each test breaks one function and expects the machine to fail.

A net that catches nothing proves nothing. The seeds are fixed, so a mutant that is found once is always found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.extents import Extents
from cubefs.db.snapshots import Snapshots
from cubefs.db.tree import Tree
from cubefs.db.xattrs import Xattrs
from cubefs.engine.committing import Committer
from cubefs.engine.sealing import Sealer
from tests.fs.machine import FileSystemMachine

BOUNDED = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # that it fails is enough, a small example is not needed
    suppress_health_check=[],
)

Mutant = Callable[[pytest.MonkeyPatch], None]


def inode_history_skipped(patch: pytest.MonkeyPatch) -> None:
    """The old attributes of an inode are not kept for the snapshots that see them."""
    patch.setattr(Tree, "_keep_inode", lambda self, inode: None)


def entry_history_skipped(patch: pytest.MonkeyPatch) -> None:
    """A removed or renamed entry is not kept."""
    patch.setattr(Tree, "_keep_entry", lambda self, entry: None)


def xattr_history_skipped(patch: pytest.MonkeyPatch) -> None:
    """The old value of an extended attribute is not kept."""
    patch.setattr(Xattrs, "_keep", lambda self, inode, name: None)


def extent_history_skipped(patch: pytest.MonkeyPatch) -> None:
    """An overwritten extent is dropped as if no snapshot saw it."""
    real = Extents._retire

    def retire(self: Extents, body: int, row: Any, **rest: Any) -> None:
        real(self, body, row, **rest | {"newest": 0})

    patch.setattr(Extents, "_retire", retire)


def epoch_not_raised(patch: pytest.MonkeyPatch) -> None:
    """Taking a snapshot begins no new epoch: later changes count as seen by it."""
    real = Snapshots.create

    def create(self: Snapshots, name: bytes, *, now_ns: int) -> Any:
        snapshot = real(self, name, now_ns=now_ns)
        self._db.epoch -= 1
        return snapshot

    patch.setattr(Snapshots, "create", create)


def view_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """A snapshot's data is looked up one epoch too late."""
    real = Extents.pieces_at

    def pieces_at(self: Extents, body: int, epoch: int, **rest: Any) -> Any:
        return real(self, body, epoch + 1, **rest)

    patch.setattr(Extents, "pieces_at", pieces_at)


def newest_snapshot_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """What only the newest snapshot sees is not kept."""
    real = Database.refresh_newest_snapshot

    def refresh(self: Database) -> None:
        real(self)
        self.newest_snapshot = max(0, self.newest_snapshot - 1)

    patch.setattr(Database, "refresh_newest_snapshot", refresh)


def until_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """A kept extent claims to have been valid one epoch longer than it was."""
    real = Extents._retire

    def retire(self: Extents, body: int, row: Any, **rest: Any) -> None:
        real(self, body, row, **rest | {"until": rest["until"] + 1})

    patch.setattr(Extents, "_retire", retire)


def reference_lost(patch: pytest.MonkeyPatch) -> None:
    """A reference given back is counted twice."""
    real = Blocks.change_refs

    def change_refs(self: Blocks, deltas: Any) -> None:
        counted = dict(deltas)
        for block, delta in counted.items():
            if delta == -1:
                sql = "SELECT refs FROM block WHERE id = ?"
                if self._execute(sql, (block,)).get > 1:
                    counted[block] = -2
                    break
        real(self, counted)

    patch.setattr(Blocks, "change_refs", change_refs)


def reference_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A further reference to a known block is not counted."""
    real = Blocks.change_refs

    def change_refs(self: Blocks, deltas: Any) -> None:
        sql = "SELECT refs FROM block WHERE id = ?"
        counted = {
            block: delta for block, delta in deltas.items() if delta < 0 or self._execute(sql, (block,)).get == 0
        }
        real(self, counted)

    patch.setattr(Blocks, "change_refs", change_refs)


def rename_keeps_the_old_entry(patch: pytest.MonkeyPatch) -> None:
    """After a rename the thing has both names."""
    real = Tree.move_entry

    def move_entry(self: Tree, entry: Any, *, parent: int, name: bytes) -> None:
        real(self, entry, parent=parent, name=name)
        self.insert_entry(entry.parent, entry.name, entry.inode)

    patch.setattr(Tree, "move_entry", move_entry)


def split_loses_its_tail(patch: pytest.MonkeyPatch) -> None:
    """What lies behind an overwritten range of an extent is gone."""
    real = Extents._insert

    def insert(
        self: Extents, body: int, file_offset: int, length: int, block: int, offset: int, deltas: Any
    ) -> None:
        if offset == 0:  # only a tail begins inside its block
            real(self, body, file_offset, length, block, offset, deltas)

    patch.setattr(Extents, "_insert", insert)


def removal_takes_the_neighbours_history(patch: pytest.MonkeyPatch) -> None:
    """Removing a snapshot drops history that an older one still sees."""
    patch.setattr(Snapshots, "_neighbours", lambda self, number: (0, self._db.epoch))


def fsync_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """fsync returns at once: only a crash shows it."""
    patch.setattr(Committer, "commit", skip_unless(Committer.commit, lambda asked: bool(asked)))


def snapshot_does_not_settle(patch: pytest.MonkeyPatch) -> None:
    """A snapshot is taken without the data that is still in memory."""
    patch.setattr(Sealer, "settle", skip_unless(Sealer.settle, lambda asked: False))


def skip_unless(real: Callable[..., Any], condition: Callable[[dict[str, Any]], bool]) -> Callable[..., Any]:
    """Return `real`, doing nothing unless its keyword arguments fulfil the condition."""

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await real(self, *args, **kwargs) if condition(kwargs) else 0

    return call


MUTANTS = [
    fsync_does_nothing,
    snapshot_does_not_settle,
    inode_history_skipped,
    entry_history_skipped,
    xattr_history_skipped,
    extent_history_skipped,
    epoch_not_raised,
    view_off_by_one,
    newest_snapshot_off_by_one,
    until_off_by_one,
    reference_lost,
    reference_not_counted,
    rename_keeps_the_old_entry,
    split_loses_its_tail,
    removal_takes_the_neighbours_history,
]


@pytest.mark.log_warnings
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_machine_finds(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(Exception) as caught:  # whatever the mutant breaks: an assertion, a constraint, fsck
        run_state_machine_as_test(FileSystemMachine, settings=BOUNDED)
    assert not isinstance(caught.value, NameError | AttributeError | TypeError), "the mutant itself is broken"
