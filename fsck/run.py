"""The audit of a store: rebuild its database, run the named checks, compare with the store, verify contents.

Must never: write to the store, take ownership, or leave the rebuilt database behind.

Synchronous. Damage is a finding; what keeps us from looking (store unreachable, disk full, interrupted) raises.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cubefs.db.audit import Audit
from cubefs.db.audit_check import Violation
from cubefs.engine import metalog
from cubefs.errors import IntegrityError, UnsupportedVersionError
from cubefs.format import names
from cubefs.format.keys import Keyring
from cubefs.format.superblock import Superblock
from cubefs.fsck import localcache
from cubefs.fsck.inventory import Inventory
from cubefs.fsck.logobjects import OldLog, check_slots
from cubefs.fsck.packs import PackAudit
from cubefs.fsck.progress import Progress, silent
from cubefs.fsck.report import Counts, Finding, Report, Severity
from cubefs.store.base import Store
from cubefs.visible import safe


def audit(
    store: Store,
    *,
    keyring: Keyring,
    superblock: Superblock,
    superblock_bytes: bytes,
    data: bool,
    progress: Progress = silent,
    cache_dir: Path | None = None,
) -> Report:
    """Audit the store at its last shipped commit.

    `data`: also download, authenticate, decode and re-hash every pack, and verify the old part of the log.
    `cache_dir`: this machine's cache directory, if there is one: says what is not shipped yet. Progress is
    called in the calling thread. Needs room for the database and its working tables in TMPDIR. Raises
    StoreError when the store cannot be read, LocalDiskError; a damaged object never raises.
    """
    started_s = time.monotonic()
    run = _Run(store, keyring=keyring, superblock=superblock, data=data, progress=progress)
    # holds names of files in the clear: for nobody else's eyes (0700), and not for longer than needed
    with tempfile.TemporaryDirectory(prefix="cubefs-fsck-") as directory:
        findings = [*run.findings(Path(directory) / "db.sqlite", superblock_bytes)]
    if cache_dir is not None:
        findings += localcache.check_cache(store, cache_dir, uuid=superblock.uuid)
    return Report(
        url=store.describe(),
        uuid=superblock.uuid,
        findings=tuple(findings),
        counts=replace(run.counts, seconds=time.monotonic() - started_s),
        has_checked_tables=run.has_database,
        has_checked_data=data,
    )


class _Run:
    """One audit."""

    def __init__(
        self, store: Store, *, keyring: Keyring, superblock: Superblock, data: bool, progress: Progress
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._uuid = superblock.uuid
        self._data = data
        self._progress = progress
        self.counts = Counts()
        self.has_database = False

    def findings(self, database: Path, superblock_bytes: bytes) -> Iterator[Finding]:
        """Yield everything; `database` is where the rebuilt one goes."""
        yield from self._rebuild(database, superblock_bytes)
        if not self.has_database:
            yield from self._compare(None)
            return
        with Audit(database, uuid=self._uuid) as tables:
            yield from self._check_tables(tables)
            yield from self._compare(tables)

    def _rebuild(self, database: Path, superblock_bytes: bytes) -> Iterator[Finding]:
        """Rebuild the database; damage in the log is a finding, and leaves us without one."""
        total = _log_object_count(self._store)
        done = 0

        def count(name: str, stored_bytes: int) -> None:
            nonlocal done
            done += 1
            self._progress("metadata log", done, max(total, done))

        try:
            metalog.rebuild(
                self._store,
                keyring=self._keyring,
                superblock_bytes=superblock_bytes,
                uuid=self._uuid,
                target=database,
                progress=count,
            )
            self.has_database = True
        except (IntegrityError, UnsupportedVersionError) as error:  # one flipped byte makes a newer version
            name, _, what = str(error).partition(": ")
            if " " in name:  # it is not about one object
                name, what = "", str(error)
            yield Finding("log", Severity.ERROR, f"the metadata log is damaged: {what}", name)

    def _check_tables(self, tables: Audit) -> Iterator[Finding]:
        for violation in tables.violations(lambda done, total: self._progress("tables", done, total)):
            yield finding_of(violation)
        found = tables.counts()
        self.counts = replace(self.counts, **found._asdict())

    def _compare(self, tables: Audit | None) -> Iterator[Finding]:
        """Compare the store's objects with the database, and verify contents if asked to."""
        inventory = Inventory(self._store)
        packs = PackAudit(self._store, tables, self._keyring, self._uuid, data=self._data)
        phase = "contents" if self._data else "packs"
        total = self.counts.packs
        yield from packs.findings(inventory.packs(), lambda done: self._progress(phase, done, max(total, done)))
        yield from inventory.findings()
        yield from check_slots(self._store, inventory.slots)
        if self._data:
            old = OldLog(self._store, inventory, keyring=self._keyring, uuid=self._uuid)
            yield from old.findings(lambda done: self._progress("old log", done, old.count))
        self.counts = replace(
            self.counts,
            objects=inventory.object_count,
            object_bytes=inventory.object_bytes,
            verified_packs=packs.verified_count,
            verified_bytes=packs.verified_bytes,
        )


def _log_object_count(store: Store) -> int:
    """Return how many objects a rebuild will read, for its percentage."""
    newest = metalog.newest_base(store)
    if newest is None:
        return 0
    base = names.base_manifest(newest).removesuffix("manifest")
    behind = store.list(names.META, start_after=names.meta(newest) if newest else "")
    return sum(1 for _ in store.list(base)) + sum(1 for _ in behind)


def finding_of(violation: Violation) -> Finding:
    """Return what a violated rule looks like in the report."""
    check = violation.check
    columns = " ".join(f"{name}={_value(value)}" for name, value in violation.row.items())
    return Finding(
        check=check.name,
        severity=check.severity,
        what=check.meaning if not violation.rest_count else "further such rows",
        where=f"{check.table} {columns}".rstrip(),
        affects=violation.affected,
        count=max(violation.rest_count, 1),
    )


def _value(value: object) -> str:
    if value is None:
        return "(none)"
    return safe(value if isinstance(value, bytes) else str(value))
