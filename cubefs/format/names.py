"""Object names in the store: the one place that spells them.

Must never: accept a name that it would not have made. Sequence numbers have a fixed width, so that a sorted
listing is in their order.
"""

from __future__ import annotations

import re

SUPERBLOCK = "cubefs"
KEYS = "keys/"
PACKS = "packs/"
META = "meta/"
BASE = "base/"

HASH_BYTES = 32  # a pack's name is the BLAKE3-256 of its bytes
SEQ_MAX = 10**16 - 1  # sixteen decimal digits
CHUNK_NUMBER_MAX = 10**6 - 1  # six decimal digits; of 8 MiB each: bases up to 8 TB

_SLOT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PACK = re.compile(r"packs/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{64})")
_META = re.compile(r"meta/([0-9]{16})")
_MANIFEST = re.compile(r"base/([0-9]{16})/manifest")


def key_slot(slot: str) -> str:
    """Name a key slot's object. `slot` is 1 to 64 of [A-Za-z0-9_-]; ValueError otherwise."""
    if not _SLOT.fullmatch(slot):
        raise ValueError(f"not a key slot name: {slot!r}")
    return f"{KEYS}{slot}"


def parse_key_slot(object_name: str) -> str | None:
    """Return the slot's name, or None if this is no key slot's object."""
    slot = object_name.removeprefix(KEYS)
    return slot if slot != object_name and _SLOT.fullmatch(slot) else None


def pack(name: bytes) -> str:
    """Name a pack's object. `name` is the BLAKE3-256 of its bytes."""
    if len(name) != HASH_BYTES:
        raise ValueError(f"a pack's name has {HASH_BYTES} bytes, not {len(name)}")
    digits = name.hex()
    return f"{PACKS}{digits[:2]}/{digits[2:4]}/{digits}"


def parse_pack(object_name: str) -> bytes | None:
    """Return the pack's name (32 bytes), or None if this is no pack's object."""
    match = _PACK.fullmatch(object_name)
    if match is None or match[3][:4] != match[1] + match[2]:
        return None
    return bytes.fromhex(match[3])


def meta(seq: int) -> str:
    """Name a metadata log object; `seq` counts from 1."""
    return f"{META}{_seq(seq)}"


def parse_meta(object_name: str) -> int | None:
    """Return the sequence number, or None if this is no metadata log object."""
    match = _META.fullmatch(object_name)
    return int(match[1]) if match else None


def base_chunk(seq: int, number: int) -> str:
    """Name chunk `number` (from 0) of the base that holds the state as of log object `seq`."""
    if not 0 <= number <= CHUNK_NUMBER_MAX:
        raise ValueError(f"no base chunk can have the number {number}")
    return f"{BASE}{_seq(seq)}/{number:06d}"


def base_manifest(seq: int) -> str:
    """Name the manifest, written last, of the base that holds the state as of log object `seq`."""
    return f"{BASE}{_seq(seq)}/manifest"


def parse_base_manifest(object_name: str) -> int | None:
    """Return the base's sequence number, or None if this is no base manifest."""
    match = _MANIFEST.fullmatch(object_name)
    return int(match[1]) if match else None


def _seq(seq: int) -> str:
    if not 0 <= seq <= SEQ_MAX:
        raise ValueError(f"no object can have the sequence number {seq}")
    return f"{seq:016d}"
