"""What is inside sealed objects: the records of a metadata log object, and the manifest of a base.

Must never: look into a changeset. It is SQLite's format, and the database's business.

The chain: chain hash 0 is the BLAKE3 of the superblock object, chain hash n that of the object meta/<n>;
the header of meta/<n> carries chain hash n-1. `keys.object_hash` computes all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from cubefs.errors import IntegrityError
from cubefs.format.keys import HASH_BYTES
from cubefs.model import MIB

BASE_CHUNK_MAX_BYTES = 8 * MIB  # of the database file in one base chunk
WRITER_BYTES = 16  # a writer's random id: one per mount that writes
HOST_MAX_BYTES = 255

_COUNT = struct.Struct(">I")
_RECORD = struct.Struct(">BQI")  # type, time_ns, length
_MANIFEST = struct.Struct(">Q32sQI")  # seq, chain_hash, plain_bytes, chunk_count
_CHUNK = struct.Struct(">32sI")  # object hash, plain_bytes


class _Type(IntEnum):
    OPENED = 1
    CLOSED = 2
    CHANGES = 3


class WriterOpened(NamedTuple):
    """A machine took the file system over: earlier writers are fenced by this record."""

    time_ns: int
    writer: bytes  # 16 bytes
    host: str


class WriterClosed(NamedTuple):
    """A machine finished cleanly: everything it ever acknowledged is in the store."""

    time_ns: int
    writer: bytes  # 16 bytes
    host: str


class Changes(NamedTuple):
    """One SQLite changeset, to be applied after those before it."""

    time_ns: int
    changeset: bytes


Record = WriterOpened | WriterClosed | Changes


def encode_records(records: Sequence[Record]) -> bytes:
    """Return the body of a metadata log object."""
    parts = [_COUNT.pack(len(records))]
    for record in records:
        match record:
            case Changes(time_ns, changeset):
                parts += [_RECORD.pack(_Type.CHANGES, time_ns, len(changeset)), changeset]
            case WriterOpened(time_ns, writer, host):
                payload = _encode_writer(writer, host)
                parts += [_RECORD.pack(_Type.OPENED, time_ns, len(payload)), payload]
            case WriterClosed(time_ns, writer, host):
                payload = _encode_writer(writer, host)
                parts += [_RECORD.pack(_Type.CLOSED, time_ns, len(payload)), payload]
    return b"".join(parts)


def decode_records(body: bytes) -> list[Record]:
    """Parse the body of a metadata log object; IntegrityError if it is malformed in any way."""
    return list(_decode_records(body))


def _decode_records(body: bytes) -> Iterator[Record]:
    if len(body) < _COUNT.size:
        raise IntegrityError("the log object's body is truncated")
    (count,) = _COUNT.unpack_from(body)
    start = _COUNT.size
    for _ in range(count):  # ends with an error where the body ends, whatever count claims
        if len(body) - start < _RECORD.size:
            raise IntegrityError("a log record is truncated")
        record_type, time_ns, length = _RECORD.unpack_from(body, start)
        start += _RECORD.size
        if len(body) - start < length:
            raise IntegrityError("a log record claims more bytes than there are")
        yield _decode_record(record_type, time_ns, body[start : start + length])
        start += length
    if start != len(body):
        raise IntegrityError("there is something behind the last log record")


def _decode_record(record_type: int, time_ns: int, payload: bytes) -> Record:
    match record_type:
        case _Type.OPENED:
            return WriterOpened(time_ns, *_decode_writer(payload))
        case _Type.CLOSED:
            return WriterClosed(time_ns, *_decode_writer(payload))
        case _Type.CHANGES:
            return Changes(time_ns, payload)
        case _:
            raise IntegrityError(f"the log holds a record of the unknown type {record_type}")


def _encode_writer(writer: bytes, host: str) -> bytes:
    name = host.encode("utf-8")
    if len(writer) != WRITER_BYTES or len(name) > HOST_MAX_BYTES:
        raise ValueError(f"a writer id has {WRITER_BYTES} bytes, a host name at most {HOST_MAX_BYTES}")
    return writer + name


def _decode_writer(payload: bytes) -> tuple[bytes, str]:
    if not WRITER_BYTES <= len(payload) <= WRITER_BYTES + HOST_MAX_BYTES:
        raise IntegrityError("a log record names no writer")
    try:
        return payload[:WRITER_BYTES], payload[WRITER_BYTES:].decode("utf-8")
    except UnicodeDecodeError:
        raise IntegrityError("a log record names a host that is not UTF-8") from None


# -- bases ----------------------------------------------------------------------------------------------------


class BaseChunk(NamedTuple):
    """One slice of the database file."""

    object_hash: bytes  # BLAKE3 of the sealed object base/<seq>/<n>
    plain_bytes: int  # 1 to BASE_CHUNK_MAX_BYTES


class BaseManifest(NamedTuple):
    """What a complete base consists of."""

    seq: int  # it holds the state as of this log object
    chain_hash: bytes  # of meta/<seq>, or of the superblock for seq 0
    chunks: tuple[BaseChunk, ...]

    @property
    def plain_bytes(self) -> int:
        """Size of the database file."""
        return sum(chunk.plain_bytes for chunk in self.chunks)


def encode_manifest(manifest: BaseManifest) -> bytes:
    """Return the body of a base manifest; IntegrityError if a reader would refuse it."""
    _check_manifest(manifest)
    head = _MANIFEST.pack(manifest.seq, manifest.chain_hash, manifest.plain_bytes, len(manifest.chunks))
    return head + b"".join(_CHUNK.pack(*chunk) for chunk in manifest.chunks)


def decode_manifest(body: bytes) -> BaseManifest:
    """Parse the body of a base manifest; IntegrityError if it is malformed in any way."""
    if len(body) < _MANIFEST.size:
        raise IntegrityError("the base manifest is truncated")
    seq, chain_hash, plain_bytes, chunk_count = _MANIFEST.unpack_from(body)
    if len(body) != _MANIFEST.size + chunk_count * _CHUNK.size:
        raise IntegrityError("the base manifest is not as long as its count says")
    rows = _CHUNK.iter_unpack(memoryview(body)[_MANIFEST.size :])
    manifest = BaseManifest(seq, chain_hash, tuple(BaseChunk(*row) for row in rows))
    _check_manifest(manifest)
    if manifest.plain_bytes != plain_bytes:
        raise IntegrityError("the base manifest's sizes do not add up")
    return manifest


def _check_manifest(manifest: BaseManifest) -> None:
    if not manifest.chunks or len(manifest.chain_hash) != HASH_BYTES:
        raise IntegrityError("the base manifest names no chunk")
    for chunk in manifest.chunks:
        if len(chunk.object_hash) != HASH_BYTES or not 1 <= chunk.plain_bytes <= BASE_CHUNK_MAX_BYTES:
            raise IntegrityError(f"the base manifest names a chunk of {chunk.plain_bytes} bytes")
