"""What this machine's cache of the same file system knows: what is not shipped, whether the store was set back.

Must never: change anything in the cache directory, or keep the audit from its verdict.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from cubefs.db.audit_local import LocalState, read_local_state
from cubefs.engine import logend
from cubefs.engine.metalog import Head
from cubefs.errors import IntegrityError
from cubefs.fsck.report import Finding, Severity, many
from cubefs.store.base import Store
from cubefs.visible import safe

DATABASE = "db.sqlite"


def check_cache(store: Store, cache_dir: Path, *, uuid: bytes, database: str = DATABASE) -> Iterator[Finding]:
    """Yield what the cache directory says; nothing when it holds no database of this file system."""
    path = cache_dir / database
    if not path.exists():
        return
    try:
        state = read_local_state(path)
    except IntegrityError as error:
        yield Finding("cache-unreadable", Severity.NOTE, str(error), safe(bytes(path)))
        return
    if state.uuid != uuid:
        return
    if state.head_seq is not None and state.head_hash is not None:
        try:
            logend.check_head(store, Head(state.head_seq, state.head_hash, 0, 0))
        except IntegrityError as error:
            yield Finding("log-forked", Severity.ERROR, str(error), safe(bytes(path)))
    if state.unshipped_commits or state.unstored_packs:
        yield Finding("not-shipped", Severity.NOTE, _describe(state), safe(bytes(path)))


def _describe(state: LocalState) -> str:
    since = ""
    if state.first_unshipped_ns is not None:
        moment = datetime.datetime.fromtimestamp(state.first_unshipped_ns // 10**9, tz=datetime.UTC)
        since = f" since {moment:%Y-%m-%dT%H:%M:%SZ}"
    return (
        f"not known to be in the store yet: {many(state.unshipped_commits, 'commit')} of metadata"
        f" ({many(state.unshipped_bytes, 'byte')}){since}, {many(state.unstored_packs, 'pack')}"
        f" ({many(state.unstored_bytes, 'byte')}); a mount or `cubefs sync` stores them"
    )
