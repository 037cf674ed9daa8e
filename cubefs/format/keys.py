"""Keys: the hierarchy below the master key, the key slots that hold it, the recovery key, block identities.

Must never: put key material into a repr, a message or a log line; spend memory or time on Argon2id that the
bounds below do not allow, since a slot is read before anything is authenticated.

    passphrase or recovery key --Argon2id--> slot key --AES-256-GCM--> master key (32 random bytes)
    master key --HKDF-SHA256, one label each--> block key, pack key, log key, chunk seed
"""

from __future__ import annotations

import base64
import binascii
import enum
import os
import struct
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cubefs.errors import CubefsError, IntegrityError, UnsupportedVersionError, WrongPassphraseError
from cubefs.format.version import FORMAT_VERSION, SUITE, check_version

RandomBytes = Callable[[int], bytes]  # like os.urandom

KEY_BYTES = 32
SALT_BYTES = 32
NONCE_BYTES = 12  # of AES-256-GCM, NIST SP 800-38D
TAG_BYTES = 16
HASH_BYTES = 32
SLOTS_MAX_COUNT = 64  # more are refused: each costs an Argon2id run, and the store may be hostile

_BLOCK_LABEL = b"cubefs v1 block id"
_PACKS_LABEL = b"cubefs v1 packs"
_METADATA_LABEL = b"cubefs v1 metadata"
_CHUNKS_LABEL = b"cubefs v1 chunk seed"


def derive_key(key: bytes, *, label: bytes, salt: bytes | None = None, length: int = KEY_BYTES) -> bytes:
    """Derive a sub-key by HKDF-SHA256 (RFC 5869); no salt means the RFC's default of zeros."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=label).derive(key)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The sub-keys of one file system. Its repr shows none of them."""

    block_key: bytes = field(repr=False)  # 32 bytes, keys the BLAKE3 that identifies blocks
    pack_key: bytes = field(repr=False)  # 32 bytes, with a pack's salt gives the key of that pack
    log_key: bytes = field(repr=False)  # 32 bytes, with an object's salt gives the key of that log object
    chunk_seed: int = field(repr=False)  # 63 bits: chunk boundaries must not identify known files

    @classmethod
    def from_master(cls, master: bytes) -> Keyring:
        """Derive the sub-keys from the 32-byte master key."""
        if len(master) != KEY_BYTES:
            raise ValueError(f"the master key has {KEY_BYTES} bytes")
        seed = int.from_bytes(derive_key(master, label=_CHUNKS_LABEL, length=8), "big")
        return cls(
            block_key=derive_key(master, label=_BLOCK_LABEL),
            pack_key=derive_key(master, label=_PACKS_LABEL),
            log_key=derive_key(master, label=_METADATA_LABEL),
            chunk_seed=seed & (2**63 - 1),
        )

    def block_id(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return a block's identity: keyed BLAKE3-256 of its plaintext. Any thread; releases the GIL."""
        return blake3(data, key=self.block_key).digest()


def object_hash(data: bytes | bytearray | memoryview) -> bytes:
    """Return the BLAKE3-256 of a stored object's bytes. Any thread; releases the GIL."""
    return blake3(data).digest()


class ObjectHasher:
    """BLAKE3-256 of bytes that come piece by piece."""

    def __init__(self) -> None:
        self._hash = blake3()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next piece. Any thread, one at a time; releases the GIL."""
        self._hash.update(data)

    def digest(self) -> bytes:
        """Return the hash of everything added so far (32 bytes)."""
        return self._hash.digest()


# -- key slots ------------------------------------------------------------------------------------------------


class KdfParams(NamedTuple):
    """Cost of Argon2id (RFC 9106)."""

    memory_kib: int
    iterations: int
    lanes: int


DEFAULT_KDF = KdfParams(memory_kib=64 * 1024, iterations=3, lanes=4)  # RFC 9106, second recommended option

_MEMORY_KIB_PER_LANE_MIN = 8  # RFC 9106, section 3.1
_MEMORY_KIB_MAX = 1024 * 1024
_ITERATIONS_MAX = 32
_LANES_MAX = 16


class SlotKind(enum.IntEnum):
    """What a key slot opens with."""

    PASSPHRASE = 1
    RECOVERY = 2


# magic, version, suite, kind, zeros, uuid, memory_kib, iterations, lanes, salt: authenticated as they stand
_SLOT_HEADER = struct.Struct(">8sHHB3s16sIII32s")
_SLOT_MAGIC = b"CUBEFSKS"
_SLOT_BYTES = _SLOT_HEADER.size + NONCE_BYTES + KEY_BYTES + TAG_BYTES


class _Slot(NamedTuple):
    kind: SlotKind
    uuid: bytes
    params: KdfParams
    salt: bytes


def seal_slot(
    master: bytes,
    *,
    secret: bytes,
    kind: SlotKind,
    uuid: bytes,
    params: KdfParams = DEFAULT_KDF,
    random: RandomBytes = os.urandom,
) -> bytes:
    """Return a key slot that holds the master key, sealed under `secret`.

    Takes the time and memory that `params` says (0.15 s and 64 MiB by default): for a worker thread.
    """
    if len(master) != KEY_BYTES or len(uuid) != 16:
        raise ValueError("the master key has 32 bytes, the uuid 16")
    _check_params(params)
    salt, nonce = random(SALT_BYTES), random(NONCE_BYTES)
    header = _SLOT_HEADER.pack(_SLOT_MAGIC, FORMAT_VERSION, SUITE, kind, bytes(3), uuid, *params, salt)
    sealed = AESGCM(_slot_key(secret, salt=salt, params=params)).encrypt(nonce, master, header)
    return header + nonce + sealed


def open_slot(data: bytes, *, secret: bytes, uuid: bytes) -> bytes:
    """Return the master key. As costly as `seal_slot`: for a worker thread.

    Raises WrongPassphraseError if `secret` does not open the slot (or the slot was changed, which looks the
    same), IntegrityError if it is malformed, excessive or another file system's.
    """
    slot = _parse_slot(data)
    if slot.uuid != uuid:
        raise IntegrityError("the key slot belongs to another file system")
    nonce_stop = _SLOT_HEADER.size + NONCE_BYTES
    header, nonce, sealed = data[: _SLOT_HEADER.size], data[_SLOT_HEADER.size : nonce_stop], data[nonce_stop:]
    key = _slot_key(secret, salt=slot.salt, params=slot.params)
    try:
        return AESGCM(key).decrypt(nonce, sealed, header)
    except InvalidTag:
        raise WrongPassphraseError("this key slot does not open with what was given") from None


def slot_kind(data: bytes) -> SlotKind:
    """Return what opens this slot; IntegrityError or UnsupportedVersionError as `open_slot`."""
    return _parse_slot(data).kind


def _parse_slot(data: bytes) -> _Slot:
    if len(data) < 12 or data[:8] != _SLOT_MAGIC:
        raise IntegrityError("this is not a key slot")
    check_version("key slot", version=int.from_bytes(data[8:10], "big"), suite=int.from_bytes(data[10:12], "big"))
    if len(data) != _SLOT_BYTES:
        raise IntegrityError(f"the key slot has {len(data)} bytes, not {_SLOT_BYTES}")
    _, _, _, kind, zeros, uuid, memory_kib, iterations, lanes, salt = _SLOT_HEADER.unpack_from(data)
    if kind not in SlotKind.__members__.values() or zeros != bytes(3):
        raise IntegrityError("the key slot is of no known kind")
    params = KdfParams(memory_kib, iterations, lanes)
    _check_params(params)
    return _Slot(SlotKind(kind), uuid, params, salt)


def _check_params(params: KdfParams) -> None:
    if not (
        1 <= params.lanes <= _LANES_MAX
        and 1 <= params.iterations <= _ITERATIONS_MAX
        and _MEMORY_KIB_PER_LANE_MIN * params.lanes <= params.memory_kib <= _MEMORY_KIB_MAX
    ):
        raise IntegrityError(
            f"the key slot asks for Argon2id with {params.memory_kib} KiB, {params.iterations} iterations and "
            f"{params.lanes} lanes, which is outside the allowed bounds"
        )


def _slot_key(secret: bytes, *, salt: bytes, params: KdfParams) -> bytes:
    return Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=params.iterations,
        lanes=params.lanes,
        memory_cost=params.memory_kib,
    ).derive(secret)


# -- recovery key ---------------------------------------------------------------------------------------------

_RECOVERY_LABEL = b"cubefs v1 recovery key"
_RECOVERY_CHECK_BYTES = 3  # 32 + 3 bytes are exactly 56 characters of base32
_RECOVERY_CHARACTERS = 56
_RECOVERY_GROUP = 7


def new_recovery_key(*, random: RandomBytes = os.urandom) -> tuple[bytes, str]:
    """Make a recovery key: its 32 bytes, and the text to show: eight dashed groups of seven characters."""
    secret = random(KEY_BYTES)
    characters = base64.b32encode(secret + _recovery_check(secret)).decode("ascii")
    starts = range(0, _RECOVERY_CHARACTERS, _RECOVERY_GROUP)
    return secret, "-".join(characters[start : start + _RECOVERY_GROUP] for start in starts)


def parse_recovery_key(text: str) -> bytes | None:
    """Return the 32 bytes of a recovery key as typed by a person, or None if it is none or mistyped.

    Case, spaces and dashes do not matter; 0 is read as O and 1 as I, which base32 does not have.
    """
    characters = _recovery_characters(text)
    if len(characters) != _RECOVERY_CHARACTERS or not characters.isascii():
        return None
    try:
        decoded = base64.b32decode(characters, casefold=True, map01="I")
    except binascii.Error:
        return None
    secret, check = decoded[:KEY_BYTES], decoded[KEY_BYTES:]
    return secret if check == _recovery_check(secret) else None


def _recovery_characters(text: str) -> str:
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Pd")


def _recovery_check(secret: bytes) -> bytes:
    return object_hash(_RECOVERY_LABEL + secret)[:_RECOVERY_CHECK_BYTES]


def unlock(slots: Mapping[str, bytes], *, secret_text: str, uuid: bytes) -> bytes:
    """Return the master key from the first of `slots` (name to bytes) that opens.

    A text that is a recovery key is tried on recovery slots only, any other on passphrase slots only, as
    UTF-8. A damaged slot does not keep an intact one from opening. One Argon2id run per slot tried: for a
    worker thread. Raises WrongPassphraseError if none opens, IntegrityError or UnsupportedVersionError if
    there was none to try.
    """
    if len(slots) > SLOTS_MAX_COUNT:
        raise IntegrityError(f"the store holds {len(slots)} key slots, allowed are {SLOTS_MAX_COUNT}")
    recovery = parse_recovery_key(secret_text)
    kind = SlotKind.PASSPHRASE if recovery is None else SlotKind.RECOVERY
    # surrogateescape: what the terminal or the environment gave us need not be UTF-8
    secret = secret_text.encode("utf-8", "surrogateescape") if recovery is None else recovery
    tried = 0
    refusal: CubefsError | None = None
    for name in sorted(slots):
        try:
            if slot_kind(slots[name]) is not kind:
                continue
            return open_slot(slots[name], secret=secret, uuid=uuid)
        except WrongPassphraseError:
            tried += 1
        except (IntegrityError, UnsupportedVersionError) as error:
            refusal = refusal or type(error)(f"{name}: {error}")
    if refusal is not None and tried == 0:
        raise refusal
    raise WrongPassphraseError(_wrong_line(secret_text, kind=kind, tried=tried))


def _wrong_line(secret_text: str, *, kind: SlotKind, tried: int) -> str:
    if kind is SlotKind.RECOVERY:
        return "wrong recovery key: it is well formed, but not of this file system"
    if len(_recovery_characters(secret_text)) == _RECOVERY_CHARACTERS and "-" in secret_text:
        return "wrong passphrase (if this is a recovery key, it is mistyped: its checksum is wrong)"
    if tried == 0:
        return "this file system has no passphrase: give its recovery key"
    return "wrong passphrase: try again; the recovery key shown by mkfs works in its place"
