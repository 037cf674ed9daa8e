"""Waiting for the kernel's requests: quick while they come, fair to other tasks, ended by a closing session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio

from cubefs.fuse import waiting


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


async def test_requests_that_keep_coming_do_not_pass_through_the_scheduler(pipe: tuple[int, int]) -> None:
    lowlevel = waiting._Lowlevel()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(waiting._REQUESTS_IN_A_ROW):
            os.write(pipe[1], b"x")
            await lowlevel.wait_readable(pipe[0])
            os.read(pipe[0], 1)
        assert turns == before
        for _ in range(10 * waiting._REQUESTS_IN_A_ROW):
            os.write(pipe[1], b"x")
            await lowlevel.wait_readable(pipe[0])
            os.read(pipe[0], 1)
        assert turns >= before + 5  # after each row everybody else had a turn
        nursery.cancel_scope.cancel()


async def test_a_request_that_comes_late_is_waited_for(pipe: tuple[int, int]) -> None:
    lowlevel = waiting._Lowlevel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lowlevel.wait_readable, pipe[0])
        await trio.sleep(0.02)
        assert nursery.child_tasks
        os.write(pipe[1], b"x")


async def test_a_request_that_another_task_took_is_no_request(pipe: tuple[int, int]) -> None:
    """Both are told that the descriptor is readable; a read by the second would block the loop."""
    lowlevel = waiting._Lowlevel()
    lowlevel._in_a_row = waiting._REQUESTS_IN_A_ROW
    returned = False

    async def second() -> None:
        nonlocal returned
        await lowlevel.wait_readable(pipe[0])
        returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        await trio.sleep(0.01)
        os.write(pipe[1], b"x")
        os.read(pipe[0], 1)  # taken before the loop looked
        await trio.sleep(0.01)
        assert not returned
        os.write(pipe[1], b"x")


async def test_a_closing_session_wakes_the_waiter(pipe: tuple[int, int]) -> None:
    lowlevel = waiting._Lowlevel()
    woken = False

    async def waiter() -> None:
        nonlocal woken
        with pytest.raises(trio.ClosedResourceError):
            await lowlevel.wait_readable(pipe[0])
        woken = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await trio.sleep(0.01)
        lowlevel.notify_closing(pipe[0])
    assert woken


async def test_the_lock_lets_one_in_at_a_time_and_cancels_cleanly() -> None:
    lock = waiting._BargingLock()
    inside = most = done = 0

    async def enter() -> None:
        nonlocal inside, most, done
        async with lock:
            inside += 1
            most = max(most, inside)
            await trio.lowlevel.checkpoint()
            inside -= 1
        done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(enter)
    assert (most, done) == (1, 20)
    async with lock:
        with trio.move_on_after(0.01) as scope:
            await enter()
        assert scope.cancelled_caught
    with trio.fail_after(1):
        await enter()
