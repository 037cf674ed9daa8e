"""The part "remote": into S3 and out of it, over a line without and with latency, cubefs beside restic.

The same inputs, checks and cold starts as in the part "mounted". All of it runs through the proxy of link.py,
which waits before it passes a request on, and counts requests.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from contrib.demo.scratch import Scratch, StepError
from tests.bench.alternate import Grounds
from tests.bench.flows import Places, Where, check_same_file, copy, drop_kernel_caches, empty, rsync
from tests.bench.link import BUCKET, Link, Traffic, server_name
from tests.bench.ours import Cubefs
from tests.bench.peers import RESTIC, Peer
from tests.bench.remote_rows import Column, RemoteResults, RemoteRow
from tests.bench.trees import Inputs, check_same_tree

LATENCIES_MS = (0.0, 50.0)
IDLE_S = 10.0
CUBEFS = Cubefs.name
HEAD = "verify=head"  # cubefs, mounted with this option
CUBEFS_ROWS = tuple(RemoteRow)
HEAD_ROWS = (RemoteRow.TREE_IN, RemoteRow.FILE_IN, RemoteRow.PEAK)
RESTIC_ROWS = (RemoteRow.TREE_IN, RemoteRow.TREE_OUT, RemoteRow.FILE_IN, RemoteRow.FILE_OUT, RemoteRow.PEAK)


class Run(NamedTuple):
    """One contender in one round."""

    scratch: Scratch
    inputs: Inputs
    places: Places
    link: Link
    column: Column
    results: RemoteResults

    def take(self, row: RemoteRow, action: Callable[[], object]) -> None:
        """Measure what `action` does as a sample of the row."""
        self.results.take(self.column, row, lambda: self.link.measure(action))

    def take_checked(self, row: RemoteRow, action: Callable[[], object], check: Callable[[], None]) -> None:
        """Measure `action` from cold kernel caches; what it restored is checked outside of the measured time."""

        def measured() -> Traffic:
            drop_kernel_caches()
            traffic = self.link.measure(action)
            check()
            return traffic

        self.results.take(self.column, row, measured)

    def check_tree(self) -> None:
        """Compare the restored small files with the original."""
        check_same_tree(self.scratch, self.inputs.tree, self.places.memory / self.inputs.tree.name)

    def check_file(self) -> None:
        """Compare the restored big file with the original."""
        check_same_file(self.inputs.file, self.places.memory / self.inputs.file.name)


class Contender(NamedTuple):
    """A name, the rows that apply to it, and what measures them."""

    name: str
    rows: tuple[RemoteRow, ...]
    measure: Callable[[Run], None]


class MeasuredRemote(NamedTuple):
    """The outcome of all rounds."""

    server: str
    inputs: Inputs
    contenders: list[str]
    latencies_ms: list[float]
    results: RemoteResults


def measure_remote(
    scratch: Scratch, grounds: Grounds, *, latencies_ms: Sequence[float], rounds: int
) -> MeasuredRemote:
    """Alternate latencies and contenders over the rounds."""
    contenders = _contenders()
    results = RemoteResults()
    for round_number in range(1, rounds + 1):
        for latency_ms in latencies_ms:
            for contender in contenders:
                column = Column(contender.name, latency_ms)
                print(f"round {round_number} of {rounds}: {column}", file=sys.stderr, flush=True)
                reason = _measure_one(scratch, grounds, contender, column, results)
                results.fail(column, contender.rows, round_number=round_number, reason=reason)
    names = [contender.name for contender in contenders]
    return MeasuredRemote(server_name(), grounds.inputs, names, list(latencies_ms), results)


def _measure_one(
    scratch: Scratch, grounds: Grounds, contender: Contender, column: Column, results: RemoteResults
) -> str:
    """Take one contender through all its rows; return why some were not reached, if so."""
    name = f"remote-{contender.name}"
    places = Places(grounds.work / name, grounds.memory / name)
    for place in places:
        place.mkdir()
    reason = "not reached"
    try:
        link = Link(scratch, latency_ms=column.latency_ms)
        contender.measure(Run(scratch, grounds.inputs, places, link, column, results))
    except (StepError, OSError) as error:
        reason = str(error)
    scratch.undo_mounts(places.disk)
    try:
        scratch.end_services()
    except StepError as error:
        reason = str(error)
    empty(places)
    return reason


def _contenders() -> Sequence[Contender]:
    """Return those that CONTENDERS names, all by default."""
    known = [
        Contender(CUBEFS, CUBEFS_ROWS, partial(_measure_cubefs, options=())),
        Contender(HEAD, HEAD_ROWS, partial(_measure_cubefs, options=(HEAD,))),
        Contender(RESTIC.program, RESTIC_ROWS, _measure_restic),
    ]
    wanted = os.environ.get("CONTENDERS", "").split() or [contender.name for contender in known]
    return [contender for contender in known if contender.name in wanted]


def _measure_cubefs(run: Run, *, options: Sequence[str]) -> None:
    """In, until the store has it; where packs are read back as usual also idle, and out from a new mount."""
    where = Where(f"s3://{BUCKET}/prefix", run.link.environment)
    system = Cubefs(run.scratch, where=where, options=options)
    system.create(run.places)
    system.mount()
    os.sync()
    into_tree, into_file = system.live() / run.inputs.tree.name, system.live() / run.inputs.file.name
    run.take(RemoteRow.TREE_IN, lambda: (rsync(run.scratch, run.inputs.tree, into_tree), system.sync()))
    system.snapshot()
    system.sync()
    if not options:
        run.take(RemoteRow.IDLE, lambda: time.sleep(IDLE_S))
    os.sync()
    run.take(RemoteRow.FILE_IN, lambda: (copy(run.scratch, run.inputs.file, into_file), system.sync()))
    system.snapshot()
    system.unmount()
    if not options:
        _measure_cubefs_out(run, system)
    run.results.take_peak(run.column, system.peak_bytes())


def _measure_cubefs_out(run: Run, system: Cubefs) -> None:
    """Mount with an empty cache for each of the two, and copy out of the newest snapshot."""
    tree, file = run.inputs.tree.name, run.inputs.file.name
    restores: list[tuple[RemoteRow, Callable[[], float], Callable[[], None]]] = [
        (
            RemoteRow.TREE_OUT,
            lambda: rsync(run.scratch, system.saved() / tree, run.places.memory / tree),
            run.check_tree,
        ),
        (
            RemoteRow.FILE_OUT,
            lambda: copy(run.scratch, system.saved() / file, run.places.memory / file),
            run.check_file,
        ),
    ]
    for row, restore, check in restores:
        drop_kernel_caches()
        run.take(RemoteRow.MOUNT, system.mount)
        run.take_checked(row, restore, check)
        system.unmount()


def _measure_restic(run: Run) -> None:
    """The same by restic's own commands."""
    where = Where(f"s3:{run.link.url}/{BUCKET}/repository", run.link.environment)
    program = Peer(run.scratch, RESTIC, where=where)
    program.create(run.places)
    os.sync()
    run.take(RemoteRow.TREE_IN, lambda: program.back_up("tree", run.inputs.tree))
    os.sync()
    run.take(RemoteRow.FILE_IN, lambda: program.back_up("file", run.inputs.file))
    restores: list[tuple[RemoteRow, str, Callable[[], None]]] = [
        (RemoteRow.TREE_OUT, "tree", run.check_tree),
        (RemoteRow.FILE_OUT, "file", run.check_file),
    ]
    for row, name, check in restores:
        program.forget_cache()
        run.take_checked(row, partial(program.restore, name, run.places.memory), check)
    run.results.take_peak(run.column, program.peak_bytes())
