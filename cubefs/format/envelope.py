"""The envelope of log and base objects: one sealed message per object, bound to its name and place.

Must never: seal twice under one salt. Every call of `seal` draws a new one, hence the object that was sealed
is kept and sent again as it is; sealing the same body again gives another object.

    offset  bytes  what
    0       8      magic CUBEFLOG
    8       2      format version
    10      2      cipher suite
    12      1      kind
    13      3      zeros
    16      16     uuid of the file system
    32      8      seq: number of the log object; of a base: the last log object it contains
    40      8      number: of the chunk within its base, 0 for all else
    48      32     previous: chain hash of what comes before (log), of the state it holds (base)
    80      32     salt
    112     ...    AES-256-GCM of one zstd frame, tag 16; everything above is its associated data
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cubefs.errors import IntegrityError
from cubefs.format import compression
from cubefs.format.keys import HASH_BYTES, NONCE_BYTES, SALT_BYTES, TAG_BYTES, RandomBytes, derive_key
from cubefs.format.superblock import UUID_BYTES
from cubefs.format.version import FORMAT_VERSION, SUITE, check_version

MAGIC = b"CUBEFLOG"
HEADER_BYTES = 112
BODY_MAX_BYTES = 256 * 1024 * 1024  # of plaintext in one object: what a reader has to hold in memory

_HEADER = struct.Struct(">8sHHB3s16sQQ32s32s")
_LOG_LABEL = b"cubefs v1 log"
_NONCE = bytes(NONCE_BYTES)  # each key seals one message only


class ObjectKind(IntEnum):
    """What a sealed object is."""

    META = 1
    BASE_CHUNK = 2
    BASE_MANIFEST = 3
    MERGED = 4


class Opened(NamedTuple):
    """What an authentic object says."""

    body: bytes
    previous: bytes


def seal(
    body: bytes | memoryview,
    *,
    log_key: bytes,
    uuid: bytes,
    kind: ObjectKind,
    seq: int,
    number: int = 0,
    previous: bytes,
    random: RandomBytes = os.urandom,
) -> bytes:
    """Return the object's bytes. Never the same twice: keep them until the store has them. For a worker
    thread when `body` is long; ValueError beyond 1 to BODY_MAX_BYTES.
    """
    if not 1 <= len(body) <= BODY_MAX_BYTES:
        raise ValueError(f"a sealed object holds 1 to {BODY_MAX_BYTES} bytes, not {len(body)}")
    if len(uuid) != UUID_BYTES or len(previous) != HASH_BYTES:
        raise ValueError("the uuid has 16 bytes, a chain hash 32")
    salt = random(SALT_BYTES)
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, SUITE, kind, bytes(3), uuid, seq, number, previous, salt)
    key = derive_key(log_key, label=_LOG_LABEL, salt=salt)
    return header + AESGCM(key).encrypt(_NONCE, compression.compress(body), header)


def open_sealed(
    data: bytes | memoryview, *, log_key: bytes, uuid: bytes, kind: ObjectKind, seq: int, number: int = 0
) -> Opened:
    """Return the body and the chain hash of an object that must be what its name says.

    `previous` is authentic, but whether it is the right one is the caller's check. Raises IntegrityError (the
    caller adds the object's name) or UnsupportedVersionError. For a worker thread when the object is long.
    """
    header, previous, salt = _check_header(data, uuid=uuid, kind=kind, seq=seq, number=number)
    key = derive_key(log_key, label=_LOG_LABEL, salt=salt)
    try:
        compressed = AESGCM(key).decrypt(_NONCE, memoryview(data)[HEADER_BYTES:], header)
    except InvalidTag:
        raise IntegrityError("the object is not authentic") from None
    return Opened(compression.decompress(compressed, max_bytes=BODY_MAX_BYTES), previous)


def _check_header(
    data: bytes | memoryview, *, uuid: bytes, kind: ObjectKind, seq: int, number: int
) -> tuple[bytes, bytes, bytes]:
    """Return (header, previous, salt) of an object that claims to be the one asked for."""
    if len(data) < len(MAGIC) + 4 or bytes(data[: len(MAGIC)]) != MAGIC:
        raise IntegrityError("this is not a sealed object of cubefs")
    check_version("object", version=int.from_bytes(data[8:10], "big"), suite=int.from_bytes(data[10:12], "big"))
    if not HEADER_BYTES + TAG_BYTES < len(data) <= HEADER_BYTES + TAG_BYTES + BODY_MAX_BYTES:
        raise IntegrityError(f"the object has {len(data)} bytes, which cannot be")
    header = bytes(data[:HEADER_BYTES])
    _, _, _, kind_is, zeros, uuid_is, seq_is, number_is, previous, salt = _HEADER.unpack(header)
    if uuid_is != uuid:
        raise IntegrityError("the object belongs to another file system")
    if kind_is != kind or zeros != bytes(3):
        raise IntegrityError(f"the object is of kind {kind_is}, expected {kind.value} ({kind.name})")
    if (seq_is, number_is) != (seq, number):
        raise IntegrityError(f"the object is number {seq_is}/{number_is}, expected {seq}/{number}")
    return header, previous, salt
