"""Renders what a mount says of itself, for people; `--json` shows the same as it comes.

Must never: fail on a field it does not know; the file system may say more than this knows how to phrase.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cubefs.app.display import aligned, format_bytes, format_duration, format_time
from cubefs.visible import one_line

# said in the first lines already
_PHRASED = frozenset(
    {"uuid", "store", "state", "failure", "read_only", "inodes", "snapshots", "unshipped_commits"}
    | {"unstored_bytes", "dirty_bytes", "dirty_limit_bytes", "cache_bytes", "cache_limit_bytes"}
    | {"logical_bytes", "plain_bytes", "stored_bytes"}
)


def lines(fields: Mapping[str, Any]) -> list[str]:
    """Return the lines of `cubefs status`. Raises KeyError for the answer of another version."""
    inner: Mapping[str, Any] = fields["file_system"]
    rows = [
        ("mount point", str(fields["mount_point"])),
        ("store", str(fields["store"])),
        ("state", _state(fields, inner)),
        ("not stored yet", _waiting(inner)),
        ("contents", f"{_count(inner['inodes'], 'inode')}, {_count(inner['snapshots'], 'snapshot')}"),
        ("size", f"{format_bytes(inner['logical_bytes'])} of files now; {_stored(inner)}"),
        ("cache", f"{format_bytes(inner['cache_bytes'])} of {format_bytes(inner['cache_limit_bytes'])}"),
        ("cache directory", str(fields["cache_dir"])),
        ("log", str(fields["log"])),
        ("process", f"{fields['pid']}, up {format_duration(fields['uptime_s'])}"),
        ("memory", f"{format_bytes(fields['memory_bytes'])}, so far at most {_peak(fields)}"),
    ]
    rows += [(_label(key), _value(key, value)) for key, value in inner.items() if _is_news(key, value)]
    return [one_line(line) for line in aligned(rows)]


def _state(fields: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    if inner["failure"]:
        return f"failed, accepts nothing any more: {inner['failure']}; unmount, then mount again"
    return f"{fields['state']}{', read-only' if fields['read_only'] else ''}"


def _waiting(inner: Mapping[str, Any]) -> str:
    dirty, packed = int(inner["dirty_bytes"]), int(inner["unstored_bytes"])
    parts = []
    if dirty:
        parts.append(f"{format_bytes(dirty)} in memory (limit {format_bytes(inner['dirty_limit_bytes'])})")
    if packed:
        parts.append(f"{format_bytes(packed)} on the local disk")
    if inner["unshipped_commits"]:
        parts.append(_count(inner["unshipped_commits"], "commit"))
    return ", ".join(parts) or "nothing"


def _stored(inner: Mapping[str, Any]) -> str:
    plain, stored = int(inner["plain_bytes"]), int(inner["stored_bytes"])
    return f"{format_bytes(plain)} of different data, {format_bytes(stored)} stored"


def _peak(fields: Mapping[str, Any]) -> str:
    return format_bytes(fields["memory_peak_bytes"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_news(key: str, value: object) -> bool:
    """Zeros and absent errors say nothing to a person."""
    return key not in _PHRASED and value not in (0, None, False, "")


def _label(key: str) -> str:
    for unit in ("_bytes", "_count", "_ns", "_s"):
        key = key.removesuffix(unit)
    return key.replace("_", " ")


def _value(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and ("bytes" in key):
        return format_bytes(value)
    if isinstance(value, int) and key.endswith("_ns"):
        return format_time(value)
    if isinstance(value, int | float) and key.endswith("_s"):
        return format_duration(value)
    return str(value)
