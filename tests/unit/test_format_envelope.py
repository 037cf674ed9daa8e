"""Sealed log and base objects: bound to their file system, kind, number and place in the chain."""

import struct
import tracemalloc
from typing import Any

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.errors import IntegrityError, UnsupportedVersionError
from cubefs.format import envelope
from cubefs.format.envelope import ObjectKind, open_sealed, seal
from cubefs.format.keys import derive_key

KEY = b"k" * 32
UUID = b"u" * 16
PREVIOUS = b"p" * 32
PLACE: dict[str, Any] = {"log_key": KEY, "uuid": UUID, "kind": ObjectKind.BASE_CHUNK, "seq": 7, "number": 3}
SEALED = seal(b"the body " * 50, previous=PREVIOUS, **PLACE)

u64 = st.integers(0, 2**64 - 1)


@given(
    st.binary(min_size=1, max_size=5000), st.sampled_from(ObjectKind), u64, u64, st.binary(min_size=32, max_size=32)
)
def test_round_trip(body: bytes, kind: ObjectKind, seq: int, number: int, previous: bytes) -> None:
    place = {**PLACE, "kind": kind, "seq": seq, "number": number}
    sealed = seal(body, previous=previous, **place)
    assert open_sealed(sealed, **place) == (body, previous)
    assert open_sealed(memoryview(sealed), **place) == (body, previous)


def test_never_the_same_twice() -> None:
    assert seal(b"the body " * 50, previous=PREVIOUS, **PLACE) != SEALED


@pytest.mark.parametrize(
    ("name", "value"),
    [("uuid", b"v" * 16), ("kind", ObjectKind.META), ("seq", 8), ("number", 2), ("log_key", b"x" * 32)],
)
def test_an_object_in_another_place_is_refused(name: str, value: object) -> None:
    with pytest.raises(IntegrityError):
        open_sealed(SEALED, **{**PLACE, name: value})


@given(st.integers(0, len(SEALED) * 8 - 1))
@settings(max_examples=300)
def test_a_flipped_bit_is_refused(bit: int) -> None:
    flipped = bytearray(SEALED)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises((IntegrityError, UnsupportedVersionError)):
        open_sealed(bytes(flipped), **PLACE)


@pytest.mark.parametrize(
    "data",
    [SEALED[:cut] for cut in range(len(SEALED))] + [SEALED + b"\0", SEALED + SEALED],
    ids=lambda data: f"{len(data)} bytes",  # the bytes are random
)
def test_wrong_length_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        open_sealed(data, **PLACE)


@pytest.mark.parametrize("offset", [32, 40, 48, 80, 12, 13])
def test_the_header_is_authenticated_not_only_compared(offset: int) -> None:
    """A header rewritten to say what the reader wants to hear does not open either."""
    moved = seal(b"body", previous=PREVIOUS, **{**PLACE, "seq": 8, "number": 4, "kind": ObjectKind.META})
    with pytest.raises(IntegrityError, match="authentic"):
        open_sealed(SEALED[:112] + moved[112:], **PLACE)
    changed = bytearray(SEALED)
    changed[offset] ^= 1
    with pytest.raises(IntegrityError):
        open_sealed(bytes(changed), **PLACE)


@pytest.mark.parametrize(("offset", "value"), [(8, 2), (10, 2)])
def test_newer_version_or_suite_is_unsupported(offset: int, value: int) -> None:
    data = bytearray(SEALED)
    struct.pack_into(">H", data, offset, value)
    with pytest.raises(UnsupportedVersionError):
        open_sealed(bytes(data), **PLACE)


def forge(message: bytes, header: bytes = SEALED[:112]) -> bytes:
    """An authentic object with any message inside."""
    key = derive_key(KEY, label=b"cubefs v1 log", salt=header[80:])
    return header + AESGCM(key).encrypt(bytes(12), message, header)


def test_the_forger_works() -> None:
    assert open_sealed(forge(zstandard.compress(b"x")), **PLACE).body == b"x"


@pytest.mark.parametrize("offset", [13, 14, 15])
def test_zeros_that_are_not_zero_are_refused_though_authentic(offset: int) -> None:
    header = SEALED[:offset] + b"\1" + SEALED[offset + 1 : 112]
    with pytest.raises(IntegrityError, match="kind"):
        open_sealed(forge(zstandard.compress(b"x"), header), **PLACE)


def test_a_bomb_takes_no_memory() -> None:
    over = struct.pack("<Q", envelope.BODY_MAX_BYTES + 1)
    declared = forge(b"\x28\xb5\x2f\xfd\xe0" + over + b"\x09\x00\x00x")
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="expands"):
            open_sealed(declared, **PLACE)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "message",
    [b"", b"not zstd", zstandard.compress(b""), zstandard.compress(b"x") + b"y", zstandard.compress(b"x" * 99)[:-1],
     zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 99)],
)  # fmt: skip
def test_what_is_not_one_zstd_frame_is_refused(message: bytes) -> None:
    with pytest.raises(IntegrityError):
        open_sealed(forge(message), **PLACE)


def test_the_writer_keeps_the_bounds_too() -> None:
    with pytest.raises(ValueError):
        seal(b"", previous=PREVIOUS, **PLACE)
    with pytest.raises(ValueError):
        seal(memoryview(bytes(envelope.BODY_MAX_BYTES + 1)), previous=PREVIOUS, **PLACE)
    with pytest.raises(ValueError):
        seal(b"x", previous=b"short", **PLACE)
