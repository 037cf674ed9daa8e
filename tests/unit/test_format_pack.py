"""Packs: round trips, and the refusal of everything that is not exactly the pack that was written."""

import random
import struct
import threading
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.errors import IntegrityError, UnsupportedVersionError
from cubefs.format.pack import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Codec,
    PackCipher,
    PackedFrame,
    PackIndex,
    pack_frame,
    parse_header,
    read_pack,
)
from cubefs.model import FRAME_MAX_BYTES, MIB, PACK_MAX_BYTES, BlockPlace, FrameInfo

KEY = b"k" * 32
SALT = b"s" * 32
UUID = b"u" * 16
NOISE = random.Random(3).randbytes(MIB)
CIPHER = PackCipher(KEY, salt=SALT, uuid=UUID)


def block(length: int, frame: int, frame_offset: int = 0) -> BlockPlace:
    return BlockPlace(bytes([length % 256]) * 32, length, frame, frame_offset)


def frame_infos(*stored: bytes, plain: list[int]) -> list[FrameInfo]:
    infos, offset = [], HEADER_BYTES
    for data, plain_bytes in zip(stored, plain, strict=True):
        infos.append(FrameInfo(offset, len(data), plain_bytes))
        offset += len(data)
    return infos


def assemble(plains: list[bytes], blocks: list[BlockPlace], cipher: PackCipher = CIPHER) -> bytes:
    stored = [cipher.seal_frame(n, pack_frame(plain)) for n, plain in enumerate(plains)]
    index = cipher.seal_index(frame_infos(*stored, plain=[len(plain) for plain in plains]), blocks)
    offset = HEADER_BYTES + sum(map(len, stored))
    footer = cipher.seal_footer(index_offset=offset, index_stored_bytes=len(index), frame_count=len(stored))
    return b"".join([cipher.header, *stored, index, footer])


def read(data: bytes) -> PackIndex:
    return read_pack(data, pack_key=KEY, uuid=UUID)


SMALL = assemble([b"hello" * 20, b"world"], [block(50, 0), block(50, 0, 50), block(5, 1)])


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=6), st.data())
def test_pack_round_trip(plains: list[bytes], data: st.DataObject) -> None:
    blocks = []
    for number, plain in enumerate(plains):
        start = data.draw(st.integers(0, len(plain) - 1))
        blocks.append(block(len(plain) - start, number, start))
    pack = assemble(plains, blocks)
    index = read(pack)
    assert index.salt == SALT
    assert index.blocks == blocks
    for number, (info, plain) in enumerate(zip(index.frames, plains, strict=True)):
        stored = memoryview(pack)[info.pack_offset : info.pack_offset + info.stored_bytes]
        assert CIPHER.open_frame(number, stored, plain_bytes=info.plain_bytes) == plain
    assert read_pack(memoryview(pack), pack_key=KEY, uuid=UUID) == index


@given(st.integers(1, MIB), st.booleans(), st.integers(0, 2**64 - 1))
@settings(max_examples=25, deadline=None)
def test_frame_round_trip(size: int, compressible: bool, number: int) -> None:
    plain = bytes(size) if compressible else NOISE[:size]
    packed = pack_frame(memoryview(plain))
    assert packed.plain_bytes == size
    assert len(packed.payload) <= size
    stored = CIPHER.seal_frame(number, packed)
    assert type(stored) is bytes
    assert stored[0] == packed.codec
    assert len(stored) == 17 + len(packed.payload)
    opened = CIPHER.open_frame(number, memoryview(stored), plain_bytes=size)
    assert type(opened) is bytes
    assert opened == plain


def test_raw_where_compression_does_not_help() -> None:
    assert pack_frame(NOISE).codec is Codec.RAW
    assert pack_frame(b"x").codec is Codec.RAW
    assert pack_frame(NOISE[:1000]).codec is Codec.RAW
    assert pack_frame(b"x" * 1000).codec is Codec.ZSTD
    assert pack_frame(NOISE[:9_950] + bytes(50)).codec is Codec.RAW  # saves less than 1 %
    assert pack_frame(NOISE[:9_500] + bytes(500)).codec is Codec.ZSTD
    assert pack_frame(b"some text, again and again. " * 30000).codec is Codec.ZSTD
    assert pack_frame(NOISE).payload is NOISE  # no copy


@pytest.mark.parametrize("size", [0, FRAME_MAX_BYTES + 1])
def test_frame_size_bounds(size: int) -> None:
    with pytest.raises(ValueError):
        pack_frame(bytes(size))
    stored = CIPHER.seal_frame(0, pack_frame(b"x" * 100))
    with pytest.raises(IntegrityError):
        CIPHER.open_frame(0, stored, plain_bytes=size)


@given(st.data())
@settings(max_examples=200)
def test_a_frame_that_was_touched_is_refused(data: st.DataObject) -> None:
    plain = data.draw(st.sampled_from([b"x" * 200, NOISE[:200]]))
    stored = CIPHER.seal_frame(5, pack_frame(plain))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    flipped = bytearray(stored)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(stored) - 1))
    for wrong in (bytes(flipped), stored[:cut], stored + b"\0", stored[1:]):
        with pytest.raises(IntegrityError):
            CIPHER.open_frame(5, wrong, plain_bytes=200)


@pytest.mark.parametrize("plain", [b"x" * 200, NOISE[:200]])
def test_a_frame_elsewhere_is_refused(plain: bytes) -> None:
    stored = CIPHER.seal_frame(5, pack_frame(plain))
    for cipher, number, size in [
        (CIPHER, 4, 200),
        (CIPHER, 5, 199),
        (CIPHER, 5, 201),
        (PackCipher(KEY, salt=b"t" * 32, uuid=UUID), 5, 200),
        (PackCipher(KEY, salt=SALT, uuid=b"v" * 16), 5, 200),
        (PackCipher(b"l" * 32, salt=SALT, uuid=UUID), 5, 200),
    ]:
        with pytest.raises(IntegrityError):
            cipher.open_frame(number, stored, plain_bytes=size)


def test_the_codec_is_authenticated() -> None:
    stored = CIPHER.seal_frame(0, pack_frame(b"x" * 1000))
    assert stored[0] == Codec.ZSTD
    with pytest.raises(IntegrityError, match="authentic"):
        CIPHER.open_frame(0, b"\0" + stored[1:], plain_bytes=1000)


def test_a_bomb_in_a_frame_takes_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 * MIB))
    stored = CIPHER.seal_frame(0, PackedFrame(Codec.ZSTD, bomb, FRAME_MAX_BYTES))
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="expands"):
            CIPHER.open_frame(0, stored, plain_bytes=FRAME_MAX_BYTES)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_frames_index_and_footer_do_not_share_nonces() -> None:
    """The same plaintext under number 0 of each kind gives unrelated ciphertexts."""
    plain = bytes(16)
    frame = CIPHER.seal_frame(0, PackedFrame(Codec.RAW, plain, 16))[1:17]
    footer = CIPHER.seal_footer(index_offset=0, index_stored_bytes=0, frame_count=0)[:16]
    assert frame != footer


@given(st.data())
@settings(max_examples=300)
def test_a_pack_that_was_touched_outside_its_frames_is_refused(data: st.DataObject) -> None:
    frames_stop = read(SMALL).frames[-1].pack_offset + read(SMALL).frames[-1].stored_bytes
    touchable = [*range(HEADER_BYTES), *range(frames_stop, len(SMALL))]
    byte, bit = data.draw(st.sampled_from(touchable)), data.draw(st.integers(0, 7))
    flipped = bytearray(SMALL)
    flipped[byte] ^= 1 << bit
    with pytest.raises((IntegrityError, UnsupportedVersionError)):
        read(bytes(flipped))


@pytest.mark.parametrize("cut", range(len(SMALL)))
def test_a_truncated_pack_is_refused(cut: int) -> None:
    with pytest.raises(IntegrityError):
        read(SMALL[:cut])


@pytest.mark.parametrize("extra", [b"\0", SMALL, SMALL[-32:]])
def test_trailing_bytes_are_refused(extra: bytes) -> None:
    with pytest.raises(IntegrityError):
        read(SMALL + extra)


def test_an_inserted_or_removed_frame_is_refused() -> None:
    first = read(SMALL).frames[0]
    stop = first.pack_offset + first.stored_bytes
    with pytest.raises(IntegrityError):
        read(SMALL[:stop] + SMALL[first.pack_offset : stop] + SMALL[stop:])
    with pytest.raises(IntegrityError):
        read(SMALL[: first.pack_offset] + SMALL[stop:])


def test_wrong_owner_or_key_is_refused() -> None:
    with pytest.raises(IntegrityError, match="another file system"):
        read_pack(SMALL, pack_key=KEY, uuid=b"v" * 16)
    with pytest.raises(IntegrityError, match="authentic"):
        read_pack(SMALL, pack_key=b"x" * 32, uuid=UUID)


@pytest.mark.parametrize(("offset", "value"), [(8, 2), (8, 65535), (10, 2)])
def test_newer_version_or_suite_is_unsupported(offset: int, value: int) -> None:
    data = bytearray(SMALL)
    struct.pack_into(">H", data, offset, value)
    with pytest.raises(UnsupportedVersionError, match=str(value)):
        read(bytes(data))


@pytest.mark.parametrize("offset", [8, 10])
def test_version_zero_is_malformed(offset: int) -> None:
    data = bytearray(SMALL)
    struct.pack_into(">H", data, offset, 0)
    with pytest.raises(IntegrityError):
        read(bytes(data))


def test_parse_header() -> None:
    assert parse_header(SMALL[:64]) == (UUID, SALT)
    assert parse_header(memoryview(SMALL)) == (UUID, SALT)
    for wrong in (b"", SMALL[:63], b"CUBEFSKS" + SMALL[8:], SMALL[:15] + b"\1" + SMALL[16:]):
        with pytest.raises(IntegrityError):
            parse_header(wrong)


def test_a_long_block_fills_whole_frames() -> None:
    plains = [b"small", NOISE, NOISE, NOISE[:7]]
    places = [block(5, 0), block(2 * MIB + 7, 1)]
    assert read(assemble(plains, places)).blocks == places
    exact = [block(2 * MIB, 1), block(7, 3)]
    assert read(assemble(plains, exact)).blocks == exact


FRAMES = [
    FrameInfo(64, 117, 100),
    FrameInfo(181, 100017, MIB),
    FrameInfo(100198, 100017, MIB),
    FrameInfo(200215, 50, 50),
]
HUGE = 0xFFFFFFFF


@pytest.mark.parametrize(
    "wrong",
    [
        block(101, 0),
        block(100, 0, 1),
        block(1, 0, 100),
        block(1, 4),
        block(1, HUGE),
        block(1, 0, HUGE),
        block(0, 0),
        block(HUGE, 1),
        block(8 * MIB + 1, 1),
        block(MIB + 1, 0),
        block(2 * MIB + 50, 1, 1),
        block(2 * MIB + 49, 1),
        block(2 * MIB + 51, 1),
        block(2 * MIB + 50, 2),
        block(3 * MIB, 1),
        block(MIB + 51, 2),
        BlockPlace(b"short", 10, 0, 0),
    ],
)
def test_a_block_where_none_can_be_is_refused_by_writer_and_reader(wrong: BlockPlace) -> None:
    with pytest.raises(IntegrityError):
        CIPHER.seal_index(FRAMES, [wrong])
    if len(wrong.block_hash) == 32:
        with pytest.raises(IntegrityError):
            CIPHER.open_index(forged_index(FRAMES, [wrong]))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [FrameInfo(65, 117, 100)],
        [FrameInfo(0, 117, 100)],
        [FrameInfo(64, 17, 100)],
        [FrameInfo(64, 118, 100)],
        [FrameInfo(64, 117, 0)],
        [FrameInfo(64, 117, MIB + 1)],
        [FrameInfo(64, HUGE, HUGE)],
        [FrameInfo(64, 117, 100), FrameInfo(180, 117, 100)],
        [FrameInfo(64, 117, 100), FrameInfo(182, 117, 100)],
        [FrameInfo(64 + n * (MIB + 17), MIB + 17, MIB) for n in range(16)],
    ],
)
def test_frames_that_cannot_be_are_refused_by_writer_and_reader(frames: list[FrameInfo]) -> None:
    with pytest.raises(IntegrityError):
        CIPHER.seal_index(frames, [])
    with pytest.raises(IntegrityError):
        CIPHER.open_index(forged_index(frames, []))


def forged_index(frames: list[FrameInfo], blocks: list[BlockPlace], counts: tuple[int, int] | None = None) -> bytes:
    """An authentic index of what the writer refuses to write."""
    plain = struct.pack(">II", *(counts or (len(frames), len(blocks))))
    plain += b"".join(struct.pack(">III", *frame) for frame in frames)
    plain += b"".join(struct.pack(">32sIII", *entry) for entry in blocks)
    return CIPHER._seal(1, plain)  # type: ignore[arg-type]


def test_the_forger_works() -> None:
    good = [block(100, 0), block(2 * MIB + 50, 1)]
    assert CIPHER.open_index(forged_index(FRAMES, good)) == PackIndex(SALT, FRAMES, good)


@pytest.mark.parametrize("counts", [(HUGE, HUGE), (HUGE, 0), (0, HUGE), (4, 2), (5, 1), (3, 1)])
def test_counts_that_are_not_true_are_refused_before_allocating(counts: tuple[int, int]) -> None:
    stored = forged_index(FRAMES, [block(100, 0)], counts)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="counts"):
            CIPHER.open_index(stored)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("plain", [b"", b"\0" * 7])
def test_an_index_without_counts_is_refused(plain: bytes) -> None:
    with pytest.raises(IntegrityError):
        CIPHER.open_index(CIPHER._seal(1, plain))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index_offset", "delta", "frame_count"),
    [(0, 0, 2), (-1, 1, 2), (1, -1, 2), (0, 1, 2), (0, -1, 2), (0, 0, 1), (0, 0, 3), (2**62, 0, 2)],
)
def test_a_footer_that_is_not_true_is_refused(index_offset: int, delta: int, frame_count: int) -> None:
    footer = CIPHER.open_footer(SMALL[-FOOTER_BYTES:])
    if (index_offset, delta, frame_count) == (0, 0, 2):
        assert read(SMALL[:-FOOTER_BYTES] + CIPHER.seal_footer(**footer._asdict())) == read(SMALL)
        return
    forged = CIPHER.seal_footer(
        index_offset=footer.index_offset + index_offset,
        index_stored_bytes=footer.index_stored_bytes + delta,
        frame_count=frame_count,
    )
    with pytest.raises(IntegrityError):
        read(SMALL[:-FOOTER_BYTES] + forged)


def test_something_between_the_last_frame_and_the_index_is_refused() -> None:
    footer = CIPHER.open_footer(SMALL[-FOOTER_BYTES:])
    index = SMALL[footer.index_offset : -FOOTER_BYTES]
    moved = CIPHER.seal_footer(**{**footer._asdict(), "index_offset": footer.index_offset + 1})
    with pytest.raises(IntegrityError, match="do not end where"):
        read(SMALL[: footer.index_offset] + b"\0" + index + moved)


def test_too_long_a_pack_is_refused_unread() -> None:
    with pytest.raises(IntegrityError, match="allowed"):
        read(bytes(PACK_MAX_BYTES + 1))


def test_threads_may_share_a_cipher() -> None:
    plains = [bytes([n]) * 50_000 + NOISE[: 10_000 * n] for n in range(8)]
    stored = [CIPHER.seal_frame(n, pack_frame(plain)) for n, plain in enumerate(plains)]
    wrong = []

    def work(number: int) -> None:
        for _ in range(40):
            opened = CIPHER.open_frame(number, stored[number], plain_bytes=len(plains[number]))
            again = CIPHER.seal_frame(number, pack_frame(plains[number]))
            if opened != plains[number] or again != stored[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
