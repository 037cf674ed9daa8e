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
    | {"store_error", "store_error_since_ns", "store_traffic", "not_checked", "verify", "settle_s"}
    | {"writers_waiting_for_store", "readers_waiting_for_store"}
)
_VERIFICATION = {
    "verified_full_count": "read back",
    "verified_head_count": "by size only",
    "verify_late_count": "right only at a later look",
    "verify_put_again_count": "put again",
    "verify_gave_up_count": "given up and begun anew",
}
_REQUESTS = {
    "put_count": "PUT",
    "get_count": "GET",
    "head_count": "HEAD",
    "list_count": "LIST",
    "delete_count": "DELETE",
}
_VOLUMES = {"sent_bytes": "sent", "received_bytes": "received"}
_PROBLEMS = {
    "retry_count": "tried again",
    "gave_up_count": "given up",
    "busy_count": "store busy",
    "unavailable_count": "no proper answer",
    "denied_count": "refused",
    "error_count": "other errors",
}


def lines(fields: Mapping[str, Any]) -> list[str]:
    """Return the lines of `cubefs status`. Raises KeyError for the answer of another version."""
    inner: Mapping[str, Any] = fields["file_system"]
    rows = [
        ("mount point", str(fields["mount_point"])),
        ("store", str(fields["store"])),
        ("state", _state(fields, inner)),
        *_trouble(inner),
        ("not stored yet", _waiting(inner)),
        ("contents", f"{_count(inner['inodes'], 'inode')}, {_count(inner['snapshots'], 'snapshot')}"),
        ("size", f"{format_bytes(inner['logical_bytes'])} of files now; {_stored(inner)}"),
        ("cache", f"{format_bytes(inner['cache_bytes'])} of {format_bytes(inner['cache_limit_bytes'])}"),
        ("cache directory", str(fields["cache_dir"])),
        ("log", str(fields["log"])),
        ("limits", _limits(fields)),
        ("verified", _verification(inner)),
        *_traffic(inner),
        ("process", f"{fields['pid']}, up {format_duration(fields['uptime_s'])}"),
        ("memory", f"{format_bytes(fields['memory_bytes'])}, so far at most {_peak(fields)}"),
    ]
    rows += [(_label(key), _value(key, value)) for key, value in inner.items() if _is_news(key, value)]
    return [one_line(line) for line in aligned(rows)]


def _state(fields: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    if inner["failure"]:
        return f"failed, accepts nothing any more: {inner['failure']}; unmount, then mount again"
    return f"{fields['state']}{', read-only' if fields['read_only'] else ''}"


def _trouble(inner: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what is wrong with the store, since when, and who waits for it."""
    rows = []
    if inner["store_error"]:
        since_ns = inner["store_error_since_ns"]  # None for what is only being tried again
        since = f"since {format_time(since_ns)}: " if since_ns is not None else ""
        rows.append(("store trouble", f"{since}{inner['store_error']}"))
    if inner["writers_waiting_for_store"]:
        rows.append(("writers wait", "the cache is full of data that the store has not taken yet"))
    if inner["readers_waiting_for_store"]:
        rows.append(("readers wait", f"{inner['readers_waiting_for_store']}, for data that only the store has"))
    if inner["not_checked"]:
        rows.append(("not checked yet", str(inner["not_checked"])))
    return rows


def _limits(fields: Mapping[str, Any]) -> str:
    limits = [f"{word} {value}" for word, value in fields["limits"].items() if value != "none"]
    adapting = [f"{what} {value}" for what, value in fields["adapting"].items()]
    return ", ".join(limits + adapting) or "none"


def _verification(inner: Mapping[str, Any]) -> str:
    """Say how uploads are looked at and how that went."""
    traffic: Mapping[str, int] = inner["store_traffic"]
    policy = str(inner["verify"]) + (
        f", settling {format_duration(inner['settle_s'])}" if inner["settle_s"] else ""
    )
    done = [f"{traffic[name]} {words}" for name, words in _VERIFICATION.items() if traffic.get(name)]
    return f"{', '.join(done) or 'nothing yet'} (policy: {policy})"


def _traffic(inner: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what went over the line, and what went wrong there."""
    traffic: Mapping[str, int] = inner["store_traffic"]
    parts = [f"{traffic[name]} {words}" for name, words in _REQUESTS.items() if traffic.get(name)]
    volume = [f"{format_bytes(traffic[name])} {words}" for name, words in _VOLUMES.items() if traffic.get(name)]
    problems = [f"{traffic[name]} {words}" for name, words in _PROBLEMS.items() if traffic.get(name)]
    rows = [("requests", ", ".join(parts + volume) or "none yet")]
    return rows + ([("request problems", ", ".join(problems))] if problems else [])


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
