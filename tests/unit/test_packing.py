"""Which blocks share a frame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cubefs.engine.packing import FramePlan, NewBlock, plan_frames
from cubefs.model import BLOCK_MAX_BYTES, FRAME_MAX_BYTES

POOL = memoryview(bytes(BLOCK_MAX_BYTES))
SIZES = st.one_of(
    st.integers(1, 5000),
    st.integers(1, FRAME_MAX_BYTES),
    st.integers(FRAME_MAX_BYTES - 2, FRAME_MAX_BYTES + 2),
    st.integers(1, BLOCK_MAX_BYTES),
    st.sampled_from([FRAME_MAX_BYTES, 2 * FRAME_MAX_BYTES, 3 * FRAME_MAX_BYTES + 1, BLOCK_MAX_BYTES]),
)


def blocks_of(sizes: list[int]) -> list[NewBlock]:
    return [NewBlock(number.to_bytes(32, "big"), POOL[:size]) for number, size in enumerate(sizes)]


def frame_sizes(plan: FramePlan) -> list[int]:
    return [len(plain()) for plain in plan.frames]


@given(st.lists(SIZES, max_size=40))
def test_every_block_has_its_place(sizes: list[int]) -> None:
    blocks = blocks_of(sizes)
    plans = plan_frames(blocks)
    places = [place for plan in plans for place in plan.blocks]
    assert sorted(place.block_hash for place in places) == [block.block_hash for block in blocks]
    for plan in plans:
        frames = frame_sizes(plan)
        assert all(1 <= size <= FRAME_MAX_BYTES for size in frames)
        if len(plan.blocks) == 1 and plan.blocks[0].length > FRAME_MAX_BYTES:
            (place,) = plan.blocks
            assert (place.frame, place.frame_offset) == (0, 0)
            assert sum(frames) == place.length
            assert all(size == FRAME_MAX_BYTES for size in frames[:-1])
        else:
            assert len(frames) == 1
            offset = 0
            for place in plan.blocks:  # side by side, without gaps
                assert (place.frame, place.frame_offset) == (0, offset)
                offset += place.length
            assert offset == frames[0]


@given(st.lists(st.integers(1, FRAME_MAX_BYTES), max_size=60))
def test_small_blocks_keep_their_order_and_fill_frames(sizes: list[int]) -> None:
    """What was written together is read together."""
    plans = plan_frames(blocks_of(sizes))
    order = [int.from_bytes(place.block_hash, "big") for plan in plans for place in plan.blocks]
    assert order == list(range(len(sizes)))
    filled = [sum(place.length for place in plan.blocks) for plan in plans]
    for size, following in zip(filled, plans[1:], strict=False):
        assert size + following.blocks[0].length > FRAME_MAX_BYTES


def test_the_plaintext_is_that_of_the_blocks() -> None:
    data = bytes(range(256)) * (3 * FRAME_MAX_BYTES // 256 + 1)
    large, small, other = data[: 2 * FRAME_MAX_BYTES + 7], data[5:700], data[77:90]
    blocks = [NewBlock(bytes([number]) * 32, memoryview(each)) for number, each in enumerate((small, large, other))]
    found = {}
    for plan in plan_frames(blocks):
        plain = b"".join(bytes(make()) for make in plan.frames)
        for place in plan.blocks:
            found[place.block_hash[0]] = plain[place.frame_offset : place.frame_offset + place.length]
    assert found == {0: small, 1: large, 2: other}
