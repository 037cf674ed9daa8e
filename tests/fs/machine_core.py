"""The state machine's body: opens a file system, calls it and the reference model, compares the two.

Each step calls both, compares the outcome (value or errno), and every attribute of what the step touched. The
rules are in machine_names, machine_data and machine.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from cubefs.errors import CubefsError
from cubefs.fs.filesystem import FsOptions
from cubefs.model import SNAPDIR_INODE, SNAPSHOT_SHIFT, Attr, Chunking
from tests.support import comparison
from tests.support.content import MIB
from tests.support.driver import Driver, Place, audit_findings, copy_place, make_place
from tests.support.reference_model import ROOT, Model, Node, Refused, Window


def scratch_parent() -> str | None:
    """Return a directory in memory where there is one: the machine syncs to disk a lot."""
    shm = Path("/dev/shm")
    return str(shm) if os.access(shm, os.W_OK) else None


@cache
def template(chunking: Chunking) -> Place:
    """Return a new file system's store, made once and copied for each run."""
    directory = Path(tempfile.mkdtemp(prefix="cubefs-template-", dir=scratch_parent()))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return make_place(directory, chunking)


class MachineCore(RuleBasedStateMachine):
    """Everything but the rules."""

    audit_data = True

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="cubefs-model-", dir=scratch_parent()))
        self.driver: Driver | None = None
        self.generation = 0  # of the directories that a remount begins

    # -- set-up and end --------------------------------------------------------------------------------------

    def start(self, chunking: Chunking, dirty_limit: int, cache_limit: int, hidden: bool) -> None:
        """Open a new file system."""
        self.options = FsOptions(
            cache_limit_bytes=cache_limit,
            dirty_limit_bytes=dirty_limit,
            # a writer who waits for room in a small cache waits for the next commit by time
            commit_interval_s=0.1 if cache_limit == MIB else 100_000.0,
            recovery_point_s=100_000.0,
            snapdir_hidden=hidden,
        )
        self.driver = Driver(copy_place(template(chunking), self.directory), self.options)
        attr = self.fs.getattr(ROOT)
        assert (attr.ino, stat.S_IFMT(attr.mode), attr.nlink) == (ROOT, stat.S_IFDIR, 2 if hidden else 3)
        times = attr.mtime_ns, attr.ctime_ns, attr.btime_ns
        self.model = Model(Node(attr.mode, attr.uid, attr.gid, 2, 0, *times))
        self.inodes = {ROOT: ROOT}  # the model's id -> the inode number
        self.handles: list[tuple[int, int]] = []  # (the model's id, file handle)
        self.numbers: dict[bytes, int] = {}  # snapshot name -> number
        self.removed_numbers: list[int] = []
        self.gone: list[int] = []  # inode numbers that must answer ENOENT for ever

    def teardown(self) -> None:
        """Compare everything, close, and audit the store with all its data."""
        try:
            if self.driver is not None and self.driver.is_open:
                self.check_live(3)
                self.check_snapshots(2)
                self.close_all()
                self.driver.close()
                self.audit(self.driver.place)
        finally:
            if self.driver is not None:
                self.driver.stop_quietly()
            shutil.rmtree(self.directory, ignore_errors=True)

    def audit(self, place: Place) -> None:
        """fsck finds nothing."""
        findings = audit_findings(place, data=self.audit_data)
        assert not findings, findings

    @property
    def fs(self) -> Driver:
        """The open file system."""
        assert self.driver is not None
        return self.driver

    # -- calling both ----------------------------------------------------------------------------------------

    def both(self, real: Callable[[], Any], model: Callable[[Window], Any]) -> tuple[Any, Any] | None:
        """Call the file system, then the model; compare the outcomes; None when both refuse."""
        start_ns = time.time_ns()
        failure: int | None = None
        value: Any = None
        try:
            value = real()
        except CubefsError as error:
            failure = error.errno
        window = Window(start_ns, time.time_ns())
        before = set(self.model.live.nodes)
        try:
            expected = model(window)
        except Refused as refused:
            name = "success" if failure is None else errno.errorcode[failure]
            assert failure in refused.accepted, f"{name}, expected {refused}"
            return None
        assert failure is None, f"{errno.errorcode[failure]}, expected success"
        self.gone += [self.inodes[i] for i in before - set(self.model.live.nodes)]
        if isinstance(value, Attr) and isinstance(expected, int):
            self.meet(expected, value)
        self.check_touched()
        return value, expected

    def meet(self, model_id: int, attr: Attr) -> None:
        """Learn a new inode's number: never one that was used before."""
        if model_id not in self.inodes:
            assert attr.ino not in self.inodes.values(), "an inode number is used again"
            self.inodes[model_id] = attr.ino
        assert self.inodes[model_id] == attr.ino

    def check_touched(self) -> None:
        """Compare the attributes of all that the last step touched; learn the times."""
        for model_id in sorted(self.model.touched):
            node = self.model.live.nodes.get(model_id)
            if node is not None:
                attr = self.fs.getattr(self.inodes[model_id])
                path = b"inode %d" % self.inodes[model_id]
                comparison.check_attr(path, attr, node, hidden=self.options.snapdir_hidden)
        self.model.touched.clear()

    def reachable(self, wanted: Callable[[Node], bool] = lambda node: True) -> list[int]:
        """Return the ids of the live inodes with a name (the root among them) that are wanted, sorted."""
        ids = {ROOT, *(number for _, number in self.model.live.walk())}
        return sorted(number for number in ids if wanted(self.model.live.nodes[number]))

    def a_directory(self, pick: int) -> int:
        """Pick a live directory."""
        found = self.reachable(lambda node: node.is_directory)
        return found[pick % len(found)]

    def any_inode(self, pick: int) -> int:
        """Pick anything live."""
        found = self.reachable()
        return found[pick % len(found)]

    def rather(self, pick: int, wanted: Callable[[Node], bool]) -> int:
        """Pick something live that is wanted; one time in sixteen, or where there is none, anything."""
        found = self.reachable(wanted)
        return found[pick % len(found)] if found and pick != 15 else self.any_inode(pick)

    def an_entry(self, pick: int) -> tuple[int, bytes]:
        """Pick a (directory, name) that is there, or one that is not where the tree is empty."""
        pairs = [
            (number, name)
            for number in self.reachable(lambda node: node.is_directory)
            for name in sorted(self.model.live.nodes[number].entries)
        ]
        return pairs[pick % len(pairs)] if pairs else (ROOT, b"nothing")

    # -- comparing everything --------------------------------------------------------------------------------

    def check_live(self, limit: int, *, settled: bool = False) -> None:
        """Compare the whole live tree."""
        self.fs.run(
            comparison.check_tree,
            self.fs.filesystem,
            self.model.live,
            root=ROOT,
            limit=limit,
            inodes=self.inodes,
            settled=settled,
            hidden=self.options.snapdir_hidden,
        )

    def check_snapshots(self, limit: int) -> None:
        """Compare the list of snapshots, and the whole tree of each with the copy that the model kept."""
        listed = {snapshot.name: snapshot for snapshot in self.fs.snapshot_list()}
        assert sorted(listed) == sorted(self.model.snapshots)
        entries = self.fs.run(comparison.list_directory, self.fs.filesystem, SNAPDIR_INODE, limit=limit)
        assert sorted(entry.name for entry in entries) == sorted(self.model.snapshots)
        for name, tree in self.model.snapshots.items():
            root = self.numbers[name] << SNAPSHOT_SHIFT | ROOT
            assert listed[name].number == self.numbers[name]
            assert self.fs.lookup(SNAPDIR_INODE, name).ino == root
            self.fs.run(
                comparison.check_tree,
                self.fs.filesystem,
                tree,
                root=root,
                limit=limit,
                inodes=self.inodes,
                settled=True,
                hidden=self.options.snapdir_hidden,
            )

    def close_all(self) -> None:
        """Close every open file, as the kernel does before an unmount ends."""
        for model_id, handle in self.handles:
            self.fs.release(handle)
            self.close_in_model(model_id)
        self.handles.clear()

    def close_in_model(self, model_id: int) -> None:
        """Count one open less; the inode may end with it."""
        self.model.release(model_id)
        if model_id not in self.model.live.nodes:
            self.gone.append(self.inodes[model_id])
