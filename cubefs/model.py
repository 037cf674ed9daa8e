"""The vocabulary: sizes, ids and frozen values that the layers hand to each other.

This module imports nothing of cubefs and holds no behaviour beyond what a value knows of itself.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

KIB = 1024
MIB = 1024 * KIB

BLOCK_MAX_BYTES = 8 * MIB  # a block is at most this long; no extent is longer (a CHECK in the schema)
FRAME_MAX_BYTES = 1 * MIB  # plaintext of one frame: bounds memory, first-byte latency and a random read's cost
PACK_TARGET_BYTES = 8 * MIB  # a pack is closed before it would grow past this
PACK_MAX_BYTES = 16 * MIB  # a reader refuses anything longer: a full pack, its index and room to spare
NAME_MAX_BYTES = 255  # of one file name, as on every Linux file system
FILE_MAX_BYTES = 2**63 - 1  # loff_t

SNAPSHOT_SHIFT = 40  # FUSE inode number = snapshot number << 40 | inode
INODE_MASK = (1 << SNAPSHOT_SHIFT) - 1
ROOT_INODE = 1  # of the live tree and, behind its number, of each snapshot
SNAPDIR_INODE = 2  # the virtual directory `snapshots`; never a row
FIRST_FREE_INODE = 16  # the ids below are reserved for virtual entries


class Chunking(enum.Enum):
    """How files become blocks; chosen at mkfs, kept in the table `meta`."""

    CONTENT = "content"
    FIXED = "fixed"


class SnapshotState(enum.IntEnum):
    """States of a row in `snapshot`."""

    LIVE = 1
    DELETING = 2  # already invisible; its history rows are being dropped in steps


class PackState(enum.IntEnum):
    """States of a pack's local copy (`local_pack`). No row: in the store and not cached."""

    OPEN = 1  # frames are being appended
    CLOSED = 2  # complete and named, not yet proven to be in the store: must not be evicted
    STORED = 3  # read back from the store and found identical: a read cache, may be evicted


class Attr(NamedTuple):
    """One version of an inode's attributes. `ino` is the FUSE number (snapshot << 40 | inode)."""

    ino: int
    body: int  # 0: has no data (all but regular files)
    mode: int  # type and permission bits
    uid: int
    gid: int
    nlink: int
    size_bytes: int
    allocated_bytes: int  # sum of the extents' lengths, for st_blocks
    rdev: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int


class Caller(NamedTuple):
    """Who makes a FUSE request."""

    uid: int
    gid: int
    umask: int


class SetAttr(NamedTuple):
    """The attributes to change; None leaves one as it is."""

    mode: int | None = None  # permission bits
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class DirEntry(NamedTuple):
    """One row of a directory page."""

    name: bytes
    attr: Attr
    next_id: int  # readdir goes on after this dentry id


class Snapshot(NamedTuple):
    """A snapshot as users see it."""

    number: int
    name: bytes
    created_ns: int


class FrameInfo(NamedTuple):
    """One frame inside its pack."""

    pack_offset: int  # of the first stored byte
    stored_bytes: int  # codec byte, ciphertext and tag
    plain_bytes: int


class BlockPlace(NamedTuple):
    """Where a block's plaintext is: it starts at `frame_offset` of frame `frame` and, when longer than what
    that frame holds, goes on at the start of the frames that follow."""

    block_hash: bytes  # 32 bytes, keyed BLAKE3
    length: int
    frame: int
    frame_offset: int


class StatFs(NamedTuple):
    """Numbers for statvfs(3)."""

    block_bytes: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
