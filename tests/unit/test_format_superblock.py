"""The superblock: exact bytes, and which error each kind of wrong bytes gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import NotCubefsError, UnsupportedVersionError
from cubefs.format.superblock import Superblock

UUID = bytes(range(16))
GOOD = b"cubefs\nversion 1\nuuid 000102030405060708090a0b0c0d0e0f\n"


def test_exact_bytes() -> None:
    assert Superblock(version=1, uuid=UUID).encode() == GOOD
    assert Superblock.decode(GOOD) == Superblock(version=1, uuid=UUID)


@given(st.binary(min_size=16, max_size=16))
def test_round_trip(uuid: bytes) -> None:
    superblock = Superblock(version=1, uuid=uuid)
    assert Superblock.decode(superblock.encode()) == superblock


@given(st.integers(2, 999_999_999), st.binary(max_size=100))
def test_newer_version_is_named_whatever_follows(version: int, rest: bytes) -> None:
    with pytest.raises(UnsupportedVersionError, match=rf"format version {version}, .* version 1"):
        Superblock.decode(b"cubefs\nversion %d\n%b" % (version, rest))


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_truncation_is_refused(cut: int) -> None:
    with pytest.raises(NotCubefsError):
        Superblock.decode(GOOD[:cut])


@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_bit_flip_is_refused_or_another_uuid(bit: int) -> None:
    flipped = bytearray(GOOD)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        assert Superblock.decode(bytes(flipped)).uuid != UUID
    except (NotCubefsError, UnsupportedVersionError):
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"s3ql\n",
        GOOD + b"\n",
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.upper(),
        GOOD.replace(b"version 1", b"version 0"),
        GOOD.replace(b"version 1", b"version 01"),
        GOOD.replace(b"version 1", b"version -1"),
        GOOD.replace(b"version 1", b"version 99999999999999999999"),
        GOOD.replace(b"0a0b", b"0A0B"),
        b" " + GOOD,
    ],
)
def test_malformed_is_not_cubefs(data: bytes) -> None:
    with pytest.raises(NotCubefsError):
        Superblock.decode(data)


def test_only_this_version_is_written() -> None:
    for superblock in (Superblock(version=2, uuid=UUID), Superblock(version=1, uuid=b"short")):
        with pytest.raises(ValueError):
            superblock.encode()
