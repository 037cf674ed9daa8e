"""The objects of a cubefs store, opened as sections 3 to 6 of docs/FORMAT.md say. Part of reader.py.

Like it, this does not import cubefs and shares no code with it. Must never: return anything that it has not
authenticated, or allocate what an object claims before looking at the claim.
"""

from __future__ import annotations

import base64
import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIB = 1 << 20
FRAME_MAX, BLOCK_MAX, PACK_MAX, BODY_MAX = MIB, 8 * MIB, 16 * MIB, 256 * MIB
LOG_OBJECT, BASE_CHUNK, BASE_MANIFEST = 1, 2, 3


class Refused(Exception):
    """Not what it must be. `verdict` is damaged, newer, not cubefs or wrong passphrase."""

    def __init__(self, verdict: str, why: str) -> None:
        super().__init__(f"{verdict}: {why}")
        self.verdict = verdict


def check(condition: object, why: str) -> None:
    if not condition:
        raise Refused("damaged", why)


def check_version(data: bytes, what: str) -> None:
    check(len(data) >= 12, f"{what} is truncated")
    version, suite = struct.unpack_from(">HH", data, 8)
    check(version and suite, f"{what} has version {version}, suite {suite}")
    if version > 1 or suite != 1:
        raise Refused("newer", f"{what} has version {version}, suite {suite}")


def hkdf(key: bytes, salt: bytes | None, info: bytes, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated: bytes, what: str) -> bytes:
    check(len(sealed) >= 16, f"{what} is truncated")
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Refused("damaged", f"{what} is not authentic") from None


def unzstd(data: bytes, most: int) -> bytes:
    """Exactly one zstd frame, its size declared and looked at before anything is allocated."""
    try:
        declared = zstandard.frame_content_size(data)
        check(0 < declared <= most, f"zstd frame declares {declared} bytes")
        plain = zstandard.ZstdDecompressor(max_window_size=8 * MIB).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused("damaged", f"zstd: {error}") from None
    check(len(plain) == declared, "zstd frame is not as long as it declares")
    return plain


# -- section 3 and 4: superblock and keys ---------------------------------------------------------------------


def read_superblock(data: bytes) -> bytes:
    """Return the uuid."""
    start = re.match(rb"cubefs\nversion ([1-9][0-9]*)\n", data)
    if start and start[1] != b"1":
        raise Refused("newer", f"superblock of version {start[1].decode()}")
    match = re.fullmatch(rb"cubefs\nversion 1\nuuid ([0-9a-f]{32})\n", data)
    if match is None:
        raise Refused("not cubefs", "no superblock")
    return bytes.fromhex(match[1].decode())


class Keys(NamedTuple):
    block: bytes
    pack: bytes
    log: bytes
    chunk_seed: int


def derive_keys(master: bytes) -> Keys:
    seed = int.from_bytes(hkdf(master, None, b"cubefs v1 chunk seed", 8), "big") & (1 << 63) - 1
    return Keys(
        block=hkdf(master, None, b"cubefs v1 block id"),
        pack=hkdf(master, None, b"cubefs v1 packs"),
        log=hkdf(master, None, b"cubefs v1 metadata"),
        chunk_seed=seed,
    )


def parse_recovery_key(text: str) -> bytes | None:
    characters = re.sub(r"[\s\-\u2010-\u2015]", "", text).upper().replace("0", "O").replace("1", "I")
    if not re.fullmatch(r"[A-Z2-7]{56}", characters, re.ASCII):
        return None
    decoded = base64.b32decode(characters)
    secret, mark = decoded[:32], decoded[32:]
    return secret if blake3(b"cubefs v1 recovery key" + secret).digest()[:3] == mark else None


def open_slot(data: bytes, *, secret: bytes, kind: int, uuid: bytes) -> bytes | None:
    """Return the master key, or None if the slot is of the other kind."""
    check(data[:8] == b"CUBEFSKS", "not a key slot")
    check_version(data, "key slot")
    check(len(data) == 136, "key slot of the wrong length")
    slot_kind, zeros, slot_uuid, memory, iterations, lanes, salt = struct.unpack_from(">B3s16sIII32s", data, 12)
    check(slot_kind in (1, 2) and zeros == bytes(3), "key slot of no known kind")
    check(slot_uuid == uuid, "key slot of another file system")
    check(
        1 <= lanes <= 16 and 1 <= iterations <= 32 and 8 * lanes <= memory <= 1 << 20,
        f"Argon2id parameters {memory}, {iterations}, {lanes}",
    )
    if slot_kind != kind:
        return None
    kdf = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
    try:
        return AESGCM(kdf.derive(secret)).decrypt(data[76:88], data[88:], data[:76])
    except InvalidTag:
        raise Refused("wrong passphrase", "no key slot opens") from None


def unlock(slots: list[bytes], text: str, uuid: bytes) -> bytes:
    check(0 < len(slots) <= 64, f"{len(slots)} key slots")
    recovery = parse_recovery_key(text)
    secret = os.fsencode(text) if recovery is None else recovery
    refusal = Refused("wrong passphrase", "no key slot of this kind")
    for data in slots:
        try:
            master = open_slot(data, secret=secret, kind=1 if recovery is None else 2, uuid=uuid)
        except Refused as error:
            refusal = error
        else:
            if master is not None:
                return master
    raise refusal


# -- section 5: packs -----------------------------------------------------------------------------------------


class Frame(NamedTuple):
    pack_offset: int
    stored_bytes: int
    plain_bytes: int


class Place(NamedTuple):
    block_hash: bytes
    length: int
    frame: int
    frame_offset: int


class Pack:
    """One pack: header, footer and index authenticated on opening, each frame when it is asked for."""

    def __init__(self, data: bytes, *, pack_key: bytes, uuid: bytes) -> None:
        check(len(data) <= PACK_MAX, "pack is too long")
        check(data[:8] == b"CUBEPACK", "not a pack")
        check_version(data, "pack")
        check(len(data) >= 64 + 32, "pack is truncated")
        zero, pack_uuid, self.salt = struct.unpack_from(">I16s32s", data, 12)
        check(zero == 0 and pack_uuid == uuid, "pack of another file system")
        self._data, self._header = data, data[:64]
        self._key = hkdf(pack_key, self.salt, b"cubefs v1 pack")
        footer = self._part(2, 0, data[-32:], b"", "footer")
        index_offset, index_bytes, frame_count = struct.unpack(">QII", footer)
        check(index_offset >= 64 and index_offset + index_bytes == len(data) - 32, "index is elsewhere")
        self._read_index(self._part(1, 0, data[index_offset:-32], b"", "index"))
        last = self.frames[-1]
        check(len(self.frames) == frame_count, "footer and index disagree")
        check(last.pack_offset + last.stored_bytes == index_offset, "gap before the index")

    def _part(self, kind: int, number: int, sealed: bytes, tail: bytes, what: str) -> bytes:
        nonce = struct.pack(">B3xQ", kind, number)
        return unseal(self._key, nonce, sealed, self._header + struct.pack(">BQ", kind, number) + tail, what)

    def _read_index(self, index: bytes) -> None:
        check(len(index) >= 8, "index is truncated")
        frame_count, block_count = struct.unpack_from(">II", index)
        check(frame_count and len(index) == 8 + 12 * frame_count + 44 * block_count, "index has wrong counts")
        self.frames = [Frame(*row) for row in struct.iter_unpack(">III", index[8 : 8 + 12 * frame_count])]
        self.places = [Place(*row) for row in struct.iter_unpack(">32sIII", index[8 + 12 * frame_count :])]
        offset = 64
        for frame in self.frames:
            check(frame.pack_offset == offset, "gap between frames")
            check(1 <= frame.plain_bytes <= FRAME_MAX, "frame of a wrong size")
            check(18 <= frame.stored_bytes <= 17 + frame.plain_bytes, "frame of a wrong stored size")
            offset += frame.stored_bytes
        for place in self.places:
            self.span(place)

    def span(self, place: Place) -> range:
        """Return the numbers of the frames that a block lies in; refused where no block can be."""
        check(1 <= place.length <= BLOCK_MAX, "block of a wrong length")
        span = range(place.frame, place.frame + -(-place.length // FRAME_MAX))
        check(span.start >= 0 and span.stop <= len(self.frames), "block in a frame that is not there")
        sizes = [self.frames[number].plain_bytes for number in span]
        if len(span) == 1:
            check(0 <= place.frame_offset <= sizes[0] - place.length, "block outside of its frame")
        else:
            check(place.frame_offset == 0 and sum(sizes) == place.length, "frames of no long block")
            check(set(sizes[:-1]) == {FRAME_MAX}, "frames of no long block")
        return span

    def frame(self, number: int) -> bytes:
        """Return the plaintext of one frame."""
        offset, stored_bytes, plain_bytes = self.frames[number]
        stored = self._data[offset : offset + stored_bytes]
        codec = stored[0]
        payload = self._part(0, number, stored[1:], bytes([codec]), f"frame {number}")
        check(codec in (0, 1), f"frame {number} has codec {codec}")
        plain = unzstd(payload, plain_bytes) if codec else payload
        check(len(plain) == plain_bytes, f"frame {number} has a wrong length")
        return plain

    def block(self, place: Place, *, block_key: bytes) -> bytes:
        """Return the plaintext of one block."""
        plain = b"".join(self.frame(number) for number in self.span(place))
        plain = plain[place.frame_offset : place.frame_offset + place.length]
        check(blake3(plain, key=block_key).digest() == place.block_hash, "block has another hash")
        return plain


# -- section 6: sealed log objects ----------------------------------------------------------------------------


def open_object(
    data: bytes, *, log_key: bytes, uuid: bytes, kind: int, seq: int, number: int
) -> tuple[bytes, bytes]:
    """Return (body, previous)."""
    check(data[:8] == b"CUBEFLOG", "not a sealed object")
    check_version(data, "sealed object")
    check(len(data) > 112 + 16, "sealed object is truncated")
    is_kind, zeros, is_uuid, is_seq, is_number, previous, salt = struct.unpack_from(">B3s16sQQ32s32s", data, 12)
    check(is_uuid == uuid, "sealed object of another file system")
    is_place = (is_kind, zeros, is_seq, is_number)
    check(is_place == (kind, bytes(3), seq, number), "sealed object in the wrong place")
    key = hkdf(log_key, salt, b"cubefs v1 log")
    return unzstd(unseal(key, bytes(12), data[112:], data[:112], "sealed object"), BODY_MAX), previous


def read_records(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, time_ns, payload)."""
    check(len(body) >= 4, "log body is truncated")
    at = 4
    for _ in range(int.from_bytes(body[:4], "big")):
        check(len(body) >= at + 13, "log record is truncated")
        record_type, time_ns, length = struct.unpack_from(">BQI", body, at)
        at += 13
        check(len(body) >= at + length, "log record is truncated")
        payload = body[at : at + length]
        at += length
        check(record_type in (1, 2, 3), f"log record of type {record_type}")
        check(record_type == 3 or 16 <= length <= 16 + 255, "log record names no writer")
        if record_type != 3:
            try:
                payload[16:].decode()
            except UnicodeDecodeError:
                raise Refused("damaged", "host name is not UTF-8") from None
        yield record_type, time_ns, payload
    check(at == len(body), "something behind the last log record")


class Manifest(NamedTuple):
    seq: int
    chain_hash: bytes
    plain_bytes: int
    chunks: list[tuple[bytes, int]]


def read_manifest(body: bytes) -> Manifest:
    check(len(body) >= 52, "manifest is truncated")
    seq, chain_hash, plain_bytes, count = struct.unpack_from(">Q32sQI", body)
    check(count and len(body) == 52 + 36 * count, "manifest has a wrong count")
    chunks = list(struct.iter_unpack(">32sI", body[52:]))
    check(all(1 <= size <= 8 * MIB for _, size in chunks), "manifest has a chunk of a wrong size")
    check(sum(size for _, size in chunks) == plain_bytes, "manifest does not add up")
    return Manifest(seq, chain_hash, plain_bytes, chunks)
