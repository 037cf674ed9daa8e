"""Verifies the objects beside the packs that rebuilding the database does not read: key slots, old log, old bases.

Must never: raise for a damaged object; it is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cubefs.errors import IntegrityError, ObjectMissingError, UnsupportedVersionError
from cubefs.format import envelope, log, names
from cubefs.format.envelope import ObjectKind
from cubefs.format.keys import Keyring, object_hash, slot_kind
from cubefs.fsck.inventory import Inventory
from cubefs.fsck.report import Finding, Severity
from cubefs.store.base import Store

_DAMAGE = (IntegrityError, UnsupportedVersionError)  # one flipped byte makes a newer version


def check_slots(store: Store, slots: list[str]) -> Iterator[Finding]:
    """Yield a finding for each key slot that nobody can open, whatever the passphrase."""
    for name in slots:
        try:
            slot_kind(store.get(name))
        except ObjectMissingError:  # removed since it was listed
            continue
        except _DAMAGE as error:
            yield Finding("key-slot", Severity.ERROR, f"a key slot is damaged: {error}", name)


class OldLog:
    """The part of the metadata log that the newest base has made unnecessary for the present state."""

    def __init__(self, store: Store, inventory: Inventory, *, keyring: Keyring, uuid: bytes) -> None:
        newest = max(inventory.base_seqs, default=-1)
        self._store = store
        self._log_key = keyring.log_key
        self._uuid = uuid
        self._seqs = [seq for seq in inventory.log_seqs if seq <= newest]
        self._bases = [seq for seq in inventory.base_seqs if seq < newest]

    @property
    def count(self) -> int:
        """Number of log objects and bases to verify."""
        return len(self._seqs) + len(self._bases)

    def findings(self, progress: Callable[[int], None]) -> Iterator[Finding]:
        """Read and verify them all, in order; the log as a chain."""
        chain_hashes: dict[int, bytes] = {}
        for done, seq in enumerate(self._seqs, 1):
            yield from self._check_log_object(seq, chain_hashes)
            progress(done)
        for done, seq in enumerate(self._bases, 1 + len(self._seqs)):
            yield from self._check_base(seq)
            progress(done)

    def _check_log_object(self, seq: int, chain_hashes: dict[int, bytes]) -> Iterator[Finding]:
        """Check one log object and note its hash; `chain_hashes` keeps that of the one before only."""
        name = names.meta(seq)
        previous = chain_hashes.pop(seq - 1, None)
        try:
            data = self._store.get(name)
            opened = envelope.open_sealed(
                data, log_key=self._log_key, uuid=self._uuid, kind=ObjectKind.META, seq=seq
            )
            log.decode_records(opened.body)
        except ObjectMissingError:
            return
        except _DAMAGE as error:
            yield _old(str(error), name)
            return
        if previous is not None and opened.previous != previous:
            yield _old("it does not continue the one before it", name)
        chain_hashes[seq] = object_hash(data)

    def _check_base(self, seq: int) -> Iterator[Finding]:
        name = names.base_manifest(seq)
        try:
            manifest = log.decode_manifest(self._open(name, ObjectKind.BASE_MANIFEST, seq, 0))
            for number, chunk in enumerate(manifest.chunks):
                name = names.base_chunk(seq, number)
                if object_hash(self._store.get(name)) != chunk.object_hash:
                    raise IntegrityError("it is not the one that the base's manifest names")
        except ObjectMissingError:
            yield _old("it is missing", name)
        except _DAMAGE as error:
            yield _old(str(error), name)

    def _open(self, name: str, kind: ObjectKind, seq: int, number: int) -> bytes:
        data = self._store.get(name)
        return envelope.open_sealed(
            data, log_key=self._log_key, uuid=self._uuid, kind=kind, seq=seq, number=number
        ).body


def _old(what: str, name: str) -> Finding:
    return Finding(
        "log-old", Severity.ERROR, f"an object that the present state does not need is damaged: {what}", name
    )
