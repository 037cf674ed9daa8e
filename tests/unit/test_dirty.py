"""Dirty ranges against a dictionary of bytes, what they hold in memory, and the bound on all of them."""

from __future__ import annotations

import itertools

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cubefs.engine.dirty import DirtyLimit, Ranges
from cubefs.engine.filestate import FileState
from cubefs.model import Attr

SPACE = 60  # offsets of the model: small, so that ranges meet

OFFSETS = st.integers(0, SPACE)
WRITES = st.tuples(st.just("write"), OFFSETS, st.binary(min_size=1, max_size=12))
CUTS = st.tuples(st.just("cut"), OFFSETS, OFFSETS)
TRUNCATES = st.tuples(st.just("truncate"), OFFSETS, st.just(b""))
STEPS = st.lists(st.one_of(WRITES, WRITES, CUTS, TRUNCATES), max_size=14)


def apply(ranges: Ranges, model: dict[int, int], step: tuple[str, int, object]) -> None:
    """Do one step on both."""
    kind, offset, argument = step
    if kind == "write":
        assert isinstance(argument, bytes)
        ranges.write(offset, argument)
        model.update((offset + index, byte) for index, byte in enumerate(argument))
    elif kind == "cut":
        assert isinstance(argument, int)
        ranges.cut(offset, max(offset, argument))
        for position in range(offset, argument):
            model.pop(position, None)
    else:
        ranges.truncate(offset)
        for position in [position for position in model if position >= offset]:
            del model[position]


def seen(ranges: Ranges, start: int, stop: int) -> dict[int, int]:
    """Return what an overlay of [start, stop) shows; its parts must be in order and inside."""
    found: dict[int, int] = {}
    assert start < stop
    reached = start
    for offset, view in ranges.overlay(start, stop):
        assert reached <= offset < offset + len(view) <= stop
        reached = offset + len(view)
        found.update((offset + index, byte) for index, byte in enumerate(view))
    return found


def check(ranges: Ranges, model: dict[int, int]) -> None:
    """The ranges hold exactly the model, in runs that are sorted and apart, and count it right."""
    assert seen(ranges, 0, 2 * SPACE) == model
    runs = list(ranges)
    assert all(run.start < run.stop for run in runs)
    assert all(first.stop <= second.start for first, second in itertools.pairwise(runs))
    assert all(sum(map(len, run.parts)) == run.stop - run.start for run in runs)
    assert [bytes(run.joined()) for run in runs] == [
        bytes(model[position] for position in range(run.start, run.stop)) for run in runs
    ]
    assert ranges.bytes_held == len(model)
    assert ranges.parts_held == sum(len(run.parts) for run in runs)
    assert ranges.stop == max(model, default=-1) + 1
    assert bool(ranges) == bool(model)
    assert len(ranges) == len(runs)


@given(STEPS, OFFSETS, OFFSETS)
def test_ranges_are_a_dictionary_of_bytes(steps: list[tuple[str, int, object]], start: int, stop: int) -> None:
    ranges, model = Ranges(), {}
    for step in steps:
        apply(ranges, model, step)
        check(ranges, model)
    start, stop = min(start, stop), max(start, stop) + 1
    assert seen(ranges, start, stop) == {key: byte for key, byte in model.items() if start <= key < stop}


@given(STEPS)
def test_a_stream_is_what_began_where_it_ended(steps: list[tuple[str, int, object]]) -> None:
    """Data that is called a stream is one run, written front to back: a prefix of it may be sealed alone."""
    ranges, model = Ranges(), {}
    written = b""
    for step in steps:
        before = ranges.is_stream
        if step[0] == "write" and ranges and step[1] != ranges.stop:
            before = False
        apply(ranges, model, step)
        written = written + step[2] if step[0] == "write" else b""  # type: ignore[operator]
        if ranges.is_stream and step[0] == "write":
            assert before
            assert len(ranges) == 1
    assert isinstance(ranges.is_stream, bool)


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=8), st.data())
def test_splitting_off_the_head(parts: list[bytes], data: st.DataObject) -> None:
    """What is sealed of a stream and what stays are together what there was, appends since included."""
    start = data.draw(OFFSETS)
    part_count = data.draw(st.integers(1, len(parts)))
    ranges = Ranges()
    for part in parts:
        ranges.write(start + ranges.bytes_held, part)
    joined = b"".join(parts[:part_count])
    length = data.draw(st.integers(1, len(joined)))
    head = ranges.replace_head(memoryview(joined), length=length, part_count=part_count, rest=joined[length:])
    whole = {start + index: byte for index, byte in enumerate(b"".join(parts))}
    check(head, {key: byte for key, byte in whole.items() if key < start + length})
    check(ranges, {key: byte for key, byte in whole.items() if key >= start + length})
    ranges.write(start + len(whole), b"more")
    whole.update((start + len(b"".join(parts)) + index, byte) for index, byte in enumerate(b"more"))
    check(ranges, {key: byte for key, byte in whole.items() if key >= start + length})


def buffers_bytes(ranges: Ranges) -> int:
    """Return the memory that the parts keep alive."""
    held = {id(buffer): len(buffer) for run in ranges for part in run.parts for buffer in [owner(part)]}
    return sum(held.values())


def owner(part: bytes | memoryview) -> bytes:
    return part.obj if isinstance(part, memoryview) else part  # type: ignore[return-value]


def test_what_is_left_of_a_large_write_does_not_keep_all_of_it() -> None:
    ranges = Ranges()
    ranges.write(0, bytes(1_000_000))
    ranges.truncate(10)
    assert buffers_bytes(ranges) < 1000
    ranges.write(10, bytes(1_000_000))
    ranges.cut(20, 999_000)
    assert buffers_bytes(ranges) < 10_000


@given(STEPS)
def test_memory_is_bounded_by_what_is_counted(steps: list[tuple[str, int, object]]) -> None:
    ranges, model = Ranges(), {}
    for kind, offset, argument in steps:  # as above, a thousandfold
        if kind == "write":
            assert isinstance(argument, bytes)
            ranges.write(offset * 1000, argument * 1000)
        elif kind == "cut":
            assert isinstance(argument, int)
            ranges.cut(offset * 1000, max(offset, argument) * 1000)
        else:
            ranges.truncate(offset * 1000)
    del model
    assert buffers_bytes(ranges) <= 4 * ranges.bytes_held + ranges.parts_held * 200


# -- the state of a file ----------

ATTR = Attr(16, 1, 0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0)


def test_a_file_counts_against_the_limit_until_its_data_is_applied() -> None:
    limit = DirtyLimit(1_000_000)
    state = FileState(ATTR, limit)
    state.write(0, b"x" * 1000, now_ns=1)
    cost = limit.used_bytes
    assert cost >= 1000
    state.take()
    assert limit.used_bytes == cost
    state.write(1000, b"y" * 1000, now_ns=2)
    assert limit.used_bytes == 2 * cost
    state.finish_sealing()
    assert limit.used_bytes == cost
    assert (state.mtime_ns, state.is_dirty) == (2, True)
    state.drop()
    assert limit.used_bytes == 0


def test_a_dropped_file_counts_until_its_seal_ends() -> None:
    limit = DirtyLimit(1_000_000)
    state = FileState(ATTR, limit)
    state.write(0, b"x" * 1000, now_ns=1)
    state.take()
    state.drop()
    assert limit.used_bytes >= 1000  # the sealer still holds it
    assert list(state.overlay(0, 1000)) == []
    state.finish_sealing()
    assert limit.used_bytes == 0


def test_wanting_a_seal_moves_with_the_generation() -> None:
    state = FileState(ATTR, DirtyLimit(1_000_000))
    state.write(0, b"a", now_ns=1)
    assert not state.is_wanted
    state.must_seal = True
    state.take()
    assert state.is_wanted
    state.write(1, b"b", now_ns=2)  # later data is not wanted yet
    state.finish_sealing()
    assert not state.is_wanted
    state.take()
    state.must_seal = True  # asked for while being sealed
    assert state.is_wanted
    state.finish_sealing()
    assert not state.is_wanted


def test_a_plan_is_void_after_anything_but_an_append() -> None:
    state = FileState(ATTR, DirtyLimit(1_000_000))
    state.write(0, b"abc", now_ns=1)
    seen_count = state.rewrite_count
    state.write(3, b"def", now_ns=1)
    assert state.rewrite_count == seen_count
    for change in (
        lambda: state.write(1, b"x", now_ns=1),
        lambda: state.write(100, b"x", now_ns=1),
        lambda: state.truncate(200),
        lambda: state.truncate(2),
        state.drop,
    ):
        seen_count = state.rewrite_count
        change()
        assert state.rewrite_count > seen_count


async def test_writers_wait_and_are_woken() -> None:
    limit = DirtyLimit(100)
    limit.change(100)
    assert limit.is_full
    woken = []

    async def wait() -> None:
        await limit.wait_less()
        woken.append(limit.is_full)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert limit.waiting_count == 3
        limit.change(50)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        limit.change(-60)
    assert woken == [False] * 3
    assert limit.waiting_count == 0
