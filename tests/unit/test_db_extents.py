"""Extents, snapshots and reference counts in any interleaving, against plain copies of the files' contents."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cubefs.db import image
from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.extents import Extents, NewExtent, Piece, RefDeltas
from cubefs.db.snapshots import Snapshots
from cubefs.errors import IntegrityError
from cubefs.model import BLOCK_MAX_BYTES, Chunking, FrameInfo, SnapshotState

BLOCK_BYTES = 12
BLOCK_COUNT = 6
FILE_COUNT = 3
SPACE = 48

Content = dict[int, tuple[int, int]]  # file offset → (block, offset in the block)

FILES = st.integers(0, FILE_COUNT - 1)
OFFSETS = st.integers(0, SPACE)


@cache
def empty_image() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="cubefs-test-")
    atexit.register(directory.cleanup)
    path = Path(directory.name) / "empty"
    image.create_image(path, uuid=bytes(16), chunking=Chunking.CONTENT, now_ns=1)
    return path


def content_of(pieces: list[Piece]) -> Content:
    """Return what pieces say, byte by byte; they must not overlap."""
    found: Content = {}
    for piece in pieces:
        for index in range(piece.length):
            assert piece.file_offset + index not in found
            assert piece.block_offset + index < piece.block_length
            found[piece.file_offset + index] = (piece.block, piece.block_offset + index)
    return found


class ExtentMachine(RuleBasedStateMachine):
    """Each file has a body; snapshots keep copies of (body, content) of every file."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="cubefs-test-"))
        shutil.copyfile(empty_image(), self.directory / "db.sqlite")
        self.db = Database(self.directory / "db.sqlite")
        self.extents = Extents(self.db)
        self.blocks = Blocks(self.db)
        self.snapshots = Snapshots(self.db)
        with self.db.operation():
            pack = self.blocks.insert_pack(bytes(32), now_ns=1)
            for number in range(BLOCK_COUNT):
                self.blocks.insert_frame(pack, number, FrameInfo(64 + number * 100, 100, BLOCK_BYTES))
                self.blocks.place(bytes([number]) * 32, length=BLOCK_BYTES, pack=pack, frame=number, frame_offset=0)
            self.bodies = [self.db.new_id("body") for _ in range(FILE_COUNT)]
        self.live: list[Content] = [{} for _ in range(FILE_COUNT)]
        self.taken: dict[int, list[tuple[int, Content]]] = {}

    def teardown(self) -> None:
        self.finish_everything()
        self.db.close()
        shutil.rmtree(self.directory)

    # -- changes ----------

    @rule(
        file=FILES,
        writes=st.lists(
            st.tuples(OFFSETS, st.integers(1, BLOCK_BYTES), st.integers(1, BLOCK_COUNT)), min_size=1, max_size=3
        ),
    )
    def write(self, file: int, writes: list[tuple[int, int, int]]) -> None:
        before = len(self.live[file])
        with self.db.operation():
            deltas: RefDeltas = defaultdict(int)
            changed = self.extents.write(self.bodies[file], [NewExtent(*each) for each in writes], deltas)
            self.blocks.change_refs(deltas)
        for offset, length, block in writes:
            for index in range(length):
                self.live[file][offset + index] = (block, index)
        assert changed == len(self.live[file]) - before

    @rule(file=FILES, start=OFFSETS, stop=OFFSETS)
    def punch(self, file: int, start: int, stop: int) -> None:
        stop = max(start, stop)
        with self.db.operation():
            deltas: RefDeltas = defaultdict(int)
            freed = self.extents.punch(self.bodies[file], start=start, stop=stop, deltas=deltas)
            self.blocks.change_refs(deltas)
        gone = [offset for offset in self.live[file] if start <= offset < stop]
        for offset in gone:
            del self.live[file][offset]
        assert freed == len(gone)

    @rule(file=FILES, start=OFFSETS, limit=st.integers(1, 4), stops_early=st.booleans())
    def clip(self, file: int, start: int, limit: int, stops_early: bool) -> None:
        reached: int | None = SPACE * 2
        while reached is not None:
            before = len(self.live[file])
            with self.db.operation():
                deltas: RefDeltas = defaultdict(int)
                freed, so_far = self.extents.clip_step(self.bodies[file], start=start, limit=limit, deltas=deltas)
                self.blocks.change_refs(deltas)
            assert so_far is None or start <= so_far < reached
            reached = so_far
            bound = start if so_far is None else so_far
            self.live[file] = {offset: at for offset, at in self.live[file].items() if offset < bound}
            assert freed == before - len(self.live[file])
            if stops_early:
                break

    @rule(file=FILES)
    def detach(self, file: int) -> None:
        with self.db.operation():
            self.extents.detach(self.bodies[file])
            self.bodies[file] = self.db.new_id("body")
        self.live[file] = {}

    @precondition(lambda self: len(self.taken) < 6)
    @rule()
    def take_snapshot(self) -> None:
        with self.db.operation():
            taken = self.snapshots.create(b"s%d" % self.db.epoch, now_ns=1)
        self.taken[taken.number] = [(body, dict(live)) for body, live in zip(self.bodies, self.live, strict=True)]

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.taken)))
        with self.db.operation():
            self.snapshots.start_deleting(number)
        del self.taken[number]

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def delete_snapshot_for_good(self, data: st.DataObject) -> None:
        self.delete_snapshot(data)
        self.finish_everything()

    @rule(file=FILES, block=st.integers(1, BLOCK_COUNT))
    def backup(self, file: int, block: int) -> None:
        """What the file system is for: a change, then a snapshot."""
        self.write(file, [(0, BLOCK_BYTES, block)])
        if len(self.taken) < 6:
            self.take_snapshot()

    @rule(limit=st.integers(1, 4))
    def retire_step(self, limit: int) -> None:
        with self.db.operation():
            deltas: RefDeltas = defaultdict(int)
            self.extents.retire_step(limit=limit, deltas=deltas)
            self.blocks.change_refs(deltas)

    @rule(limit=st.integers(1, 4))
    def delete_step(self, limit: int) -> None:
        with self.db.operation():
            deltas: RefDeltas = defaultdict(int)
            self.snapshots.delete_step(limit=limit, deltas=deltas)
            self.blocks.change_refs(deltas)

    @rule()
    def an_operation_fails(self) -> None:
        with pytest.raises(ZeroDivisionError), self.db.operation():
            deltas: RefDeltas = defaultdict(int)
            self.extents.punch(self.bodies[0], start=0, stop=SPACE, deltas=deltas)
            self.extents.write(self.bodies[1], [NewExtent(3, 5, 1)], deltas)
            self.blocks.change_refs(deltas)
            raise ZeroDivisionError

    @rule()
    def commit_and_reopen(self) -> None:
        self.db.commit(cut=False, time_ns=1)
        self.db.close()
        self.db = Database(self.directory / "db.sqlite")
        self.extents, self.blocks = Extents(self.db), Blocks(self.db)
        self.snapshots = Snapshots(self.db)

    # -- what must hold ----------

    @invariant()
    def live_files_are_right(self) -> None:
        for body, live in zip(self.bodies, self.live, strict=True):
            assert content_of(self.extents.pieces(body, start=0, stop=2 * SPACE)) == live
            part = content_of(self.extents.pieces(body, start=10, stop=20))
            assert {key: at for key, at in part.items() if 10 <= key < 20} == {
                key: at for key, at in live.items() if 10 <= key < 20
            }

    @invariant()
    def snapshots_are_right(self) -> None:
        for number, files in self.taken.items():
            for body, content in files:
                assert content_of(self.extents.pieces_at(body, number, start=0, stop=2 * SPACE)) == content

    @invariant()
    def references_are_counted_right(self) -> None:
        counted = Counter(
            row[0] for row in self.db.execute("SELECT block FROM extent UNION ALL SELECT block FROM extent_history")
        )
        kept = dict(self.db.execute("SELECT id, refs FROM block"))
        assert kept == {block: counted[block] for block in kept}
        for number, live_bytes in self.db.execute("SELECT number, live_bytes FROM frame"):
            assert live_bytes == (BLOCK_BYTES if kept[number + 1] else 0)

    @invariant()
    def snapshots_are_listed(self) -> None:
        assert [snapshot.number for snapshot in self.snapshots.list()] == sorted(self.taken)
        assert self.db.newest_snapshot == max(self.taken, default=0)

    def finish_everything(self) -> None:
        """Do all steps that are left: only what a snapshot sees stays in history."""
        steps = 0
        while True:
            with self.db.operation():
                deltas: RefDeltas = defaultdict(int)
                worked = self.extents.retire_step(limit=3, deltas=deltas) or self.snapshots.delete_step(
                    limit=3, deltas=deltas
                )
                self.blocks.change_refs(deltas)
            steps += 1
            assert steps < 1000
            if not worked:
                break
        self.live_files_are_right()
        self.snapshots_are_right()
        self.references_are_counted_right()
        for since, until in self.db.execute("SELECT since, until FROM extent_history"):
            assert any(since <= number < until for number in self.taken)
        attached = set(self.bodies)
        assert {row[0] for row in self.db.execute("SELECT DISTINCT body FROM extent")} <= attached


ExtentMachine.TestCase.settings = settings(max_examples=70, stateful_step_count=30)
TestExtents = ExtentMachine.TestCase


# -- by example ----------


@pytest.fixture
def machine() -> ExtentMachine:
    return ExtentMachine()


def test_a_version_is_kept_once(machine: ExtentMachine) -> None:
    """The extent that a snapshot sees goes to history at its first change; later ones happen in place."""
    machine.write(0, [(0, 10, 1)])
    machine.take_snapshot()
    machine.write(0, [(2, 3, 2)])
    machine.write(0, [(2, 3, 3)])
    machine.punch(0, 0, 2)
    assert machine.db.execute("SELECT count(*) FROM extent_history").get == 1
    machine.snapshots_are_right()
    machine.references_are_counted_right()
    machine.teardown()


def test_a_body_detached_before_a_snapshot_is_not_in_it(machine: ExtentMachine) -> None:
    machine.write(0, [(0, 10, 1)])
    machine.take_snapshot()
    machine.write(0, [(20, 10, 2)])
    machine.detach(0)
    machine.take_snapshot()
    first, second = sorted(machine.taken)
    machine.finish_everything()
    assert machine.db.execute("SELECT count(*) FROM extent_history").get == 1
    with machine.db.operation():
        machine.snapshots.start_deleting(first)
    del machine.taken[first]
    machine.finish_everything()
    assert machine.db.execute("SELECT count(*) FROM extent_history").get == 0
    assert (
        machine.db.execute("SELECT count(*) FROM snapshot WHERE state = ?", (int(SnapshotState.DELETING),)).get == 0
    )
    assert list(machine.taken) == [second]
    machine.teardown()


def test_an_extent_of_the_greatest_length_is_found_from_its_end(machine: ExtentMachine) -> None:
    with machine.db.operation():
        block = machine.blocks.place(b"l" * 32, length=BLOCK_MAX_BYTES, pack=1, frame=0, frame_offset=0)
        deltas: RefDeltas = defaultdict(int)
        machine.extents.write(machine.bodies[0], [NewExtent(7, BLOCK_MAX_BYTES, block)], deltas)
        last = 7 + BLOCK_MAX_BYTES - 1
        for start in (0, 7, 8, last):
            assert len(machine.extents.pieces(machine.bodies[0], start=start, stop=start + 8)) == 1
        assert machine.extents.pieces(machine.bodies[0], start=last + 1, stop=last + 9) == []
        assert machine.extents.pieces(machine.bodies[0], start=0, stop=7) == []
        freed = machine.extents.punch(machine.bodies[0], start=last, stop=last + 1, deltas=deltas)
        assert freed == 1
    machine.db.close()


def test_a_missing_reference_is_no_negative_count(machine: ExtentMachine) -> None:
    with pytest.raises(IntegrityError, match="references"), machine.db.operation():
        machine.blocks.change_refs({1: -1})
    with pytest.raises(IntegrityError, match="not there"), machine.db.operation():
        machine.blocks.change_refs({77: 1})
    machine.teardown()


def test_many_extents_before_a_write_cost_nothing(machine: ExtentMachine) -> None:
    """A write into a file of fragments looks at what it touches, not at all that lies 8 MiB before it."""
    with machine.db.operation():
        deltas: RefDeltas = defaultdict(int)
        body = machine.bodies[0]
        machine.extents.write(body, [NewExtent(number * 20, 10, 1) for number in range(3000)], deltas)
        seen = 0

        def trace(cursor: object, row: tuple[object, ...]) -> tuple[object, ...]:
            nonlocal seen
            seen += 1
            return row

        machine.db.connection.row_trace = trace
        machine.extents.write(body, [NewExtent(50_000, 10, 2)], deltas)
        machine.extents.pieces(body, start=50_000, stop=50_100)
        machine.db.connection.row_trace = None
        assert seen < 20
    machine.db.close()
