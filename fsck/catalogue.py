"""Every check by name, with its meaning: those of the database, and those of the store. Made into docs/FSCK.md.

Must never: describe a check elsewhere than where it is defined.
"""

from __future__ import annotations

from typing import NamedTuple

from cubefs.db.audit import CHECKS
from cubefs.db.audit_check import Severity


class StoreCheck(NamedTuple):
    """One thing that is looked for in the store, outside the database."""

    name: str
    meaning: str
    severity: Severity = Severity.ERROR


STORE_CHECKS: tuple[StoreCheck, ...] = (
    StoreCheck(
        "log", "the database cannot be rebuilt: an object of the metadata log is damaged, swapped or missing"
    ),
    StoreCheck("log-old", "the same in the part of the log that the newest base made unnecessary (`--data` only)"),
    StoreCheck(
        "log-forked", "this machine's cache knows a log that the store does not hold: set back, or replaced"
    ),
    StoreCheck("key-slot", "a key slot is malformed: its passphrase or recovery key opens nothing"),
    StoreCheck("pack-missing", "a pack that files need is not in the store"),
    StoreCheck(
        "pack-damaged", "a pack has the wrong size or, with `--data`, anything in it is not as it was written"
    ),
    StoreCheck("pack-unreadable", "the store answers, but does not return this pack (`--data` only)"),
    StoreCheck("pack-unreferenced", "packs that no shipped commit names, with their size", Severity.NOTE),
    StoreCheck("object-foreign", "an object that is not cubefs's", Severity.NOTE),
    StoreCheck("base-unfinished", "a base without its manifest: its writer was interrupted", Severity.NOTE),
    StoreCheck("not-shipped", "what this machine's cache has and the store does not yet", Severity.NOTE),
    StoreCheck("cache-unreadable", "this machine's cache could not be looked at", Severity.NOTE),
)


def table() -> str:
    """Return the table of all checks in Markdown."""
    lines = ["| check | where | means |", "|---|---|---|"]
    for check in CHECKS:
        lines.append(_row(check.name, f"`{check.table}`", check.meaning, check.severity))
    for store_check in STORE_CHECKS:
        lines.append(_row(store_check.name, "store", store_check.meaning, store_check.severity))
    return "\n".join(lines)


def _row(name: str, where: str, meaning: str, severity: Severity) -> str:
    return f"| `{name}` | {where} | {meaning}{' (note)' if severity is Severity.NOTE else ''} |"
