"""Packs are looked at after their upload as the mount's policy says, beside the next uploads."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import trio

from cubefs.errors import ObjectMissingError
from cubefs.format import names
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB
from cubefs.store.verify import Policy
from tests.support.calls import make_file, read_all
from tests.support.driver import Place
from tests.support.engines import findings, noise, quick_retries, running, wait_until
from tests.support.faulty_store import FaultyStore


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)


class Watched(FaultyStore):
    """Counts calls upon packs apart."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.store())
        self.of_packs: Counter[str] = Counter()
        self._count_lock = threading.Lock()
        self.hook = self._note_pack

    def _note_pack(self, verb: str, name: str) -> None:
        if name.startswith(names.PACKS):
            with self._count_lock:
                self.of_packs[verb] += 1


async def make_packs(fs: FileSystem, count: int) -> None:
    """Write files, each into a pack of its own, and wait until all is stored."""
    for number in range(count):
        await make_file(fs, b"f%d" % number, noise(number, MIB))
        await fs.engine.committer.commit(everything=True, cut=True)
    await fs.sync()


def recorded(fs: FileSystem) -> Counter[str]:
    return Counter(how for (how,) in fs.engine.database.execute("SELECT verified_how FROM pack"))


@pytest.mark.parametrize(
    ("policy", "full"), [("full", range(24, 25)), ("head", range(1)), ("sample:40%", range(2, 22))]
)
async def test_each_pack_is_looked_at_as_the_policy_says(place: Place, policy: str, full: range) -> None:
    store = Watched(place)
    async with running(place, store=store, verify=Policy.parse(policy)) as fs:
        await make_packs(fs, 24)
        hows = recorded(fs)
        assert hows.total() == 24 and hows["full"] in full  # of sampling: all but one run in 10,000
        assert store.of_packs == Counter(put=24, get=hows["full"], head=hows["head"])
        traffic = fs.counters()["store_traffic"]
        assert traffic.get("verified_head_count", 0) == hows["head"]
        assert traffic["verified_full_count"] > hows["full"]  # commits are always read back in full
        assert fs.counters()["verify"] == policy
    assert findings(place) == []


async def test_how_a_pack_is_looked_at_outlives_the_mount(place: Place) -> None:
    """What was closed under one policy is looked at in its way, even by a mount that has another."""
    store = Watched(place)
    store.fail("put", ObjectMissingError("not now"), times=1000)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BaseExceptionGroup):
        patch.setattr("cubefs.engine.uploading.log.disabled", True)
        async with running(place, store=store, verify=Policy.parse("head")) as fs:
            await make_file(fs, b"f", noise(1, MIB))
            await fs.engine.committer.commit(everything=True, cut=True)
            raise RuntimeError("the process dies")
    store._failures.clear()
    async with running(place, store=store) as fs:
        await fs.sync()
        assert recorded(fs) == Counter(head=1)
        assert store.of_packs["head"] == 1 and store.of_packs["get"] == 0


async def test_a_store_that_shows_late_what_was_put(place: Place) -> None:
    """It is looked at again, not put again; nobody else waits meanwhile."""
    store = Watched(place)
    async with running(place, store=store) as fs:
        store.fail("get", ObjectMissingError("not yet"), times=2)
        await make_packs(fs, 1)
        assert store.of_packs["put"] == 1
        traffic = fs.counters()["store_traffic"]
        assert traffic["verify_late_count"] == 1
        assert "verify_put_again_count" not in traffic


@pytest.mark.parametrize("policy", ["full", "head"])
async def test_a_put_that_left_nothing_is_done_again(place: Place, policy: str) -> None:
    store = Watched(place)
    lost: list[str] = []

    def lose(verb: str, name: str) -> None:
        store._note_pack(verb, name)
        if name.startswith(names.PACKS) and verb in ("get", "head") and not lost:
            lost.append(name)
            store.inner.delete(name)

    store.hook = lose
    async with running(place, store=store, verify=Policy.parse(policy)) as fs:
        await make_packs(fs, 1)
        assert store.of_packs["put"] == 2
        assert fs.counters()["store_traffic"]["verify_put_again_count"] == 1
    async with running(place.with_empty_cache("other")) as fs:
        assert await read_all(fs, fs.lookup(1, b"f0").ino) == noise(0, MIB)


async def test_looking_does_not_hold_up_uploads(place: Place) -> None:
    """All looks hang, and still every pack is put; none of them counts as stored."""
    store = Watched(place)
    release = threading.Event()

    def hang(verb: str, name: str) -> None:
        store._note_pack(verb, name)
        if verb == "get" and name.startswith(names.PACKS):
            assert release.wait(10)

    store.hook = hang
    async with running(place, store=store) as fs:
        for number in range(16):
            await make_file(fs, b"f%d" % number, noise(number, MIB))
            await fs.engine.committer.commit(everything=True, cut=True)
        await wait_until(lambda: store.of_packs["put"] == 16)
        assert len(fs.engine.uploader.unstored) == 16
        with trio.move_on_after(0.05) as scope:
            await fs.sync()
        assert scope.cancelled_caught
        assert store.of_packs["get"] <= 4  # so many at a time, whatever waits
        release.set()
        await fs.sync()
        assert not fs.engine.uploader.unstored


async def test_an_upload_settles_before_the_first_look(place: Place) -> None:
    store = Watched(place)
    times: dict[str, float] = {}

    def clock(verb: str, name: str) -> None:
        if name.startswith(names.PACKS):
            times.setdefault(verb, trio.from_thread.run_sync(trio.current_time))

    store.hook = clock
    async with running(place, store=store, settle_s=0.3) as fs:
        await make_packs(fs, 1)
    assert times["get"] - times["put"] >= 0.3
