"""Compares the packs in the store with those in the database, and verifies their contents.

Must never: hold more than a few packs in memory, or let the order of findings depend on which worker was first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from cubefs.db.audit import Audit, AuditedPack
from cubefs.errors import ObjectMissingError, StoreError
from cubefs.format import names
from cubefs.format.keys import Keyring
from cubefs.fsck.packdata import KnownPack, Verdict, verify_pack
from cubefs.fsck.report import NOTHING_AFFECTED, Affected, Finding, Severity, many
from cubefs.model import PACK_MAX_BYTES
from cubefs.store.base import ObjectInfo, Store

WORKERS = 4  # packs being read at once: hides round trips; each takes up to PACK_MAX_BYTES and a long block
WAITING_MAX_COUNT = 2 * WORKERS  # results kept until their turn comes
NAMES_SHOWN = 3


@dataclass(slots=True)
class PackAudit:
    """One comparison of a store's packs. `audit` is None when there is no database to compare with."""

    store: Store
    audit: Audit | None
    keyring: Keyring
    uuid: bytes
    data: bool
    verified_count: int = 0
    verified_bytes: int = 0
    unreferenced: list[str] = field(default_factory=list)  # the first names
    unreferenced_count: int = 0
    unreferenced_bytes: int = 0

    def findings(self, listed: Iterable[ObjectInfo], progress: Callable[[int], None]) -> Iterator[Finding]:
        """Yield what is wrong, in the order of names. `listed`: the packs in the store, in that order."""
        done = 0
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="cubefs-fsck") as pool:
            waiting: deque[Callable[[], Iterable[Finding]]] = deque()
            try:
                for pack, info in self._pairs(listed):
                    waiting.append(self._begin(pool, pack, info))
                    if len(waiting) > WAITING_MAX_COUNT:
                        yield from waiting.popleft()()
                    done += 1
                    progress(done)
                while waiting:
                    yield from waiting.popleft()()
            finally:
                pool.shutdown(cancel_futures=True)
        yield from self._unreferenced()

    def _pairs(self, listed: Iterable[ObjectInfo]) -> Iterator[tuple[AuditedPack | None, ObjectInfo | None]]:
        """Yield each pack of the database with its object, and each object without a pack."""
        objects = iter(listed)
        info = next(objects, None)
        is_taken = False
        for pack in self.audit.packs() if self.audit is not None else ():
            name = names.pack(pack.name)
            while info is not None and info.name < name:
                if not is_taken:
                    yield None, info
                info, is_taken = next(objects, None), False
            is_there = info is not None and info.name == name
            is_taken = is_taken or is_there  # two packs of one name are the named check's business
            yield pack, info if is_there else None
        while info is not None:
            if not is_taken:
                yield None, info
            info, is_taken = next(objects, None), False

    def _begin(
        self, pool: ThreadPoolExecutor, pack: AuditedPack | None, info: ObjectInfo | None
    ) -> Callable[[], Iterable[Finding]]:
        """Start what takes time; return what waits for it and tells the findings."""
        if info is None:
            assert pack is not None
            return lambda: [self._finding("pack-missing", pack, "a pack is not in the store")]
        if pack is None and self.audit is not None:
            self._count_unreferenced(info)
            return lambda: ()
        if not self.data:
            return lambda: self._size_findings(pack, info)
        if info.size_bytes > PACK_MAX_BYTES:  # not worth the memory: no pack of ours is that long
            what = f"a pack has {info.size_bytes:,} bytes, which cannot be"
            return lambda: [self._finding("pack-damaged", pack, what, name=info.name)]
        known = None
        if pack is not None and self.audit is not None:
            known = KnownPack(pack, self.audit.frames(pack.id), self.audit.blocks(pack.id))
        future = pool.submit(self._verify, info.name, known)
        return lambda: self._data_findings(future, pack, info.name)

    def _verify(self, object_name: str, known: KnownPack | None) -> Verdict:
        """Read and verify a pack. In a worker."""
        name = names.parse_pack(object_name)
        assert name is not None
        data = self.store.get(object_name)
        return verify_pack(data, name=name, keyring=self.keyring, uuid=self.uuid, known=known)

    def _data_findings(self, future: Future[Verdict], pack: AuditedPack | None, name: str) -> Iterator[Finding]:
        try:
            verdict = future.result()
        except ObjectMissingError:
            yield self._finding("pack-missing", pack, "a pack is not in the store", name=name)
            return
        except StoreError as error:
            self.store.get(names.SUPERBLOCK)  # the connectivity check: raises when it is not about this pack
            yield self._finding("pack-unreadable", pack, f"a pack cannot be read: {error}", name=name)
            return
        self.verified_count += 1
        self.verified_bytes += verdict.verified_bytes
        if verdict.problems:
            affects = self._affected(verdict.lost_blocks)
            what = f"a pack is damaged: {verdict.what}"
            yield Finding("pack-damaged", Severity.ERROR, what, name, affects)

    def _size_findings(self, pack: AuditedPack | None, info: ObjectInfo) -> Iterator[Finding]:
        if pack is not None and info.size_bytes != pack.size_bytes:
            what = (
                f"a pack has {info.size_bytes:,} bytes, not {pack.size_bytes:,}: what it still holds, --data tells"
            )
            yield self._finding("pack-damaged", pack, what)

    def _finding(self, check: str, pack: AuditedPack | None, what: str, *, name: str = "") -> Finding:
        """Return a finding about a whole pack: everything that has a block in it is affected."""
        if pack is None or self.audit is None:
            return Finding(check, Severity.ERROR, what, name)
        affects = self._affected([block.id for block in self.audit.blocks(pack.id)])
        return Finding(check, Severity.ERROR, what, names.pack(pack.name), affects)

    def _affected(self, blocks: list[int]) -> Affected:
        return self.audit.affected_by_blocks(blocks) if self.audit is not None else NOTHING_AFFECTED

    def _count_unreferenced(self, info: ObjectInfo) -> None:
        self.unreferenced_count += 1
        self.unreferenced_bytes += info.size_bytes
        if len(self.unreferenced) < NAMES_SHOWN:
            self.unreferenced.append(info.name)

    def _unreferenced(self) -> Iterator[Finding]:
        if self.unreferenced_count:
            count, size = many(self.unreferenced_count, "pack"), many(self.unreferenced_bytes, "byte")
            what = f"{count} ({size}) that no shipped commit names: being written now, or left by a crash"
            more = " ..." if self.unreferenced_count > NAMES_SHOWN else ""
            yield Finding("pack-unreferenced", Severity.NOTE, what, ", ".join(self.unreferenced) + more)
