"""mkfs: what it makes, what it refuses, what it leaves when it is interrupted or not alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cubefs.engine import metalog, unlock
from cubefs.errors import (
    AlreadyExistsError,
    CubefsError,
    NotCubefsError,
    StoreFullError,
    StoreLiesError,
    UsageError,
    WrongPassphraseError,
)
from cubefs.format import names
from cubefs.format.keys import DEFAULT_KDF, KdfParams, new_recovery_key
from cubefs.mkfs.make import MadeFileSystem, make_file_system
from cubefs.model import Chunking
from cubefs.store import Store, open_store
from tests.support.faulty_store import MUTATING, FaultyStore
from tests.support.log_machine import CHEAP_KDF, NOW_NS, PASSPHRASE, dump

KIB = 1024


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"local://{tmp_path}/store", create=True)


def make(
    store: Store,
    *,
    passphrase: str = PASSPHRASE,
    chunking: Chunking = Chunking.CONTENT,
    kdf: KdfParams = CHEAP_KDF,
) -> MadeFileSystem:
    return make_file_system(store, passphrase=passphrase, chunking=chunking, kdf=kdf, now_ns=NOW_NS)


def contents(store: Store) -> dict[str, bytes]:
    return {info.name: store.get(info.name) for info in store.list("")}


def assert_mounts(store: Store, path: Path, secret: str = PASSPHRASE) -> dict[str, list[tuple[object, ...]]]:
    """Open the file system and rebuild its database; return the rows."""
    superblock, superblock_bytes, keyring = unlock.unlock(store, secret)
    target = path / f"mounted-{os.urandom(4).hex()}"
    metalog.rebuild(store, keyring=keyring, superblock_bytes=superblock_bytes, uuid=superblock.uuid, target=target)
    rows = dump(target)
    assert dict(rows["meta"])["uuid"] == superblock.uuid  # type: ignore[arg-type]
    return rows


# -- what it makes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunking", list(Chunking))
def test_a_new_file_system_opens(store: Store, tmp_path: Path, chunking: Chunking) -> None:
    made = make(store, chunking=chunking)
    for secret in (PASSPHRASE, made.recovery_key_text, made.recovery_key_text.lower().replace("-", " ")):
        rows = assert_mounts(store, tmp_path, secret)
    assert unlock.read_superblock(store)[0].uuid == made.uuid
    meta = dict(rows["meta"])  # type: ignore[arg-type]
    assert meta["chunking"] == chunking.value.encode()
    assert meta["created_ns"] == b"%d" % NOW_NS
    (root,) = rows["inode"]
    assert root[:7] == (1, 1, 0, 0o40755, os.getuid(), os.getgid(), 2)
    with pytest.raises(WrongPassphraseError):
        unlock.unlock(store, "wrong")


def test_it_is_small_and_complete(store: Store) -> None:
    make(store, kdf=DEFAULT_KDF)
    assert sum(info.size_bytes for info in store.list("")) < 16 * KIB
    stored = list(contents(store))
    slots = [name for name in stored if name.startswith(names.KEYS)]
    assert sorted(name.split("-")[0] for name in slots) == ["keys/passphrase", "keys/recovery"]
    assert sorted({*stored} - {*slots}) == [names.base_chunk(0, 0), names.base_manifest(0), names.SUPERBLOCK]


def test_two_file_systems_share_nothing(tmp_path: Path) -> None:
    first, second = (open_store(f"local://{tmp_path}/{name}", create=True) for name in ("first", "second"))
    one, two = make(first), make(second)
    assert one.uuid != two.uuid
    assert one.recovery_key_text != two.recovery_key_text
    assert not {*contents(first).values()} & {*contents(second).values()}


def test_nothing_secret_is_in_the_store(store: Store) -> None:
    made = make(store)
    everything = b"".join(contents(store).values())
    for secret in (PASSPHRASE, made.recovery_key_text, "SQLite format"):
        assert secret.encode() not in everything


def test_the_owner_of_the_root_directory(store: Store, tmp_path: Path) -> None:
    make_file_system(
        store,
        passphrase=PASSPHRASE,
        chunking=Chunking.FIXED,
        kdf=CHEAP_KDF,
        now_ns=NOW_NS,
        uid=1234,
        gid=0,
    )
    assert assert_mounts(store, tmp_path)["inode"][0][4:6] == (1234, 0)


@pytest.mark.parametrize("passphrase", ["ä ö\tü", "x", "a" * 10_000, "\udcff\udcfe", "-"])
def test_unusual_passphrases(store: Store, tmp_path: Path, passphrase: str) -> None:
    make(store, passphrase=passphrase)
    assert_mounts(store, tmp_path, passphrase)


# -- what it refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", ["", new_recovery_key()[1]], ids=["empty", "a recovery key"])
def test_unusable_passphrases(store: Store, passphrase: str) -> None:
    with pytest.raises(UsageError, match="passphrase"):
        make(store, passphrase=passphrase)
    assert contents(store) == {}


def refused(store: Store, says: str) -> None:
    before = contents(store)
    with pytest.raises(AlreadyExistsError, match=says) as caught:
        make(store)
    assert "\n" not in str(caught.value)
    assert "local://" in str(caught.value)
    assert contents(store) == before


def test_an_existing_file_system(store: Store, tmp_path: Path) -> None:
    made = make(store)
    refused(store, f"holds the cubefs file system {made.uuid.hex()}; mount it, or choose another store")
    assert_mounts(store, tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"cubefs\nversion 7\n", "newer cubefs file system"),
        (b"somebody's file", "not a valid superblock"),
        (b"", "not a valid superblock"),
    ],
)
def test_something_under_the_superblocks_name(store: Store, data: bytes, says: str) -> None:
    store.put(names.SUPERBLOCK, data)
    refused(store, says)


@pytest.mark.parametrize("name", [names.pack(bytes(32)), names.meta(1), "meta/unknown"])
def test_a_file_system_that_lost_its_superblock(store: Store, name: str) -> None:
    make(store)
    store.put(name, b"data")
    store.delete(names.SUPERBLOCK)
    refused(store, f"{name}.*superblock is missing")


@pytest.mark.parametrize("name", ["keys/id_rsa", "keys/passphrase-00000000", "base/readme.txt"])
def test_somebody_elses_files_are_not_removed(store: Store, name: str) -> None:
    store.put("base/0000000000000000/000000", b"CUBEFLOG would be a leftover")
    store.put(name, b"precious")
    refused(store, f"{name}, which is not an object of cubefs")


def test_unrelated_files_do_not_matter(store: Store, tmp_path: Path) -> None:
    store.put("photos/1.jpg", b"precious")
    make(store)
    assert_mounts(store, tmp_path)
    assert store.get("photos/1.jpg") == b"precious"


# -- interrupted ----------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """Not an error of cubefs: nobody handles it."""


def at_call(number: int, act: Callable[[], None]) -> Callable[[str, str], None]:
    """Return a hook that acts before the given changing call (from 0)."""
    seen = 0

    def hook(verb: str, name: str) -> None:
        nonlocal seen
        if verb in MUTATING:
            seen += 1
            if seen == number + 1:
                act()

    return hook


def cut() -> None:
    raise PowerCutError


def changing_calls(tmp_path: Path) -> int:
    counted = FaultyStore(open_store(f"local://{tmp_path}/counted", create=True))
    make(counted)
    return sum(counted.calls[verb] for verb in MUTATING)


def test_cut_off_at_any_step_it_leaves_nothing_that_mounts(tmp_path: Path) -> None:
    steps = changing_calls(tmp_path)
    assert steps == 5  # two slots, one chunk, its manifest, the superblock
    for step in range(steps):
        store = open_store(f"local://{tmp_path}/{step}", create=True)
        faulty = FaultyStore(store)
        faulty.hook = at_call(step, cut)
        with pytest.raises(PowerCutError):
            make(faulty, passphrase="first")
        assert len(contents(store)) == step
        with pytest.raises(NotCubefsError):
            unlock.unlock(store, "first")
        made = make(store, passphrase="second")
        assert len(contents(store)) == steps  # the leftovers are gone
        assert_mounts(store, tmp_path, "second")
        assert_mounts(store, tmp_path, made.recovery_key_text)


@pytest.mark.parametrize("step", range(5))
def test_a_full_store(tmp_path: Path, step: int) -> None:
    store = open_store(f"local://{tmp_path}/store", create=True)
    faulty = FaultyStore(store)
    for _ in range(step):
        faulty.spoil("put_new", lambda data: data)
    calls = iter(range(100))

    def fill(verb: str, name: str) -> None:
        if verb == "put_new" and next(calls) >= step:
            raise StoreFullError("no room")

    faulty.hook = fill
    with pytest.raises(StoreFullError, match="no room"):
        make(faulty)
    make(store)
    assert_mounts(store, tmp_path)


@pytest.mark.parametrize("step", range(5))
def test_a_lying_store_is_no_success(tmp_path: Path, step: int) -> None:
    faulty = FaultyStore(open_store(f"local://{tmp_path}/store", create=True))
    for _ in range(step):
        faulty.spoil("put_new", lambda data: data)
    faulty.spoil("put_new", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreLiesError):
        make(faulty)


# -- not alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(5))
def test_another_mkfs_finishes_in_between(tmp_path: Path, step: int) -> None:
    """It takes our objects for leftovers and wins; we lose without harming it."""
    store = open_store(f"local://{tmp_path}/store", create=True)
    faulty = FaultyStore(store)
    faulty.hook = at_call(step, lambda: make(store, passphrase="theirs") and None)
    with pytest.raises(AlreadyExistsError, match="holds the cubefs file system"):
        make(faulty, passphrase="ours")
    assert_mounts(store, tmp_path, "theirs")
    assert len(contents(store)) == 5
    with pytest.raises(WrongPassphraseError):
        unlock.unlock(store, "ours")


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("their_step", range(5))
def test_another_mkfs_begins_in_between(tmp_path: Path, step: int, their_step: int) -> None:
    """It removes our objects, puts some of its own, and dies. Either we say so, or what we made is whole."""
    store = open_store(f"local://{tmp_path}/store", create=True)

    def intrude() -> None:
        intruder = FaultyStore(store)
        intruder.hook = at_call(their_step, cut)
        with pytest.raises((PowerCutError, AlreadyExistsError)):
            make(intruder, passphrase="theirs")

    faulty = FaultyStore(store)
    faulty.hook = at_call(step, intrude)
    try:
        made = make(faulty, passphrase="ours")
    except AlreadyExistsError as error:
        assert "another mkfs.cubefs is at work" in str(error)
        make(store, passphrase="ours")
        assert_mounts(store, tmp_path, "ours")
    else:
        assert_mounts(store, tmp_path, "ours")
        assert_mounts(store, tmp_path, made.recovery_key_text)


def test_another_mkfs_finishes_while_we_look_for_leftovers(tmp_path: Path) -> None:
    """What we then find under base/ is its file system: no leftover."""
    store = open_store(f"local://{tmp_path}/store", create=True)
    faulty = FaultyStore(store)

    def finish(verb: str, name: str) -> None:
        if (verb, name) == ("list", names.BASE):
            make(store, passphrase="theirs")

    faulty.hook = finish
    with pytest.raises(AlreadyExistsError, match="holds the cubefs file system"):
        make(faulty, passphrase="ours")
    assert_mounts(store, tmp_path, "theirs")
    assert faulty.calls["delete"] == 0


@pytest.mark.parametrize("turn", range(6))
def test_of_many_at_once_at_most_one_wins(store: Store, tmp_path: Path, turn: int) -> None:
    barrier = threading.Barrier(4)
    won: list[str] = []
    failed: list[CubefsError] = []

    def contend(passphrase: str) -> None:
        barrier.wait()
        try:
            make(store, passphrase=passphrase)
            won.append(passphrase)
        except CubefsError as error:
            failed.append(error)

    threads = [threading.Thread(target=contend, args=(f"passphrase {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) <= 1
    assert all(isinstance(error, AlreadyExistsError | StoreLiesError) for error in failed)
    assert len(won) + len(failed) == 4
    if not won:  # they removed each other's objects: the next one is alone
        make(store, passphrase="afterwards")
    assert_mounts(store, tmp_path, won[0] if won else "afterwards")
