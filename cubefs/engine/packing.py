"""Which blocks share a frame: small ones together, a large one in frames of its own.

Pure; must never: cut a block of at most FRAME_MAX_BYTES in two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cubefs.model import FRAME_MAX_BYTES, BlockPlace


class NewBlock(NamedTuple):
    """A block to be stored."""

    block_hash: bytes
    data: memoryview


class FramePlan(NamedTuple):
    """Frames that must stand side by side: how to get the plaintext of each, and the blocks in them."""

    frames: tuple[Callable[[], bytes | memoryview], ...]
    blocks: tuple[BlockPlace, ...]


def plan_frames(blocks: Sequence[NewBlock]) -> list[FramePlan]:
    """Group blocks into frames of at most FRAME_MAX_BYTES, keeping their order where they are small.

    The plaintexts are only made when asked for, in the worker that compresses them.
    """
    plans: list[FramePlan] = []
    group: list[NewBlock] = []
    group_bytes = 0
    for block in blocks:
        if len(block.data) > FRAME_MAX_BYTES:
            plans.append(_large(block))
            continue
        if group_bytes + len(block.data) > FRAME_MAX_BYTES:
            plans.append(_small(group))
            group, group_bytes = [], 0
        group.append(block)
        group_bytes += len(block.data)
    if group:
        plans.append(_small(group))
    return plans


def _small(group: list[NewBlock]) -> FramePlan:
    places = []
    offset = 0
    for block in group:
        places.append(BlockPlace(block.block_hash, len(block.data), 0, offset))
        offset += len(block.data)
    parts = [block.data for block in group]
    plain: Callable[[], bytes | memoryview] = (lambda: parts[0]) if len(parts) == 1 else (lambda: b"".join(parts))
    return FramePlan((plain,), tuple(places))


def _large(block: NewBlock) -> FramePlan:
    def piece(start: int) -> Callable[[], memoryview]:
        return lambda: block.data[start : start + FRAME_MAX_BYTES]

    frames = tuple(piece(start) for start in range(0, len(block.data), FRAME_MAX_BYTES))
    return FramePlan(frames, (BlockPlace(block.block_hash, len(block.data), 0, 0),))
