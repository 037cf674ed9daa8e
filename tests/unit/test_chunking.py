"""Chunking: lengths and bounds, determinism, and that a small change stays small."""

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.chunking import MAX_BYTES, MIN_BYTES, Chunker
from cubefs.model import BLOCK_MAX_BYTES, MIB, Chunking

NOISE = random.Random(7).randbytes(30 * MIB)
CONTENT = Chunker(Chunking.CONTENT, seed=42)


def pieces(chunker: Chunker, data: bytes) -> list[bytes]:
    start, found = 0, []
    for length in chunker.cut(memoryview(data)):
        found.append(data[start : start + length])
        start += length
    assert start == len(data)
    return found


@given(start=st.integers(0, 1000), stop=st.integers(0, 12 * MIB), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=30, deadline=None)
def test_content_lengths_and_bounds(start: int, stop: int, seed: int) -> None:
    data = memoryview(NOISE)[start:stop]
    lengths = Chunker(Chunking.CONTENT, seed).cut(data)
    assert sum(lengths) == len(data)
    assert all(MIN_BYTES <= length <= MAX_BYTES for length in lengths[:-1])
    assert all(1 <= length <= MAX_BYTES for length in lengths)


@pytest.mark.parametrize("size", [1, 1000, MIN_BYTES - 1, MIN_BYTES])
def test_below_the_minimum_is_one_block(size: int) -> None:
    assert CONTENT.cut(memoryview(NOISE)[:size]) == [size]


@pytest.mark.parametrize("mode", Chunking)
def test_nothing_has_no_block(mode: Chunking) -> None:
    assert Chunker(mode, 1).cut(memoryview(b"")) == []


def test_data_without_any_cut_point_is_cut_at_the_maximum() -> None:
    lengths = CONTENT.cut(memoryview(bytes(20 * MIB)))
    assert lengths == [MAX_BYTES, MAX_BYTES, 4 * MIB]
    assert MAX_BYTES == BLOCK_MAX_BYTES


def test_the_average_is_about_one_mebibyte() -> None:
    lengths = [length for seed in range(4) for length in Chunker(Chunking.CONTENT, seed).cut(memoryview(NOISE))]
    assert 0.85 * MIB < sum(lengths) / len(lengths) < 1.15 * MIB


@given(place=st.integers(0, 5 * MIB), inserted=st.binary(min_size=1, max_size=100))
@settings(max_examples=15, deadline=None)
def test_an_insertion_near_the_start_changes_few_blocks(place: int, inserted: bytes) -> None:
    before = set(pieces(CONTENT, NOISE))
    after = pieces(CONTENT, NOISE[:place] + inserted + NOISE[place:])
    new = [piece for piece in after if piece not in before]
    assert len(after) > 20
    assert len(new) <= 4
    assert sum(map(len, new)) <= 6 * MIB


def test_deterministic_by_seed() -> None:
    view = memoryview(NOISE)
    assert CONTENT.cut(view) == CONTENT.cut(view) == Chunker(Chunking.CONTENT, 42).cut(view)
    assert CONTENT.cut(view) != Chunker(Chunking.CONTENT, 43).cut(view)


def test_threads_may_share_a_chunker() -> None:
    expected = [CONTENT.cut(memoryview(NOISE)[start:]) for start in range(4)]
    found: list[list[int] | None] = [None] * 4

    def work(start: int) -> None:
        for _ in range(5):
            found[start] = CONTENT.cut(memoryview(NOISE)[start:])
            assert found[start] == expected[start]

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


@given(st.integers(0, 30 * MIB))
def test_fixed(size: int) -> None:
    lengths = Chunker(Chunking.FIXED, 0).cut(memoryview(NOISE)[:size])
    assert sum(lengths) == size
    assert all(length == BLOCK_MAX_BYTES for length in lengths[:-1])
    assert all(1 <= length <= BLOCK_MAX_BYTES for length in lengths)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError):
        Chunker(Chunking.CONTENT, seed)
