"""What is in the store: one pass over its listing, packs handed on, all else sorted by kind.

Must never: read an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cubefs.format import names
from cubefs.fsck.report import Finding, Severity, many
from cubefs.store.base import ObjectInfo, Store

FOREIGN_SHOWN = 20  # objects listed by name; the rest is counted


@dataclass(slots=True)
class Inventory:
    """Counts and names of objects; complete when `packs` has come to its end."""

    store: Store
    object_count: int = 0
    object_bytes: int = 0
    slots: list[str] = field(default_factory=list)  # object names
    log_seqs: list[int] = field(default_factory=list)
    base_seqs: list[int] = field(default_factory=list)  # of bases with a manifest
    chunks: dict[int, list[str]] = field(default_factory=dict)  # seq of a base → its chunks' object names
    foreign: list[str] = field(default_factory=list)
    foreign_count: int = 0

    def packs(self) -> Iterator[ObjectInfo]:
        """Yield the packs in the order of their names, taking note of everything else."""
        for info in self.store.list(""):
            self.object_count += 1
            self.object_bytes += info.size_bytes
            if names.parse_pack(info.name) is not None:
                yield info
            elif not self._is_ours(info.name):
                self.foreign_count += 1
                if len(self.foreign) < FOREIGN_SHOWN:
                    self.foreign.append(info.name)

    def _is_ours(self, name: str) -> bool:
        """Take note of an object that is no pack; return whether it is one of cubefs's."""
        if name == names.SUPERBLOCK:
            return True
        if names.parse_key_slot(name) is not None:
            self.slots.append(name)
        elif (seq := names.parse_meta(name)) is not None:
            self.log_seqs.append(seq)
        elif (seq := names.parse_base_manifest(name)) is not None:
            self.base_seqs.append(seq)
        elif (seq := _chunk_of(name)) is not None:
            self.chunks.setdefault(seq, []).append(name)
        else:
            return False
        return True

    def findings(self) -> Iterator[Finding]:
        """Yield notes about what does not belong to the file system."""
        for name in self.foreign:
            yield Finding("object-foreign", Severity.NOTE, "an object that is not cubefs's", name)
        rest_count = self.foreign_count - len(self.foreign)
        if rest_count:
            yield Finding("object-foreign", Severity.NOTE, "further such objects", "", count=rest_count)
        unfinished = sorted(set(self.chunks) - set(self.base_seqs))
        for seq in unfinished:
            what = (
                f"a base that was never finished, {many(len(self.chunks[seq]), 'object')}: the next one replaces it"
            )
            yield Finding("base-unfinished", Severity.NOTE, what, self.chunks[seq][0].rpartition("/")[0])


def _chunk_of(name: str) -> int | None:
    """Return the seq of the base that this object is a chunk of, or None."""
    parts = name.split("/")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    seq, number = int(parts[1]), int(parts[2])
    is_chunk = seq <= names.SEQ_MAX and number <= names.CHUNK_NUMBER_MAX and names.base_chunk(seq, number) == name
    return seq if is_chunk else None
