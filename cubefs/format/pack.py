"""Packs: header, sealed frames, sealed index, sealed footer.

Must never: seal two different plaintexts under one nonce. A pack's key comes from its random salt, the nonce
from what is sealed (frame, index or footer) and its number: whoever seals a frame number twice, or goes on
with a pack that was found open after a crash, breaks the cipher. Make a new PackCipher with a new salt.

    offset  bytes  what
    0       64     header
    64      ...    frames, one right behind the other: codec u8, ciphertext, tag 16
    ...     ...    index: ciphertext, tag 16
    end-32  32     footer: 16 bytes of ciphertext, tag 16
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from io import BytesIO
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cubefs.errors import IntegrityError
from cubefs.format import compression
from cubefs.format.keys import SALT_BYTES, TAG_BYTES, derive_key
from cubefs.format.superblock import UUID_BYTES
from cubefs.format.version import FORMAT_VERSION, SUITE, check_version
from cubefs.model import BLOCK_MAX_BYTES, FRAME_MAX_BYTES, PACK_MAX_BYTES, BlockPlace, FrameInfo

MAGIC = b"CUBEPACK"
HEADER_BYTES = 64
FOOTER_BYTES = 32
FRAME_OVERHEAD_BYTES = 1 + TAG_BYTES  # codec byte and tag

_HEADER = struct.Struct(">8sHHI16s32s")  # magic, version, suite, zero, uuid, salt
_NONCE = struct.Struct(">B3xQ")  # kind, zeros, number
_AAD_TAIL = struct.Struct(">BQ")  # kind, number
_FRAME_AAD_TAIL = struct.Struct(">BQB")  # kind, number, codec
_INDEX_HEAD = struct.Struct(">II")  # frame count, block count
_INDEX_FRAME = struct.Struct(">III")  # pack_offset, stored_bytes, plain_bytes
_INDEX_BLOCK = struct.Struct(">32sIII")  # hash, length, frame, frame_offset
_FOOTER = struct.Struct(">QII")  # index_offset, index_stored_bytes, frame_count

_WORTH_DECOMPRESSING = 0.99  # each read pays for it; frames between 0.99 and 1 were 0.05 % of real files' bytes

_PACK_LABEL = b"cubefs v1 pack"


class Codec(IntEnum):
    """How a frame's plaintext became its payload."""

    RAW = 0
    ZSTD = 1


class _Kind(IntEnum):
    """What is sealed: keeps the nonces of the three apart."""

    FRAME = 0
    INDEX = 1
    FOOTER = 2


class PackedFrame(NamedTuple):
    """A frame ready to be sealed. A raw payload is the caller's own buffer, which must not change until then."""

    codec: Codec
    payload: bytes | memoryview
    plain_bytes: int


class Footer(NamedTuple):
    """Where the index is."""

    index_offset: int
    index_stored_bytes: int
    frame_count: int


class PackIndex(NamedTuple):
    """What a pack holds."""

    salt: bytes
    frames: list[FrameInfo]
    blocks: list[BlockPlace]


def pack_frame(plain: bytes | memoryview) -> PackedFrame:
    """Compress 1 to FRAME_MAX_BYTES of plaintext if that helps. Any thread; releases the GIL."""
    plain_bytes = len(plain)
    if not 1 <= plain_bytes <= FRAME_MAX_BYTES:
        raise ValueError(f"a frame holds 1 to {FRAME_MAX_BYTES} bytes, not {plain_bytes}")
    compressed = compression.compress(plain)
    if len(compressed) < plain_bytes * _WORTH_DECOMPRESSING:
        return PackedFrame(Codec.ZSTD, compressed, plain_bytes)
    return PackedFrame(Codec.RAW, plain, plain_bytes)


class PackCipher:
    """Seals and opens the parts of one pack. Any thread, several at once; sealing and opening release the GIL."""

    __slots__ = ("_aead", "header")

    def __init__(self, pack_key: bytes, *, salt: bytes, uuid: bytes) -> None:
        """`salt`: 32 random bytes that no other pack has."""
        if len(salt) != SALT_BYTES or len(uuid) != UUID_BYTES:
            raise ValueError("a pack's salt has 32 bytes, the uuid 16")
        self.header = _HEADER.pack(MAGIC, FORMAT_VERSION, SUITE, 0, uuid, salt)
        self._aead = AESGCM(derive_key(pack_key, label=_PACK_LABEL, salt=salt))

    def seal_frame(self, number: int, packed: PackedFrame) -> bytes:
        """Return frame `number` as it is stored. Each number once: see the head of this module."""
        aad = self.header + _FRAME_AAD_TAIL.pack(_Kind.FRAME, number, packed.codec)
        stored_bytes = FRAME_OVERHEAD_BYTES + len(packed.payload)
        # Sealing straight behind the codec byte, without a copy of a megabyte under the GIL: a BytesIO of the
        # final size hands out its own bytes object.
        buffer = BytesIO()
        buffer.write(packed.codec.to_bytes(1, "big"))
        buffer.seek(stored_bytes - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as view, view[1:] as room:
            self._aead.encrypt_into(_NONCE.pack(_Kind.FRAME, number), packed.payload, aad, room)
        return buffer.getvalue()

    def open_frame(self, number: int, stored: bytes | memoryview, *, plain_bytes: int) -> bytes:
        """Return the plaintext of frame `number`. Raises IntegrityError unless it is authentic and has
        `plain_bytes` bytes (1 to FRAME_MAX_BYTES).
        """
        if not 1 <= plain_bytes <= FRAME_MAX_BYTES:
            raise IntegrityError(f"frame {number} claims {plain_bytes} bytes of plaintext")
        if not FRAME_OVERHEAD_BYTES < len(stored) <= FRAME_OVERHEAD_BYTES + plain_bytes:
            raise IntegrityError(f"frame {number} has {len(stored)} bytes, which cannot be")
        codec = stored[0]
        aad = self.header + _FRAME_AAD_TAIL.pack(_Kind.FRAME, number, codec)
        try:
            payload = self._aead.decrypt(_NONCE.pack(_Kind.FRAME, number), memoryview(stored)[1:], aad)
        except InvalidTag:
            raise IntegrityError(f"frame {number} is not authentic") from None
        if codec == Codec.ZSTD:
            plain = compression.decompress(payload, max_bytes=plain_bytes)
        elif codec == Codec.RAW:
            plain = payload
        else:
            raise IntegrityError(f"frame {number} has the unknown codec {codec}")
        if len(plain) != plain_bytes:
            raise IntegrityError(f"frame {number} holds {len(plain)} bytes, not {plain_bytes}")
        return plain

    def seal_index(self, frames: Sequence[FrameInfo], blocks: Sequence[BlockPlace]) -> bytes:
        """Return the index as it is stored, right behind the last frame. IntegrityError if it is not one that
        a reader would accept.
        """
        _check_places(frames, blocks)
        parts = [_INDEX_HEAD.pack(len(frames), len(blocks))]
        parts += [_INDEX_FRAME.pack(*frame) for frame in frames]
        parts += [_INDEX_BLOCK.pack(*block) for block in blocks]
        return self._seal(_Kind.INDEX, b"".join(parts))

    def open_index(self, stored: bytes | memoryview) -> PackIndex:
        """Return what the stored index says, with every place checked; IntegrityError otherwise."""
        if len(stored) > PACK_MAX_BYTES:
            raise IntegrityError("the index is longer than a pack may be")
        plain = self._open(_Kind.INDEX, stored, what="index")
        if len(plain) < _INDEX_HEAD.size:
            raise IntegrityError("the index is too short")
        frame_count, block_count = _INDEX_HEAD.unpack_from(plain)
        blocks_start = _INDEX_HEAD.size + frame_count * _INDEX_FRAME.size
        if len(plain) != blocks_start + block_count * _INDEX_BLOCK.size:
            raise IntegrityError("the index is not as long as its counts say")
        view = memoryview(plain)
        frames = [FrameInfo(*row) for row in _INDEX_FRAME.iter_unpack(view[_INDEX_HEAD.size : blocks_start])]
        blocks = [BlockPlace(*row) for row in _INDEX_BLOCK.iter_unpack(view[blocks_start:])]
        _check_places(frames, blocks)
        return PackIndex(self.header[-SALT_BYTES:], frames, blocks)

    def seal_footer(self, *, index_offset: int, index_stored_bytes: int, frame_count: int) -> bytes:
        """Return the last 32 bytes of the pack."""
        return self._seal(_Kind.FOOTER, _FOOTER.pack(index_offset, index_stored_bytes, frame_count))

    def open_footer(self, stored: bytes | memoryview) -> Footer:
        """Return what the last 32 bytes of a pack say; IntegrityError if they are not authentic."""
        if len(stored) != FOOTER_BYTES:
            raise IntegrityError("the footer is truncated")
        return Footer(*_FOOTER.unpack(self._open(_Kind.FOOTER, stored, what="footer")))

    def _seal(self, kind: _Kind, plain: bytes) -> bytes:
        return self._aead.encrypt(_NONCE.pack(kind, 0), plain, self.header + _AAD_TAIL.pack(kind, 0))

    def _open(self, kind: _Kind, stored: bytes | memoryview, *, what: str) -> bytes:
        if len(stored) < TAG_BYTES:
            raise IntegrityError(f"the {what} is truncated")
        try:
            return self._aead.decrypt(_NONCE.pack(kind, 0), stored, self.header + _AAD_TAIL.pack(kind, 0))
        except InvalidTag:
            raise IntegrityError(f"the {what} is not authentic") from None


def parse_header(data: bytes | memoryview) -> tuple[bytes, bytes]:
    """Return (uuid, salt) from a pack's first 64 bytes; nothing is authenticated by this.

    Raises IntegrityError if it is not a pack's header, UnsupportedVersionError if a newer cubefs wrote it.
    """
    if len(data) < len(MAGIC) + 4 or bytes(data[: len(MAGIC)]) != MAGIC:
        raise IntegrityError("this is not a pack")
    check_version("pack", version=int.from_bytes(data[8:10], "big"), suite=int.from_bytes(data[10:12], "big"))
    if len(data) < HEADER_BYTES:
        raise IntegrityError("the pack is truncated: it has no whole header")
    _, _, _, zero, uuid, salt = _HEADER.unpack_from(data)
    if zero != 0:
        raise IntegrityError("the pack's header is malformed")
    return uuid, salt


def read_pack(data: bytes | memoryview, *, pack_key: bytes, uuid: bytes) -> PackIndex:
    """Return what a whole pack holds: header, footer and index authenticated, every offset checked, no frame
    opened. For a worker thread.

    Raises IntegrityError (the caller adds the object's name) or UnsupportedVersionError.
    """
    if len(data) > PACK_MAX_BYTES:
        raise IntegrityError(f"the pack has {len(data)} bytes, allowed are {PACK_MAX_BYTES}")
    pack_uuid, salt = parse_header(data)
    if pack_uuid != uuid:
        raise IntegrityError("the pack belongs to another file system")
    if len(data) < HEADER_BYTES + FOOTER_BYTES:
        raise IntegrityError("the pack is truncated: it has no footer")
    view = memoryview(data)
    cipher = PackCipher(pack_key, salt=salt, uuid=uuid)
    footer_offset = len(data) - FOOTER_BYTES
    footer = cipher.open_footer(view[footer_offset:])
    if footer.index_offset < HEADER_BYTES or footer.index_offset + footer.index_stored_bytes != footer_offset:
        raise IntegrityError("the footer says that the index is elsewhere")
    index = cipher.open_index(view[footer.index_offset : footer_offset])
    if len(index.frames) != footer.frame_count:
        raise IntegrityError("footer and index do not agree on the number of frames")
    last = index.frames[-1]
    if last.pack_offset + last.stored_bytes != footer.index_offset:
        raise IntegrityError("the frames do not end where the index begins")
    return index


def _check_places(frames: Sequence[FrameInfo], blocks: Sequence[BlockPlace]) -> None:
    """Raise IntegrityError unless frames follow each other without a gap and each block lies where a block
    may lie.
    """
    if not frames:
        raise IntegrityError("the index names no frame")
    pack_offset = HEADER_BYTES
    for number, frame in enumerate(frames):
        if frame.pack_offset != pack_offset:
            raise IntegrityError(f"frame {number} does not follow the one before it")
        if not 1 <= frame.plain_bytes <= FRAME_MAX_BYTES:
            raise IntegrityError(f"frame {number} claims {frame.plain_bytes} bytes of plaintext")
        if not FRAME_OVERHEAD_BYTES < frame.stored_bytes <= FRAME_OVERHEAD_BYTES + frame.plain_bytes:
            raise IntegrityError(f"frame {number} claims {frame.stored_bytes} stored bytes")
        pack_offset += frame.stored_bytes
    if pack_offset > PACK_MAX_BYTES:
        raise IntegrityError("the frames are longer than a pack may be")
    for block in blocks:
        _check_place(frames, block)


def _check_place(frames: Sequence[FrameInfo], block: BlockPlace) -> None:
    if not 1 <= block.length <= BLOCK_MAX_BYTES or len(block.block_hash) != 32:
        raise IntegrityError(f"the index names a block of {block.length} bytes")
    if not 0 <= block.frame < len(frames):
        raise IntegrityError(f"the index places a block in frame {block.frame}, which does not exist")
    if block.length <= FRAME_MAX_BYTES:
        if not 0 <= block.frame_offset <= frames[block.frame].plain_bytes - block.length:
            raise IntegrityError(f"the index places a block outside of frame {block.frame}")
        return
    full, rest = divmod(block.length, FRAME_MAX_BYTES)
    pieces = [FRAME_MAX_BYTES] * full + ([rest] if rest else [])
    held = [frame.plain_bytes for frame in frames[block.frame : block.frame + len(pieces)]]
    if block.frame_offset != 0 or held != pieces:
        raise IntegrityError(f"the frames from {block.frame} on are not those of one long block")
