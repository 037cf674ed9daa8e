"""Bodies of log objects and base manifests."""

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import IntegrityError
from cubefs.format.log import (
    BASE_CHUNK_MAX_BYTES,
    BaseChunk,
    BaseManifest,
    Changes,
    Record,
    WriterClosed,
    WriterOpened,
    decode_manifest,
    decode_records,
    encode_manifest,
    encode_records,
)

times = st.integers(0, 2**64 - 1)
writers = st.binary(min_size=16, max_size=16)
hosts = st.text(max_size=60)
records = st.lists(
    st.builds(WriterOpened, times, writers, hosts)
    | st.builds(WriterClosed, times, writers, hosts)
    | st.builds(Changes, times, st.binary(max_size=200)),
    max_size=8,
)
manifests = st.builds(
    BaseManifest,
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(
        st.builds(BaseChunk, st.binary(min_size=32, max_size=32), st.integers(1, BASE_CHUNK_MAX_BYTES)),
        min_size=1,
        max_size=8,
    ).map(tuple),
)


@given(records)
def test_records_round_trip(expected: list[Record]) -> None:
    found = decode_records(encode_records(expected))
    assert found == expected
    assert [type(record) for record in found] == [type(record) for record in expected]


@given(records.filter(bool), st.data())
def test_truncated_or_extended_records_are_refused(some: list[Record], data: st.DataObject) -> None:
    body = encode_records(some)
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\0", body + body):
        with pytest.raises(IntegrityError):
            decode_records(wrong)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack(">I", 2**32 - 1),
        struct.pack(">IBQI", 1, 3, 0, 2**32 - 1) + b"x",
        struct.pack(">IBQI", 1, 0, 0, 0),
        struct.pack(">IBQI", 1, 4, 0, 0),
        struct.pack(">IBQI", 1, 1, 0, 15) + b"x" * 15,
        struct.pack(">IBQI", 1, 2, 0, 17) + b"x" * 16 + b"\xff",
        struct.pack(">IBQI", 1, 1, 0, 16 + 256) + b"x" * (16 + 256),
    ],
)
def test_malformed_records_are_refused(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            decode_records(body)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_changeset_is_kept_verbatim() -> None:
    body = encode_records([Changes(5, b"\0T\xff")])
    assert body == struct.pack(">IBQI", 1, 3, 5, 3) + b"\0T\xff"


def test_the_writer_of_records_keeps_the_bounds_too() -> None:
    for wrong in (WriterOpened(0, b"short", "host"), WriterClosed(0, b"w" * 16, "h" * 256)):
        with pytest.raises(ValueError):
            encode_records([wrong])


@given(manifests)
def test_manifest_round_trip(manifest: BaseManifest) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert manifest.plain_bytes == sum(chunk.plain_bytes for chunk in manifest.chunks)


@given(manifests, st.data())
def test_truncated_or_extended_manifest_is_refused(manifest: BaseManifest, data: st.DataObject) -> None:
    body = encode_manifest(manifest)
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\0", body + body[-36:]):
        with pytest.raises(IntegrityError):
            decode_manifest(wrong)


def manifest_body(*, plain_bytes: int, chunk_count: int, sizes: list[int]) -> bytes:
    head = struct.pack(">Q32sQI", 1, b"c" * 32, plain_bytes, chunk_count)
    return head + b"".join(struct.pack(">32sI", b"h" * 32, size) for size in sizes)


def test_the_forger_works() -> None:
    body = manifest_body(plain_bytes=30, chunk_count=2, sizes=[10, 20])
    assert decode_manifest(body).plain_bytes == 30


@pytest.mark.parametrize(
    ("plain_bytes", "chunk_count", "sizes"),
    [
        (0, 0, []),
        (30, 3, [10, 20]),
        (30, 1, [10, 20]),
        (31, 2, [10, 20]),
        (10, 2, [10, 0]),
        (BASE_CHUNK_MAX_BYTES + 1, 1, [BASE_CHUNK_MAX_BYTES + 1]),
        (30, 2**32 - 1, [10, 20]),
    ],
)
def test_malformed_manifest_is_refused(plain_bytes: int, chunk_count: int, sizes: list[int]) -> None:
    with pytest.raises(IntegrityError):
        decode_manifest(manifest_body(plain_bytes=plain_bytes, chunk_count=chunk_count, sizes=sizes))


def test_the_writer_of_manifests_keeps_the_bounds_too() -> None:
    for chunks in ((), (BaseChunk(b"h" * 32, 0),), (BaseChunk(b"short", 1),)):
        with pytest.raises(IntegrityError):
            encode_manifest(BaseManifest(0, b"c" * 32, chunks))
