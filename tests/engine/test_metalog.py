"""The metadata log: what is shipped can be rebuilt, by anybody, from any base; one writer only."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubefs.db import image
from cubefs.engine import logend, metalog, unlock
from cubefs.errors import (
    FencedError,
    IntegrityError,
    LocalDiskError,
    NotCubefsError,
    StoreLiesError,
    StoreUnavailableError,
    UnsupportedVersionError,
    WrongPassphraseError,
)
from cubefs.format import names
from cubefs.format.keys import object_hash
from cubefs.format.log import BASE_CHUNK_MAX_BYTES, Changes, WriterClosed, WriterOpened
from cubefs.store import Store, open_store
from tests.support.faulty_store import FaultyStore, Spoil
from tests.support.log_machine import NOW_NS, PASSPHRASE, LogMachine, dump, make


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStore:
    store = open_store(f"local://{tmp_path}/store", create=True)
    make(store)
    return FaultyStore(store)


@pytest.fixture
def machine(faulty: FaultyStore, tmp_path: Path) -> Iterator[LogMachine]:
    (tmp_path / "here").mkdir()
    machine = LogMachine(faulty, tmp_path / "here")
    yield machine
    machine.close()


@pytest.fixture
def other(machine: LogMachine, faulty: FaultyStore, tmp_path: Path) -> Iterator[LogMachine]:
    """A second machine that mounted the same file system at the same moment."""
    (tmp_path / "there").mkdir()
    other = LogMachine(faulty, tmp_path / "there")
    yield other
    other.close()


def rebuilt(machine: LogMachine, tmp_path: Path) -> Path:
    """Rebuild elsewhere; check the position."""
    target = tmp_path / f"rebuilt-{len(list(tmp_path.iterdir()))}"
    assert machine.rebuild(target) == machine.head
    return target


# -- what is shipped is rebuilt -------------------------------------------------------------------------------


def test_an_empty_file_system(machine: LogMachine, tmp_path: Path) -> None:
    assert machine.head.seq == 0
    assert machine.head.chain_hash == object_hash(machine.superblock_bytes)
    assert machine.head.log_bytes == 0
    assert machine.head.base_bytes == sum(info.size_bytes for info in machine.store.list(names.BASE))
    target = rebuilt(machine, tmp_path)
    image.check_image(target)
    assert dump(target) == dump(machine.database)


def test_log_objects_and_bases(machine: LogMachine, tmp_path: Path) -> None:
    machine.open()
    bodies = [machine.add_file(number) for number in range(1, 12)]
    machine.commit(
        lambda c: c.execute("UPDATE dentry SET name = x'00ff' WHERE id = 3"),
        lambda c: c.execute("DELETE FROM dentry WHERE id = 3"),
        lambda c: None,
    )
    assert machine.head.seq == 13
    assert machine.head.log_bytes == sum(info.size_bytes for info in machine.store.list(names.META))
    assert [machine.store.get(names.meta(seq)) for seq in range(2, 13)] == bodies
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)
    machine.write_base()
    assert metalog.newest_base(machine.store) == 13
    machine.add_file(100)
    machine.ship(WriterClosed(NOW_NS, b"w" * 16, "here"))
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)
    for info in machine.store.list(names.META):  # what the base contains is not needed any more
        if info.name <= names.meta(13):
            machine.store.delete(info.name)
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)


def test_a_rebuilt_database_is_a_whole_plain_one(machine: LogMachine, tmp_path: Path) -> None:
    machine.add_file(1)
    target = tmp_path / "new" / "database"
    target.parent.mkdir()
    machine.rebuild(target)
    assert list(target.parent.iterdir()) == [target]
    image.check_image(target)
    assert not any(dump(target, ("local_pack", "local_outbox", "local_log", "local_head")).values())


def test_a_base_of_several_chunks(machine: LogMachine, tmp_path: Path) -> None:
    def fill(connection: apsw.Connection) -> None:
        rows = ((number, b"user.x", 1, os.urandom(100_000)) for number in range(180))
        connection.executemany("INSERT INTO xattr VALUES (?, ?, ?, ?)", rows)

    machine.commit(fill)
    stored_bytes = machine.write_base()
    stored = {info.name: info.size_bytes for info in machine.store.list("base/0000000000000001/")}
    assert list(stored) == [*(names.base_chunk(1, number) for number in range(3)), names.base_manifest(1)]
    assert sum(stored.values()) == stored_bytes
    assert max(stored.values()) <= BASE_CHUNK_MAX_BYTES + 2000
    seen: list[str] = []
    machine.rebuild(tmp_path / "rebuilt", progress=lambda name, size_bytes: seen.append(name))
    assert seen == [names.base_manifest(1), *(names.base_chunk(1, number) for number in range(3))]
    assert dump(tmp_path / "rebuilt") == dump(machine.database)


def test_progress_names_every_object(machine: LogMachine, tmp_path: Path) -> None:
    for number in range(9):
        machine.add_file(number)
    seen: dict[str, int] = {}
    machine.rebuild(tmp_path / "rebuilt", progress=lambda name, size_bytes: seen.update({name: size_bytes}))
    stored = {info.name: info.size_bytes for info in machine.store.list("")}
    assert seen == {name: size for name, size in stored.items() if name.startswith(("base/", "meta/"))}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4)),
        st.tuples(st.just("base"), st.just([])),
        st.tuples(st.just("move"), st.just([])),
    ),
    max_size=10,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_history_is_rebuilt(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[tuple[int, int]]]]
) -> None:
    """Commits and bases in any order, the file system moving between machines that start empty."""
    path = tmp_path_factory.mktemp("history")
    store = open_store(f"local://{path}/store", create=True)
    make(store)
    machines = (path / f"machine-{number}" for number in itertools.count())

    def mount() -> LogMachine:
        directory = next(machines)
        directory.mkdir()
        return LogMachine(store, directory)

    machine = mount()
    sql = "INSERT OR REPLACE INTO dentry VALUES (?, 1, 1, x'61', ?)"
    for kind, rows in steps:
        if kind == "commit":
            machine.commit(*(lambda c, row=row: c.execute(sql, row) for row in rows))  # type: ignore[misc]
        elif kind == "base":
            machine.write_base()
        else:
            machine.close()
            left, machine = machine, mount()
            assert machine.head == left.head
            assert dump(machine.database) == dump(left.database)
    machine.close()


def test_a_target_that_exists_is_not_touched(machine: LogMachine, tmp_path: Path) -> None:
    for name in ("a", "b-wal"):
        (tmp_path / name).write_bytes(b"precious")
    for name in ("a", "b"):
        with pytest.raises(LocalDiskError, match="exists already"):
            machine.rebuild(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == b"precious"
    assert not (tmp_path / "b").exists()


def test_an_interrupted_rebuild_leaves_no_target(machine: LogMachine, faulty: FaultyStore, tmp_path: Path) -> None:
    for number in range(3):
        machine.add_file(number)
    target = tmp_path / "new" / "database"
    target.parent.mkdir()
    for objects_read in range(5):
        faulty.hook = stop_after(objects_read)
        with pytest.raises(StoreUnavailableError):
            machine.rebuild(target)
        assert list(target.parent.iterdir()) == []
    faulty.hook = lambda verb, name: None
    (target.parent / "database.partial").write_bytes(b"left by a crash")
    (target.parent / "database.partial-journal").write_bytes(b"left by a crash")
    machine.rebuild(target)
    assert list(target.parent.iterdir()) == [target]
    assert dump(target) == dump(machine.database)


def stop_after(objects_read: int) -> Callable[[str, str], None]:
    lock, count = threading.Lock(), itertools.count()

    def hook(verb: str, name: str) -> None:
        with lock:
            if verb == "get" and next(count) >= objects_read:
                raise StoreUnavailableError("down")

    return hook


def test_a_failing_disk_is_a_local_error(machine: LogMachine, tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="none"):
        machine.rebuild(tmp_path / "none" / "database")
    with pytest.raises(LocalDiskError, match="none"):
        metalog.write_base(
            machine.store,
            log_key=machine.log_key,
            uuid=machine.uuid,
            seq=1,
            chain_hash=bytes(32),
            image=tmp_path / "none",
        )


def test_a_newer_schema_is_refused(machine: LogMachine, tmp_path: Path) -> None:
    machine.connection.pragma("user_version", 2)
    machine.add_file(1)
    machine.write_base()
    with pytest.raises(UnsupportedVersionError, match=f"{names.base_manifest(1)}: .*schema version 2"):
        machine.rebuild(tmp_path / "rebuilt")


# -- following ------------------------------------------------------------------------------------------------


def tail(store: Store, machine: LogMachine) -> list[metalog.LogObject]:
    return list(metalog.tail(store, machine.head, log_key=machine.log_key, uuid=machine.uuid))


def test_the_tail_is_what_others_wrote_since(machine: LogMachine, other: LogMachine) -> None:
    assert tail(machine.store, machine) == []
    other.open("there")
    other.add_file(1)
    opened, changed = tail(machine.store, machine)
    assert opened.records == [WriterOpened(NOW_NS, b"w" * 16, "there")]
    assert [type(record) for record in changed.records] == [Changes]
    assert changed.head == other.head
    assert tail(machine.store, other) == []


def test_a_tail_much_longer_than_what_is_fetched_ahead(machine: LogMachine, other: LogMachine) -> None:
    for number in range(metalog.FETCH_AHEAD * 5 + 1):
        other.add_file(number)
    assert [item.head.seq for item in tail(machine.store, machine)] == list(range(1, other.head.seq + 1))


def test_few_objects_are_fetched_ahead(machine: LogMachine, other: LogMachine, faulty: FaultyStore) -> None:
    for number in range(40):
        other.add_file(number)
    faulty.calls.clear()
    following = metalog.tail(faulty, machine.head, log_key=machine.log_key, uuid=machine.uuid)
    for _ in range(3):
        next(following)
    following.close()  # type: ignore[attr-defined]
    assert faulty.calls["get"] <= 3 + metalog.FETCH_AHEAD


def test_a_writer_at_work_is_no_gap(machine: LogMachine, other: LogMachine, faulty: FaultyStore) -> None:
    """Two objects appear between asking for the first of them and listing."""

    def write(verb: str, name: str) -> None:
        if verb == "list":
            faulty.hook = lambda verb, name: None
            other.add_file(1)
            other.add_file(2)

    faulty.hook = write
    assert [item.head.seq for item in tail(faulty, machine)] == [1, 2]


# -- one writer -----------------------------------------------------------------------------------------------


def test_the_same_bytes_again_are_success(machine: LogMachine) -> None:
    body = machine.add_file(1)
    logend.ship(machine.store, seq=1, body=body, log_key=machine.log_key, uuid=machine.uuid)
    assert machine.store.get(names.meta(1)) == body


def test_the_second_writer_is_fenced(machine: LogMachine, other: LogMachine) -> None:
    theirs = other.open("there")
    with pytest.raises(FencedError, match="another machine has written meta/0000000000000001") as caught:
        machine.add_file(1)
    assert "\n" not in str(caught.value)
    assert machine.head.seq == 0
    assert machine.store.get(names.meta(1)) == theirs


def test_of_many_writers_one_wins(machine: LogMachine) -> None:
    bodies = [machine.seal(WriterOpened(NOW_NS, bytes([n]) * 16, f"host {n}")) for n in range(8)]
    barrier, fenced = threading.Barrier(len(bodies)), []

    def ship(body: bytes) -> None:
        barrier.wait()
        try:
            logend.ship(machine.store, seq=1, body=body, log_key=machine.log_key, uuid=machine.uuid)
        except FencedError:
            fenced.append(body)

    threads = [threading.Thread(target=ship, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {machine.store.get(names.meta(1))} == set(bodies) - set(fenced)
    assert len(fenced) == len(bodies) - 1


SPOILS: dict[str, Spoil] = {
    "flipped": lambda body: body[:-1] + bytes([body[-1] ^ 1]),
    "truncated": lambda body: body[:50],
    "empty": lambda body: b"",
    "extended": lambda body: body + b"x",
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_our_own_object_spoilt_on_its_way_is_mended(
    machine: LogMachine, faulty: FaultyStore, tmp_path: Path, spoil: Spoil
) -> None:
    """It must not look like another writer, nor stay: nobody could ever read the log past it."""
    faulty.spoil("put_new", spoil)
    body = machine.add_file(1)
    assert faulty.inner.get(names.meta(1)) == body
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)


def test_a_store_that_goes_on_lying_is_no_fence(machine: LogMachine, faulty: FaultyStore) -> None:
    faulty.spoil("get", SPOILS["flipped"], times=100)
    with pytest.raises(StoreLiesError):
        machine.add_file(1)


def test_a_lost_answer_is_success_on_retry(machine: LogMachine, faulty: FaultyStore) -> None:
    body = machine.seal()
    faulty.fail("put_new", StoreUnavailableError("no answer"), done=True)
    with pytest.raises(StoreUnavailableError):
        logend.ship(faulty, seq=1, body=body, log_key=machine.log_key, uuid=machine.uuid)
    logend.ship(faulty, seq=1, body=body, log_key=machine.log_key, uuid=machine.uuid)
    assert faulty.inner.get(names.meta(1)) == body


def test_the_head_is_checked(machine: LogMachine, other: LogMachine) -> None:
    logend.check_head(machine.store, machine.head)
    machine.add_file(1)
    logend.check_head(machine.store, machine.head)
    forked = metalog.after(other.head, other.seal())
    with pytest.raises(IntegrityError, match=r"meta/0000000000000001.*forked"):
        logend.check_head(machine.store, forked)
    machine.store.delete(names.meta(1))
    with pytest.raises(IntegrityError, match=r"meta/0000000000000001 is missing.*older state"):
        logend.check_head(machine.store, machine.head)
    machine.store.put(names.SUPERBLOCK, b"cubefs\nversion 1\nuuid %032x\n" % 5)
    with pytest.raises(IntegrityError, match=r"cubefs.*forked"):
        logend.check_head(machine.store, other.head)


# -- bases that are interrupted -------------------------------------------------------------------------------


def test_a_base_counts_with_its_manifest_only(machine: LogMachine, faulty: FaultyStore, tmp_path: Path) -> None:
    machine.add_file(1)
    faulty.fail("put_new", StoreUnavailableError("down"))
    with pytest.raises(StoreUnavailableError):
        machine.write_base()
    assert [info.name for info in faulty.inner.list("base/0000000000000001")] == [names.base_chunk(1, 0)]
    assert metalog.newest_base(machine.store) == 0
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)
    machine.write_base()
    assert metalog.newest_base(machine.store) == 1
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)


def test_a_complete_base_is_kept(machine: LogMachine, faulty: FaultyStore, tmp_path: Path) -> None:
    """The attempt succeeded, its success was not noted: other chunks under its manifest would ruin it."""
    machine.add_file(1)
    faulty.fail("put_new", StoreUnavailableError("no answer"), done=True)
    with pytest.raises(StoreUnavailableError):
        machine.write_base()
    before = {info.name: faulty.inner.get(info.name) for info in faulty.inner.list(names.BASE)}
    assert machine.write_base() == sum(len(data) for name, data in before.items() if "0000001/" in name)
    assert {info.name: faulty.inner.get(info.name) for info in faulty.inner.list(names.BASE)} == before
    assert dump(rebuilt(machine, tmp_path)) == dump(machine.database)


def test_a_base_of_another_line_is_refused(machine: LogMachine, other: LogMachine) -> None:
    machine.add_file(1)
    machine.write_base()
    other.head = metalog.after(other.head, other.seal())
    with pytest.raises(IntegrityError, match="manifest belongs to another line"):
        other.write_base()


# -- unlocking ------------------------------------------------------------------------------------------------


def test_no_file_system(tmp_path: Path) -> None:
    store = open_store(f"local://{tmp_path}/empty", create=True)
    url = f"local://{tmp_path}/empty"
    with pytest.raises(NotCubefsError, match=f"^no cubefs file system at {url}; make one with mkfs.cubefs {url}$"):
        unlock.unlock(store, PASSPHRASE)


@pytest.mark.parametrize("data", [b"", b"hello", b"cubefs\nversion 1\n", b"cubefs\nversion 1\nuuid 12\n"])
def test_something_else_under_the_superblocks_name(faulty: FaultyStore, data: bytes) -> None:
    faulty.put(names.SUPERBLOCK, data)
    with pytest.raises(NotCubefsError, match="local://"):
        unlock.read_superblock(faulty)


def test_a_newer_file_system(faulty: FaultyStore) -> None:
    faulty.put(names.SUPERBLOCK, b"cubefs\nversion 2\nsomething new\n")
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        unlock.unlock(faulty, PASSPHRASE)


def test_a_wrong_passphrase(faulty: FaultyStore) -> None:
    with pytest.raises(WrongPassphraseError, match=r"^wrong passphrase: "):
        unlock.unlock(faulty, PASSPHRASE + " ")


def test_lost_slots(faulty: FaultyStore) -> None:
    assert sorted(unlock.read_slots(faulty)) == sorted(info.name for info in faulty.list(names.KEYS))
    for name in unlock.read_slots(faulty):
        faulty.delete(name)
    with pytest.raises(NotCubefsError, match="lost its key slots"):
        unlock.unlock(faulty, PASSPHRASE)


def test_a_damaged_slot_does_not_keep_another_from_opening(faulty: FaultyStore) -> None:
    faulty.put("keys/a-damaged-one", b"x" * 100)
    faulty.put("keys/not.a.slot", b"x")
    assert unlock.unlock(faulty, PASSPHRASE)[0].uuid
    for name in unlock.read_slots(faulty):
        faulty.put(name, b"x" * 100)
    with pytest.raises(IntegrityError, match="keys/"):
        unlock.unlock(faulty, PASSPHRASE)
