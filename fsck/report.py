"""What an audit found: findings, counts, the verdict, and how they look as text and as JSON.

Must never: let a byte of a file name reach a terminal that could move its cursor or change its colours.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cubefs.db.audit_check import NOTHING_AFFECTED, Affected, AffectedPath, Severity
from cubefs.visible import safe

__all__ = ["NOTHING_AFFECTED", "Affected", "Counts", "Finding", "Report", "Severity", "many"]

# fsck(8)
EXIT_CLEAN = 0
EXIT_ERRORS_LEFT = 4

SNAPSHOTS_SHOWN = 5  # names per line of text; JSON has all


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or worth knowing."""

    check: str  # its name in docs/FSCK.md
    severity: Severity
    what: str  # what is wrong
    where: str  # object name, or table and columns; safe to show
    affects: Affected = NOTHING_AFFECTED
    count: int = 1  # > 1: stands for so many that are not listed


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was looked at."""

    objects: int = 0
    object_bytes: int = 0
    inodes: int = 0
    dentries: int = 0
    history_rows: int = 0
    extents: int = 0
    blocks: int = 0
    packs: int = 0
    pack_bytes: int = 0
    snapshots: int = 0
    verified_packs: int = 0  # downloaded, decoded and re-hashed
    verified_bytes: int = 0  # of plaintext
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an audit."""

    url: str
    uuid: bytes
    findings: tuple[Finding, ...]
    counts: Counts = field(default_factory=Counts)
    has_checked_tables: bool = True  # False: the metadata log is damaged, so there was no database to look at
    has_checked_data: bool = False

    @property
    def error_count(self) -> int:
        """Number of errors, those that stand for several counted as such."""
        return sum(finding.count for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def note_count(self) -> int:
        """Number of notes."""
        return sum(finding.count for finding in self.findings if finding.severity is Severity.NOTE)

    @property
    def exit_code(self) -> int:
        """The code of fsck(8): 0 clean, 4 errors left uncorrected."""
        return EXIT_ERRORS_LEFT if self.error_count else EXIT_CLEAN

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that `json.dumps` takes. Its members are described in docs/FSCK.md."""
        counts = {name: getattr(self.counts, name) for name in Counts.__slots__}
        return {
            "url": self.url,
            "uuid": self.uuid.hex(),
            "clean": self.error_count == 0,
            "errors": self.error_count,
            "notes": self.note_count,
            "has_checked_tables": self.has_checked_tables,
            "has_checked_data": self.has_checked_data,
            "counts": {**counts, "seconds": round(self.counts.seconds, 3)},
            "findings": [_finding_json(finding) for finding in self.findings],
        }

    def lines(self) -> Iterator[str]:
        """Yield the report as text; the last line is the verdict."""
        for finding in self.findings:
            yield from _finding_lines(finding)
        yield from self._count_lines()
        yield self.verdict()

    def text(self) -> str:
        """Return the report as text, ending in a newline."""
        return "".join(f"{line}\n" for line in self.lines())

    def verdict(self) -> str:
        """Return the summary: clean, or how many errors; and how many notes."""
        errors = "clean" if not self.error_count else many(self.error_count, "error")
        return f"{errors}, {many(self.note_count, 'note')}" if self.note_count else errors

    def _count_lines(self) -> Iterator[str]:
        counts = self.counts
        yield (
            f"{many(counts.objects, 'object')} ({_bytes(counts.object_bytes)}), {many(counts.packs, 'pack')}, "
            f"{many(counts.inodes, 'inode')}, {many(counts.blocks, 'block')}, "
            f"{many(counts.snapshots, 'snapshot')} in {counts.seconds:.1f} s"
        )
        if not self.has_checked_tables:
            yield "the metadata could not be read: files, snapshots and what is damaged of them are not known"
        if self.has_checked_data:
            packs = many(counts.verified_packs, "pack")
            yield f"{packs} read and decoded: {_bytes(counts.verified_bytes)} of file data"
        else:
            yield "the contents of packs were not read: --data does"


def _finding_lines(finding: Finding) -> Iterator[str]:
    more = f" ({finding.count:,} in all)" if finding.count > 1 else ""
    yield f"{finding.severity.value:<5}  {finding.check}: {finding.what}{more}"
    if finding.where:
        yield f"       at {finding.where}"
    affects = finding.affects
    if not affects.paths:
        return
    count = len(affects.paths) + affects.more_count
    yield f"       affects {many(count, 'path')} in {_views(affects)}:"
    for path in affects.paths:
        yield f"         {safe(path.path)}  [{_views(path)}]"
    if affects.more_count:
        yield f"         and {affects.more_count:,} more"


def _views(affected: Affected | AffectedPath) -> str:
    names = affected.snapshots
    shown_names = ", ".join(map(safe, names[:SNAPSHOTS_SHOWN]))
    more = f" and {len(names) - SNAPSHOTS_SHOWN:,} more" if len(names) > SNAPSHOTS_SHOWN else ""
    snapshots = [f"snapshot{'s' if len(names) > 1 else ''} {shown_names}{more}"] if names else []
    return " and ".join((["the live tree"] if affected.is_live else []) + snapshots)


def _finding_json(finding: Finding) -> dict[str, Any]:
    affects = finding.affects
    return {
        "check": finding.check,
        "severity": finding.severity.value,
        "what": finding.what,
        "where": finding.where,
        "count": finding.count,
        "affects": {
            "live": affects.is_live,
            "snapshots": [_name_json(name) for name in affects.snapshots],
            "paths": [
                {
                    **_name_json(path.path, key="path"),
                    "live": path.is_live,
                    "snapshots": [safe(name) for name in path.snapshots],
                }
                for path in affects.paths
            ],
            "more_paths": affects.more_count,
        },
    }


def _name_json(name: bytes, *, key: str = "name") -> dict[str, str]:
    try:
        return {key: name.decode("utf-8")}
    except UnicodeDecodeError:
        return {key: safe(name), f"{key}_b64": base64.b64encode(name).decode("ascii")}


def many(count: int, noun: str) -> str:
    """Return the number with its noun, in the plural where it is due."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _bytes(count: int) -> str:
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return many(count, "byte") if unit == "bytes" else f"{value:.1f} {unit}"
