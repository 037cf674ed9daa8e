"""The SQLite schema: every table, index and CHECK, and which tables are shipped.

Must never: hold SQL that reads or changes rows (that is the business of the modules beside it).

Rules, each with its reason:
- every shipped table has a NOT NULL primary key: the session extension silently skips a table without one;
- no triggers and no AUTOINCREMENT: a changeset records what they do as if the user had done it, twice;
- no UNIQUE index beside the primary keys: a batch may swap two names, and applying its changeset row by row
  would hit the constraint half-way. Uniqueness of names and hashes is the code's (a look-up in the same
  stretch) and fsck's;
- `spread` is derived from `file_offset` and stands last in its key: the session extension's hash of a key carries
  nothing from high bits to low ones, so that keys which are multiples of 4096 would all meet in a few buckets
  (20,000 inserts took 0.47 s instead of 0.03 s);
- history twins add `until` (the row was valid in the epochs [since, until)) and `fork`, the number in
  [since, until) with the most trailing zero bits: the rows that a snapshot may see are found under the few
  ancestors of its number in a binary tree, instead of among all versions (a relational interval tree).
"""

from __future__ import annotations

SCHEMA_VERSION = 1

_INODE_COLUMNS = """
    since INTEGER NOT NULL,
    body INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    nlink INTEGER NOT NULL CHECK (nlink >= 0),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    allocated_bytes INTEGER NOT NULL CHECK (allocated_bytes >= 0),
    rdev INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    btime_ns INTEGER NOT NULL"""

_EXTENT_COLUMNS = """
    since INTEGER NOT NULL,
    length INTEGER NOT NULL CHECK (length BETWEEN 1 AND 8388608),
    block INTEGER NOT NULL,
    block_offset INTEGER NOT NULL CHECK (block_offset BETWEEN 0 AND 8388607),
    spread INTEGER NOT NULL CHECK (spread = ((file_offset >> 12) + (file_offset >> 20)) & 65535)"""

SHIPPED: dict[str, str] = {
    "meta": "(key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    "counter": "(name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "snapshot": """(number INTEGER PRIMARY KEY NOT NULL, name BLOB NOT NULL, created_ns INTEGER NOT NULL,
        state INTEGER NOT NULL CHECK (state IN (1, 2))) STRICT""",
    "commit_point": "(number INTEGER PRIMARY KEY NOT NULL, time_ns INTEGER NOT NULL) STRICT",
    "inode": f"(id INTEGER PRIMARY KEY NOT NULL, {_INODE_COLUMNS}) STRICT",
    "inode_history": f"""(id INTEGER NOT NULL, until INTEGER NOT NULL, {_INODE_COLUMNS},
        PRIMARY KEY (id, until), CHECK (since < until)) STRICT, WITHOUT ROWID""",
    "dentry": """(id INTEGER PRIMARY KEY NOT NULL, since INTEGER NOT NULL, parent INTEGER NOT NULL,
        name BLOB NOT NULL CHECK (length(name) BETWEEN 1 AND 255), inode INTEGER NOT NULL) STRICT""",
    "dentry_history": """(parent INTEGER NOT NULL, fork INTEGER NOT NULL, id INTEGER NOT NULL,
        until INTEGER NOT NULL, since INTEGER NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL,
        PRIMARY KEY (parent, fork, id, until),
        CHECK (since < until AND since <= fork AND fork < until)) STRICT, WITHOUT ROWID""",
    "extent": f"""(body INTEGER NOT NULL, file_offset INTEGER NOT NULL CHECK (file_offset >= 0),
        {_EXTENT_COLUMNS}, PRIMARY KEY (body, file_offset, spread)) STRICT, WITHOUT ROWID""",
    "extent_history": f"""(body INTEGER NOT NULL, fork INTEGER NOT NULL, file_offset INTEGER NOT NULL,
        until INTEGER NOT NULL, {_EXTENT_COLUMNS}, PRIMARY KEY (body, fork, file_offset, until, spread),
        CHECK (since < until AND since <= fork AND fork < until)) STRICT, WITHOUT ROWID""",
    "xattr": """(inode INTEGER NOT NULL, name BLOB NOT NULL, since INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (inode, name)) STRICT, WITHOUT ROWID""",
    "xattr_history": """(inode INTEGER NOT NULL, name BLOB NOT NULL, until INTEGER NOT NULL,
        since INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (inode, name, until), CHECK (since < until)) STRICT, WITHOUT ROWID""",
    "symlink": """(inode INTEGER PRIMARY KEY NOT NULL, since INTEGER NOT NULL, target BLOB NOT NULL)
        STRICT""",
    "symlink_history": """(inode INTEGER NOT NULL, until INTEGER NOT NULL, since INTEGER NOT NULL,
        target BLOB NOT NULL, PRIMARY KEY (inode, until), CHECK (since < until)) STRICT, WITHOUT ROWID""",
    # bodies cut off from their inode; bounded steps retire their extents as of epoch `since`
    "detached": "(body INTEGER PRIMARY KEY NOT NULL, since INTEGER NOT NULL) STRICT",
    # unlinked but open when last committed: the next mount deletes them
    "orphan": "(inode INTEGER PRIMARY KEY NOT NULL) STRICT",
    # pack, frame, frame_offset: where the block's plaintext starts; refs: extent rows, live and history
    "block": """(id INTEGER PRIMARY KEY NOT NULL, hash BLOB NOT NULL CHECK (length(hash) = 32),
        length INTEGER NOT NULL CHECK (length BETWEEN 1 AND 8388608),
        refs INTEGER NOT NULL CHECK (refs >= 0), pack INTEGER NOT NULL, frame INTEGER NOT NULL,
        frame_offset INTEGER NOT NULL, damaged INTEGER NOT NULL CHECK (damaged IN (0, 1))) STRICT""",
    # name is NULL while the pack is open, which is never so in a shipped state
    "pack": """(id INTEGER PRIMARY KEY NOT NULL, salt BLOB NOT NULL CHECK (length(salt) = 32), name BLOB,
        size_bytes INTEGER NOT NULL, doomed_commit INTEGER, verified_how TEXT) STRICT""",
    # live_bytes: plaintext of this frame that belongs to blocks with refs > 0
    "frame": """(pack INTEGER NOT NULL, number INTEGER NOT NULL, pack_offset INTEGER NOT NULL,
        stored_bytes INTEGER NOT NULL, plain_bytes INTEGER NOT NULL CHECK (plain_bytes BETWEEN 1 AND 1048576),
        live_bytes INTEGER NOT NULL CHECK (live_bytes BETWEEN 0 AND plain_bytes),
        PRIMARY KEY (pack, number)) STRICT, WITHOUT ROWID""",
}

# Local tables never enter a changeset and are emptied from every base.
LOCAL: dict[str, str] = {
    "local_pack": """(salt BLOB PRIMARY KEY NOT NULL, state INTEGER NOT NULL CHECK (state IN (1, 2, 3)),
        size_bytes INTEGER NOT NULL, used_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    # committed but not yet shipped changesets; cut = 1: everything up to here may be shipped as one object
    "local_outbox": """(number INTEGER PRIMARY KEY NOT NULL, cut INTEGER NOT NULL, time_ns INTEGER NOT NULL,
        changeset BLOB NOT NULL) STRICT""",
    # a sealed log object, kept until the store has it: a retry must send exactly these bytes
    "local_log": """(seq INTEGER PRIMARY KEY NOT NULL, last_number INTEGER NOT NULL, body BLOB NOT NULL)
        STRICT""",
    # the one row: the last log object known to be in the store
    "local_head": """(id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1), seq INTEGER NOT NULL,
        chain_hash BLOB NOT NULL, writer BLOB NOT NULL, log_bytes INTEGER NOT NULL,
        base_bytes INTEGER NOT NULL) STRICT""",
}

INDEXES: tuple[str, ...] = (
    "CREATE INDEX inode_history_until ON inode_history (until, since)",
    "CREATE INDEX dentry_name ON dentry (parent, name)",
    "CREATE INDEX dentry_page ON dentry (parent)",
    "CREATE INDEX dentry_inode ON dentry (inode)",
    "CREATE INDEX dentry_history_name ON dentry_history (parent, name, until)",
    "CREATE INDEX dentry_history_until ON dentry_history (until, since)",
    "CREATE INDEX extent_history_until ON extent_history (until, since)",
    "CREATE INDEX xattr_history_until ON xattr_history (until, since)",
    "CREATE INDEX symlink_history_until ON symlink_history (until, since)",
    "CREATE INDEX block_hash ON block (hash)",
    "CREATE INDEX block_pack ON block (pack)",
    "CREATE INDEX pack_salt ON pack (salt)",
    "CREATE INDEX pack_name ON pack (name)",
)


def statements() -> list[str]:
    """Return the CREATE statements of an empty database, in order."""
    tables = [f"CREATE TABLE {name} {body}" for name, body in {**SHIPPED, **LOCAL}.items()]
    return [*tables, *INDEXES, f"PRAGMA user_version = {SCHEMA_VERSION}"]


def spread(file_offset: int) -> int:
    """Return the column `spread` of an extent at `file_offset`: differs between neighbours at any alignment."""
    return ((file_offset >> 12) + (file_offset >> 20)) & 0xFFFF


def fork(since: int, until: int) -> int:
    """Return the number in [since, until) that has the most trailing zero bits.

    Source: the fork node of a relational interval tree (Kriegel, Pötke, Seidl, VLDB 2000).
    """
    last = until - 1
    differing = ((since - 1) ^ last).bit_length() - 1
    return last >> differing << differing


def fork_ancestors(epoch: int, last_epoch: int) -> list[int]:
    """Return the forks under which an interval that contains `epoch` can be filed, `epoch` itself among them.

    `last_epoch` bounds the tree: no interval reaches past it. The list has at most
    last_epoch.bit_length() + 1 members.
    """
    forks = []
    for level in range(last_epoch.bit_length() + 1):
        below = epoch >> level << level  # the candidate at this level to the left of epoch, or epoch
        above = below + (1 << level)
        for candidate in (below, above):
            is_of_level = candidate >> level & 1 == 1
            if is_of_level and 0 < candidate <= last_epoch and candidate not in forks:
                forks.append(candidate)
    return forks
