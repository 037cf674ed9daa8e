"""zstd: bounds before allocation, exactly one frame, one context per thread."""

import random
import threading
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import IntegrityError
from cubefs.format import compression

MIB = 1024 * 1024


@given(st.binary(min_size=1, max_size=5000))
def test_round_trip(plain: bytes) -> None:
    compressed = compression.compress(memoryview(plain))
    assert compression.decompress(memoryview(compressed), max_bytes=len(plain)) == plain


@given(st.binary(min_size=2, max_size=500), st.data())
def test_bound_truncation_and_trailing_bytes_are_refused(plain: bytes, data: st.DataObject) -> None:
    compressed = compression.compress(plain)
    cut = data.draw(st.integers(0, len(compressed) - 1))
    for wrong, bound in [
        (compressed, len(plain) - 1),
        (compressed[:cut], len(plain)),
        (compressed + b"\0", len(plain)),
        (compressed + compressed, 2 * len(plain)),
    ]:
        with pytest.raises(IntegrityError):
            compression.decompress(wrong, max_bytes=bound)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"not zstd at all",
        zstandard.ZstdCompressor().compress(b""),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",  # a skippable frame
    ],
)
def test_what_declares_no_content_is_refused(wrong: bytes) -> None:
    with pytest.raises(IntegrityError):
        compression.decompress(wrong, max_bytes=1000)


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(512 * MIB))
    # a header that declares 2**62 bytes: single segment, eight bytes of content size, one raw block of one byte
    liar = b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + b"\x09\x00\x00x"
    tracemalloc.start()
    try:
        for data in (bomb, liar):
            with pytest.raises(IntegrityError, match="expands to"):
                compression.decompress(data, max_bytes=MIB)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_contexts_are_not_shared_between_threads() -> None:
    plain = [bytes([n]) * 300_000 + random.Random(n).randbytes(50_000) for n in range(8)]
    failures = []

    def work(data: bytes) -> None:
        for _ in range(30):
            if compression.decompress(compression.compress(data), max_bytes=len(data)) != data:
                failures.append(data[:1])

    threads = [threading.Thread(target=work, args=(data,)) for data in plain]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
