"""The contract of cubefs/store/base.py, run against every driver of tests/support/store_drivers.py."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.errors import (
    NoStoreError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from cubefs.model import KIB, MIB
from cubefs.store.base import Store
from cubefs.store.pace import PART_BYTES
from cubefs.store.retry import Retrying
from tests.support.store_drivers import DRIVERS, PLACE, REMOTE, Driver


@pytest.fixture(scope="session", params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param](request)


@pytest.fixture(scope="session", params=REMOTE)
def remote_driver(request: pytest.FixtureRequest) -> Driver:
    """A driver that reaches a server, with credentials."""
    return REMOTE[request.param](request)


@pytest.fixture
def store(driver: Driver) -> Store:
    return driver.new()


@pytest.fixture(scope="session")
def shared(driver: Driver) -> Store:
    """A store for tests that do not care what is in it."""
    return driver.new()


@pytest.fixture(scope="session")
def many(driver: Driver) -> tuple[Store, list[str]]:
    """A store with more objects than a page of a listing holds, and their names."""
    store = driver.new()
    names = [f"meta/{number:05d}" for number in range(driver.many_count)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b""), reversed(names)))
    return store, names


def listed(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.name for info in store.list(prefix, start_after=start_after)]


def calls_upon(store: Store) -> list[Callable[[str], object]]:
    """Return every call that takes the name of an object."""
    return [
        lambda name: store.put(name, b"x"),
        lambda name: store.put_new(name, b"x"),
        store.get,
        store.head,
        lambda name: store.get_range(name, start=0, length=1),
        store.delete,
        lambda name: store.delete_many([name]),
    ]


# -- bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["put", "put_new"])
def test_what_was_put_is_got(store: Store, verb: str) -> None:
    sizes = [0, 1, 4096, MIB, 16 * MIB]
    for size_bytes in sizes:
        data, name = os.urandom(size_bytes), f"packs/6e/fa/{size_bytes:09d}"
        getattr(store, verb)(name, data)
        assert store.get(name) == data
        assert store.head(name).size_bytes == size_bytes
    assert [info.size_bytes for info in store.list("")] == sizes


def test_a_memoryview_is_stored_as_its_bytes(store: Store) -> None:
    data = bytes(range(256)) * 16
    store.put("a", memoryview(data)[256:512])
    store.put_new("b", memoryview(data)[1:3])
    assert (store.get("a"), store.get("b")) == (data[256:512], data[1:3])


def test_put_replaces(store: Store) -> None:
    store.put("a", b"a long first body")
    store.put("a", b"second")
    assert store.get("a") == b"second"


def test_put_new_never_replaces(store: Store) -> None:
    store.put_new("meta/1", b"first")
    with pytest.raises(ObjectExistsError, match="meta/1"):
        store.put_new("meta/1", b"second")
    assert store.get("meta/1") == b"first"


def test_a_deleted_name_is_free(store: Store) -> None:
    store.put_new("meta/1", b"first")
    store.delete("meta/1")
    assert listed(store) == []
    store.put_new("meta/1", b"second")
    assert store.get("meta/1") == b"second"


def test_deleting_what_is_not_there_is_fine(store: Store) -> None:
    store.delete("a")
    store.delete("no/such/directory")
    store.put("a", b"x")
    store.delete("a/b")  # below an object
    assert store.get("a") == b"x"


def test_a_missing_object_is_named(store: Store) -> None:
    store.put("packs/00/00/bb", b"x")
    calls = (store.get, store.head, lambda name: store.get_range(name, start=0, length=1))
    for name, call in itertools.product(["a", "packs/00/00/aa", "packs"], calls):
        with pytest.raises(ObjectMissingError, match=name) as caught:
            call(name)
        assert store.describe() in str(caught.value)


def test_ranges(store: Store) -> None:
    data = os.urandom(100_000)
    store.put("a", data)
    for start, length in [(0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321)]:
        assert store.get_range("a", start=start, length=length) == data[start : start + length]


def test_a_range_that_is_not_there_is_refused(store: Store) -> None:
    store.put("a", b"0123456789")
    store.put("empty", b"")
    for start, length in [(0, 11), (9, 2), (10, 1), (1000, 5), (-1, 3), (0, 0), (0, -1)]:
        with pytest.raises(StoreError, match="a") as caught:
            store.get_range("a", start=start, length=length)
        assert not caught.value.retryable
        assert not isinstance(caught.value, ObjectMissingError)
    with pytest.raises(StoreError, match="empty") as caught:
        store.get_range("empty", start=0, length=1)
    assert not isinstance(caught.value, ObjectMissingError)


# -- names ----------------------------------------------------------------------------------------------------


UNUSUAL = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", ".tmp-1", "a/.b", "a b", "a\0b", "a\nb"]
UNUSUAL += ["ä", "a\\b", "a%b", "a*", "a?b", "x" * 201, "/".join(["abcdefgh"] * 60), "\udc80", "a\n"]


def test_unusual_names_are_refused(shared: Store) -> None:
    for name, call in itertools.product(UNUSUAL, calls_upon(shared)):
        with pytest.raises(StoreError, match="unusable object name"):
            call(name)


def test_unusual_prefixes_are_refused(shared: Store) -> None:
    for prefix in ["/", "../", "./", "a/../../", "a//", "a/./", ".x/", "*", "a b", "\0", "a" * 600]:
        with pytest.raises(StoreError, match="unusable prefix"):
            list(shared.list(prefix))


def test_usual_names_are_accepted(store: Store) -> None:
    names = ["cubefs", "A.b_c-9", "a/b/c/d/e/f", "keys/passphrase-00ff", "x" * 200, "-", "a-b", "a0"]
    for name in names:
        store.put(name, name.encode())
    assert listed(store) == sorted(names)
    assert all(store.get(name) == name.encode() for name in names)


def test_a_name_may_stand_below_another_or_is_refused(store: Store) -> None:
    store.put("a", b"1")
    try:
        store.put("a/b", b"2")
    except StoreError:
        assert listed(store) == ["a"]
    else:
        assert (listed(store), store.get("a/b")) == (["a", "a/b"], b"2")
    assert store.get("a") == b"1"


# -- listings -------------------------------------------------------------------------------------------------


def test_listing_pages_over_thousands(many: tuple[Store, list[str]]) -> None:
    store, names = many
    assert listed(store, "meta/") == names
    assert listed(store, "meta/", "meta/00543") == names[544:]
    assert listed(store, "meta/", "meta/00543-") == names[544:]
    assert listed(store, "meta/", "meta/99999") == []
    assert listed(store, "meta/0000", "meta/00003") == names[4:10]


def test_a_listing_can_be_left_and_taken_up(many: tuple[Store, list[str]]) -> None:
    store, names = many
    found: list[str] = []
    while part := list(itertools.islice(store.list("", start_after=found[-1] if found else ""), 700)):
        found += [info.name for info in part]
    assert found == names


def test_listing_nothing(store: Store) -> None:
    assert listed(store) == []
    assert listed(store, "meta/") == []
    store.put("metadata", b"")
    assert listed(store, "meta/") == []
    assert listed(store, "meta") == ["metadata"]


component = st.text("ab0-._", min_size=1, max_size=3).filter(lambda text: not text.startswith("."))
name_lists = st.lists(st.lists(component, min_size=1, max_size=3).map("/".join), max_size=12, unique=True)


def without_nesting(names: list[str]) -> list[str]:
    """Drop names that are directories of others."""
    return [name for name in names if not any(other.startswith(name + "/") for other in names)]


@settings(max_examples=15, deadline=None)
@given(names=name_lists.map(without_nesting), data=st.data())
def test_listing_is_that_of_a_flat_sorted_store(shared: Store, names: list[str], data: st.DataObject) -> None:
    start = secrets.token_hex(8) + "/"
    cuts = ["", *names, *(name[:stop] for name in names for stop in range(1, len(name)))]
    prefix = data.draw(st.sampled_from(cuts))
    start_after = data.draw(st.sampled_from(cuts))
    for name in names:
        shared.put(start + name, b"")
    expected = sorted(start + name for name in names if name.startswith(prefix) and name > start_after)
    assert listed(shared, start + prefix, start + start_after) == expected


# -- deleting -------------------------------------------------------------------------------------------------


def test_deleting_many(store: Store) -> None:
    for number in range(12):
        store.put(f"packs/{number:02d}", b"x")
    store.delete_many(f"packs/{number:02d}" for number in range(3, 15))
    assert listed(store) == ["packs/00", "packs/01", "packs/02"]
    store.delete_many([])
    with pytest.raises(StoreError, match="unusable object name"):
        store.delete_many(["packs/00/../01"])
    assert listed(store) == ["packs/00", "packs/01", "packs/02"]


def test_deleting_more_than_a_request_can_name(driver: Driver, many: tuple[Store, list[str]]) -> None:
    store, names = many
    gone = [f"none/{number}" for number in range(driver.gone_count)]
    for name in (gone[7], gone[-1]):
        store.put(name, b"")
    store.delete_many(gone)
    assert listed(store, "none/") == []
    assert listed(store) == names


# -- many at once ---------------------------------------------------------------------------------------------


def test_of_many_exclusive_puts_one_wins(driver: Driver, store: Store) -> None:
    """Exactly one, or where the store looks and acts in two steps: nobody who came too late, and no mixture."""
    barrier = threading.Barrier(32)
    won: list[tuple[int, int]] = []
    lost: list[tuple[int, int]] = []

    def contend(number: int) -> None:
        for turn in range(4):
            barrier.wait(60)
            try:
                store.put_new(f"meta/{turn}", b"%d" % number)
                won.append((turn, number))
            except ObjectExistsError:
                lost.append((turn, number))

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(contend, range(32)))
    for turn in range(4):
        winners = [number for each, number in won if each == turn]
        assert len(winners) == 1 if driver.is_atomic else winners
        assert int(store.get(f"meta/{turn}")) in winners
        with pytest.raises(ObjectExistsError):
            store.put_new(f"meta/{turn}", b"late")
    assert len(won) + len(lost) == 4 * 32


def test_many_callers_at_once(store: Store) -> None:
    """Readers of an object that is being replaced see one whole body or another, never a mixture.

    Or they are told to come again: Swift cannot always open a file that another put has just replaced.
    """
    patient = Retrying(store, attempts=20, first_delay_s=0.01)

    def work(number: int) -> None:
        own, shared = f"packs/{number % 4:02d}/{number}", "shared"
        for turn in range(4):
            body = bytes([number, turn]) * 3000
            store.put(own, body)
            assert store.get(own) == body
            patient.put(shared, body)
            seen = patient.get(shared)
            assert seen == seen[:2] * 3000
            assert store.get_range(own, start=2, length=2) == body[:2]
            assert own in listed(store, "packs/")
        store.delete(own)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))
    assert listed(store) == ["shared"]


def test_a_second_instance_sees_everything(driver: Driver) -> None:
    url = driver.new_url()
    first, second = driver.open(url), driver.open(url)
    first.put("a/b", b"1")
    assert second.get("a/b") == b"1"
    assert second.get("a/b", newest=True) == b"1"
    second.delete("a/b")
    assert listed(first) == []
    assert first.describe() == second.describe() == url


def test_times_are_by_the_stores_clock(store: Store) -> None:
    second_ns = 10**9
    before_ns = store.now_ns()
    store.put("a", b"")
    assert before_ns - 2 * second_ns <= store.head("a").modified_ns <= store.now_ns() + 2 * second_ns


def test_objects_may_come_and_go_while_listing(store: Store) -> None:
    for number in range(50):
        store.put(f"a/{number:02d}", b"")
    listing: Iterator[str] = (info.name for info in store.list(""))
    assert next(listing) == "a/00"
    for number in range(10, 20):
        store.delete(f"a/{number:02d}")
    store.put("b/00", b"")
    rest = set(listing)
    assert {f"a/{number:02d}" for number in (*range(1, 10), *range(20, 50))} <= rest


# -- reading back ---------------------------------------------------------------------------------------------


def test_the_newest_is_what_was_put_last(store: Store) -> None:
    with pytest.raises(ObjectMissingError, match="a"):
        store.get("a", newest=True)
    with pytest.raises(ObjectMissingError, match="a"):
        store.head("a", newest=True)
    for body in (b"1", b"22", b"333"):
        store.put("a", body)
        assert store.get("a", newest=True) == body
        assert store.head("a", newest=True).size_bytes == len(body)


def test_room_is_a_hint(shared: Store) -> None:
    free_bytes = shared.free_bytes()
    assert free_bytes is None or free_bytes > 0


# -- speed ----------------------------------------------------------------------------------------------------


class Recorder:
    """A pace that limits nothing and writes down what it is told. `hold` is called before each note."""

    def __init__(self, *, up: bool = False, down: bool = False) -> None:
        self.up, self.down = up, down
        self.sent: list[int] = []
        self.got: list[int] = []
        self.hold: Callable[[], object] = lambda: None

    def is_limited_up(self) -> bool:
        return self.up

    def is_limited_down(self) -> bool:
        return self.down

    def sending(self, byte_count: int) -> None:
        self.hold()
        self.sent.append(byte_count)

    def received(self, byte_count: int) -> None:
        self.hold()
        self.got.append(byte_count)


@pytest.mark.parametrize("verb", ["put", "put_new"])
def test_every_byte_is_announced_in_parts(driver: Driver, verb: str) -> None:
    pace = Recorder(up=True, down=True)
    store, data = driver.new(pace=pace), os.urandom(300 * KIB + 5)
    getattr(store, verb)("a", data)
    getattr(store, verb)("empty", b"")
    assert (sum(pace.sent), max(pace.sent) <= PART_BYTES, pace.got) == (len(data), True, [])
    assert (store.get("a"), sum(pace.got)) == (data, len(data))
    pace.got.clear()
    assert store.get_range("a", start=100, length=200 * KIB) == data[100 : 100 + 200 * KIB]
    assert sum(pace.got) == 200 * KIB
    assert store.get("empty") == b""
    assert sum(pace.sent) == len(data)


def test_without_a_limit_nothing_is_announced(driver: Driver) -> None:
    pace = Recorder()
    store, data = driver.new(pace=pace), os.urandom(300 * KIB)
    store.put("a", data)
    assert (store.get("a"), pace.sent, pace.got) == (data, [], [])
    pace.up = pace.down = True  # changed while it is in use
    store.put("a", data)
    assert (store.get("a"), sum(pace.sent), sum(pace.got)) == (data, len(data), len(data))


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_transfer_waits_for_its_pace(driver: Driver, verb: str) -> None:
    url, data = driver.new_url(), os.urandom(300 * KIB)
    waiting, go_on = threading.Event(), threading.Event()
    pace = Recorder(up=verb == "put", down=verb == "get")
    slow, other = driver.open(url, pace=pace), driver.open(url)
    if verb == "get":
        other.put("a", data)

    def hold() -> None:
        waiting.set()
        assert go_on.wait(60)

    pace.hold = hold
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        stack.callback(go_on.set)
        transfer = pool.submit(slow.put, "a", data) if verb == "put" else pool.submit(slow.get, "a")
        assert waiting.wait(60)
        assert not transfer.done()
        if verb == "put":
            with pytest.raises(ObjectMissingError):
                other.get("a")
        go_on.set()
        transfer.result(60)
    assert other.get("a") == data


# -- refusals -------------------------------------------------------------------------------------------------


def test_wrong_credentials_are_refused_in_one_line(remote_driver: Driver) -> None:
    url = remote_driver.new_url()
    store = remote_driver.open(url, **remote_driver.wrong_secret)
    calls = [*calls_upon(store), lambda name: list(store.list("")), lambda name: store.now_ns()]
    for call in calls:
        with pytest.raises(StoreDeniedError) as caught:
            call("meta/1")
        line = str(caught.value)
        assert url in line
        assert "\n" not in line
        assert not any(secret in line for secret in remote_driver.wrong_secret.values())
        assert not caught.value.retryable


def test_a_missing_bucket_or_container_is_told_from_a_missing_object(remote_driver: Driver) -> None:
    url = remote_driver.new_url().replace(PLACE, f"{PLACE}-that-is-not-there")
    store = remote_driver.open(url)
    calls = [lambda name: store.put(name, b"x"), lambda name: store.put_new(name, b"x"), store.get]
    for call in [*calls, lambda name: list(store.list(""))]:
        with pytest.raises(NoStoreError, match=f"{PLACE}-that-is-not-there does not exist") as caught:
            call("meta/1")
        assert "\n" not in str(caught.value)
    with pytest.raises((NoStoreError, ObjectMissingError)):
        store.head("meta/1")  # the answer to HEAD does not say what is missing


def test_what_the_library_raises_does_not_get_out(remote_driver: Driver) -> None:
    """A server that is gone: every call says so, as something that may pass."""
    gone = {name: value for name, value in remote_driver.environment.items() if "://" in value}
    store = remote_driver.open(remote_driver.new_url(), **{name: "http://127.0.0.1:1" for name in gone})
    calls = [*calls_upon(store), lambda name: list(store.list("")), lambda name: store.now_ns()]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="refused") as caught:
            call("meta/1")
        assert "\n" not in str(caught.value)
