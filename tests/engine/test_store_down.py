"""A file system opened and used while its store does not answer, and what happens when it does again."""

from __future__ import annotations

import logging

import pytest
import trio

from cubefs.errors import FencedError, IntegrityError, ObjectMissingError, StoreError, StoreUnavailableError
from cubefs.format import names
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB
from tests.support.calls import ME, make_file, read_all
from tests.support.driver import Place
from tests.support.engines import copy_store, crashing, findings, noise, quick_retries, running, wait_until
from tests.support.faulty_store import FaultyStore

DATA = noise(7, 2 * MIB)
DOWN = StoreUnavailableError("nobody answers")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)
    monkeypatch.setattr("cubefs.engine.engine.OPENING_ATTEMPTS", 1)


class Switch:
    """A store that is down until it is switched on."""

    def __init__(self, place: Place, *, is_up: bool = False) -> None:
        self.store = FaultyStore(place.store())
        self.store.hook = self._check
        self.is_up = is_up

    def _check(self, verb: str, name: str) -> None:
        if not self.is_up:
            raise DOWN


async def prepare(place: Place) -> int:
    async with running(place) as fs:
        return await make_file(fs, b"old", DATA)


@pytest.mark.log_warnings
async def test_mounting_while_the_store_is_down(place: Place) -> None:
    """Reads come from the cache, writes wait in it; all of it arrives when the store is back."""
    old = await prepare(place)
    switch = Switch(place)
    async with running(place, store=switch.store) as fs:
        assert "another machine" in fs.counters()["not_checked"]
        assert await read_all(fs, old) == DATA
        new = await make_file(fs, b"new", DATA[::-1])
        await fs.commit()
        assert await read_all(fs, new) == DATA[::-1]
        switch.is_up = True
        await fs.sync()
        assert fs.counters()["not_checked"] is None
        assert fs.counters()["store_error"] is None
    assert findings(place) == []
    async with running(place.with_empty_cache("other")) as fs:
        assert await read_all(fs, new) == DATA[::-1]


@pytest.mark.log_warnings
async def test_mounting_elsewhere_while_the_store_is_down(place: Place) -> None:
    await prepare(place)
    switch = Switch(place)
    with pytest.raises(StoreUnavailableError, match="nobody answers"):
        async with running(place.with_empty_cache("other"), store=switch.store):
            pass
    switch.is_up = True
    async with running(place.with_empty_cache("other"), store=switch.store) as fs:
        assert fs.lookup(1, b"old").size_bytes == len(DATA)


@pytest.mark.log_warnings
async def test_what_could_not_be_checked_is_checked_before_anything_is_shipped(place: Place) -> None:
    """Another machine wrote while this one was away and the store was down: this one must not write over it."""
    await prepare(place)
    async with running(place.with_empty_cache("other")) as fs:
        await make_file(fs, b"theirs", DATA)
    shipped = [info.name for info in place.store().list(names.META)]
    switch = Switch(place)
    async with crashing(place, store=switch.store) as fs:
        await make_file(fs, b"ours", DATA[1:])
        await fs.commit()
        switch.is_up = True
        with pytest.raises(FencedError, match="another machine has written"):
            await fs.sync()
        assert isinstance(fs.engine.gate.failure, FencedError)
        assert await read_all(fs, fs.lookup(1, b"ours").ino) == DATA[1:]  # still there to be rescued
    assert [info.name for info in place.store().list(names.META)] == shipped


@pytest.mark.log_warnings
async def test_a_store_set_back_while_it_was_down_is_noticed(place: Place) -> None:
    await prepare(place)
    copy_store(place.store_dir, place.store_dir.with_name("older"))
    async with running(place) as fs:
        await make_file(fs, b"more", DATA[1:])
    switch = Switch(place)
    async with crashing(place, store=switch.store) as fs:
        await make_file(fs, b"ours", DATA[2:])
        await fs.commit()
        for info in list(place.store().list(names.META, start_after=names.meta(1))):
            place.store().delete(info.name)
        switch.is_up = True
        with pytest.raises(IntegrityError, match="set back"):
            await fs.sync()


@pytest.mark.log_warnings
async def test_a_mount_that_changes_nothing_asks_nothing(place: Place) -> None:
    """Nothing was written, so nothing is put: a mount may come and go while the store is down."""
    old = await prepare(place)
    switch = Switch(place)
    async with running(place, store=switch.store) as fs:
        assert await read_all(fs, old) == DATA
    assert switch.store.calls["put"] == switch.store.calls["put_new"] == 0


@pytest.mark.log_warnings
async def test_the_log_says_once_that_the_store_is_down_and_that_it_is_back(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cubefs")
    switch = Switch(place, is_up=True)
    async with running(place, store=switch.store) as fs:
        switch.is_up = False
        for number in range(3):
            await make_file(fs, b"f%d" % number, noise(number, MIB))
            await fs.engine.committer.commit(everything=True, cut=True)
        await wait_until(lambda: switch.store.calls["put"] > 8)
        assert fs.counters()["store_error_since_ns"] is not None
        switch.is_up = True
        await fs.sync()
    lines = [record.getMessage() for record in caplog.records if "storing packs" in record.getMessage()]
    assert lines[0].startswith("storing packs fails, will try again: nobody answers")
    assert lines[1:] == ["storing packs works again"]


async def fill(fs: FileSystem, count: int) -> None:
    for number in range(count):
        await make_file(fs, b"f%d" % number, noise(number, MIB))
        await fs.engine.committer.commit(everything=True, cut=True)


@pytest.mark.log_warnings
async def test_writers_wait_when_the_cache_is_full_of_unstored_packs(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log and the status say why; namespace operations go on; everything drains when the store is back."""
    monkeypatch.setattr("cubefs.engine.localpacks.TELL_AFTER_S", 0.02)
    switch = Switch(place, is_up=True)
    async with running(place, store=switch.store, cache_limit_bytes=4 * MIB) as fs:
        switch.is_up = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, fs, 8)
            await wait_until(lambda: fs.counters()["writers_waiting_for_store"] == 1)
            await wait_until(lambda: "writers wait" in caplog.text)
            await fs.mkdir(1, b"directory", 0o755, ME)
            with trio.move_on_after(0.1) as scope:
                await fs.sync()
            assert scope.cancelled_caught
            assert caplog.text.count("writers wait") == 1
            switch.is_up = True
        await fs.sync()
        assert fs.counters()["writers_waiting_for_store"] == 0
        for number in range(8):
            assert await read_all(fs, fs.lookup(1, b"f%d" % number).ino) == noise(number, MIB)
    assert findings(place) == []


@pytest.mark.log_warnings
@pytest.mark.parametrize("error", [StoreError("odd"), StoreUnavailableError("500"), DOWN])
async def test_no_answer_of_the_store_makes_it_read_only(place: Place, error: StoreError) -> None:
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        for verb in ("put", "get", "put_new"):
            store.fail(verb, error, times=6)
        await fill(fs, 3)
        await fs.sync()
        assert fs.engine.gate.failure is None


@pytest.mark.log_warnings
@pytest.mark.parametrize("how", ["missing", "damaged"])
async def test_one_wrong_answer_to_the_late_check_ends_nothing(place: Place, how: str) -> None:
    await prepare(place)
    switch = Switch(place)
    async with running(place, store=switch.store) as fs:
        await make_file(fs, b"new", DATA[1:])
        await fs.commit()
        if how == "missing":
            switch.store.fail("get", ObjectMissingError("not for a moment"), times=2)
        else:
            switch.store.spoil("get", lambda data: data[:-1] + bytes([data[-1] ^ 1]), times=2)
        switch.is_up = True
        await fs.sync()
        assert fs.engine.gate.failure is None
