"""Shipping: a commit goes out when it is durable and its packs are stored, and never over another writer's."""

from __future__ import annotations

import threading

import pytest
import trio

from cubefs.engine import committing
from cubefs.errors import FencedError, ObjectMissingError
from cubefs.format import names
from cubefs.model import MIB
from tests.support.calls import make_file, read_all
from tests.support.driver import Place
from tests.support.engines import crashing, noise, quick_retries, running, wait_until
from tests.support.faulty_store import FaultyStore

DATA = noise(7, 2 * MIB)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)


async def test_a_commit_that_is_not_durable_yet_is_not_shipped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows can be seen from the COMMIT on; its packs are known to the uploader when the WAL is on the disk."""
    release = threading.Event()
    synced = threading.Event()
    sync = committing._WalSync.sync

    def hold(wal: committing._WalSync) -> int:
        synced.set()
        assert release.wait(10)
        return sync(wal)

    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        await make_file(fs, b"first", noise(1, MIB))
        await fs.sync()
        monkeypatch.setattr(committing._WalSync, "sync", hold)
        async with trio.open_nursery() as nursery:
            await make_file(fs, b"second", noise(2, MIB))
            nursery.start_soon(fs.sync)
            await wait_until(synced.is_set)
            fs.engine.shipper._wake.set()  # as an earlier commit, being shipped at this moment, would have it look
            before = store.calls["put_new"]
            await trio.sleep(0.2)
            assert store.calls["put_new"] == before
            release.set()
        assert not fs.engine.uploader.unstored


@pytest.mark.log_warnings
async def test_one_missing_answer_does_not_overwrite_another_writers_commit(place: Place) -> None:
    """The name is taken, and for a moment nothing can be read there: that proves nothing."""
    async with running(place) as fs:
        await make_file(fs, b"mine", DATA)
    store = FaultyStore(place.store())
    async with crashing(place, store=store) as ours:
        async with running(place.with_empty_cache("other")) as theirs:
            await make_file(theirs, b"theirs", b"acknowledged")
        log_before = {info.name: place.store().get(info.name) for info in place.store().list(names.META)}
        gets = 0

        def miss(verb: str, name: str) -> None:
            nonlocal gets
            if verb == "get" and name.startswith(names.META):
                gets += 1
                if gets == 5:  # what follows the four looks after the refused put
                    raise ObjectMissingError("not for a moment")

        store.hook = miss
        await make_file(ours, b"ours", b"too late")
        with pytest.raises(FencedError):
            await ours.sync()
        assert {info.name: place.store().get(info.name) for info in place.store().list(names.META)} == log_before
    async with running(place.with_empty_cache("third")) as fs:
        assert await read_all(fs, fs.lookup(1, b"theirs").ino) == b"acknowledged"


class Careless(FaultyStore):
    """Checks whether a name is free, but not in one step with taking it, as Swift does."""

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        self._before("put_new", name)
        self.inner.put(name, data)


@pytest.mark.log_warnings
async def test_an_object_lost_to_a_simultaneous_writer_is_not_continued(place: Place) -> None:
    """Both were told that the name is theirs: the one whose object is gone writes nothing behind the other's."""
    async with running(place) as fs:
        await make_file(fs, b"first", DATA)
    other = place.with_empty_cache("other")
    async with crashing(place) as ours, running(other, store=Careless(place.store())) as theirs:
        await make_file(ours, b"ours", noise(1, 1000))
        await ours.sync()
        await make_file(theirs, b"theirs", noise(2, 1000))
        await theirs.sync()
        seq = ours.engine.shipper.seq
        assert theirs.engine.shipper.seq == seq  # in its place
        await make_file(ours, b"more", noise(3, 1000))
        with pytest.raises(FencedError, match=names.meta(seq)):
            await ours.sync()
        await make_file(theirs, b"more", noise(4, 1000))
        await theirs.sync()
    async with running(place.with_empty_cache("third")) as fs:  # the log is whole
        assert await read_all(fs, fs.lookup(1, b"theirs").ino) == noise(2, 1000)
