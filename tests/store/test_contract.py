"""The contract of cubefs/store/base.py, run against every driver. A new driver is one line in DRIVERS."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreError
from cubefs.model import MIB
from cubefs.store import Store, open_store

DRIVERS: dict[str, Callable[[Path], str]] = {  # name -> makes the URL of an empty store
    "local": lambda path: f"local://{path}/store",
}


@pytest.fixture(params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(driver: str, tmp_path: Path) -> Store:
    return open_store(DRIVERS[driver](tmp_path), create=True)


def listed(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.name for info in store.list(prefix, start_after=start_after)]


@pytest.mark.parametrize("verb", ["put", "put_new"])
@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 16 * MIB])
def test_what_was_put_is_got(store: Store, verb: str, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    getattr(store, verb)("packs/6e/fa/one", data)
    assert store.get("packs/6e/fa/one") == data
    assert store.head("packs/6e/fa/one").size_bytes == size_bytes
    assert [info.size_bytes for info in store.list("")] == [size_bytes]


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


@pytest.mark.parametrize("name", ["a", "packs/00/00/aa", "packs"])
def test_a_missing_object_is_named(store: Store, name: str) -> None:
    store.put("packs/00/00/bb", b"x")
    for call in (
        lambda: store.get(name),
        lambda: store.head(name),
        lambda: store.get_range(name, start=0, length=1),
    ):
        with pytest.raises(ObjectMissingError, match=name) as caught:
            call()
        assert store.describe() in str(caught.value)


def test_ranges(store: Store) -> None:
    data = os.urandom(100_000)
    store.put("a", data)
    for start, length in [(0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321)]:
        assert store.get_range("a", start=start, length=length) == data[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (1000, 5), (-1, 3), (0, 0), (0, -1)])
def test_a_range_that_is_not_there_is_refused(store: Store, start: int, length: int) -> None:
    store.put("a", b"0123456789")
    with pytest.raises(StoreError, match="a") as caught:
        store.get_range("a", start=start, length=length)
    assert not isinstance(caught.value, ObjectMissingError)


UNUSUAL = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", ".tmp-1", "a/.b", "a b", "a\0b", "a\nb"]
UNUSUAL += ["ä", "a\\b", "a%b", "a*", "a?b", "x" * 201, "/".join(["abcdefgh"] * 60), "\udc80", "a\n"]


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_names_are_refused(store: Store, name: str) -> None:
    for call in (
        lambda: store.put(name, b""),
        lambda: store.put_new(name, b""),
        lambda: store.get(name),
        lambda: store.head(name),
        lambda: store.get_range(name, start=0, length=1),
        lambda: store.delete(name),
    ):
        with pytest.raises(StoreError, match="unusable object name"):
            call()


@pytest.mark.parametrize(
    "prefix", ["/", "../", "./", "a/../../", "a//", "a/./", ".x/", "*", "a b", "\0", "a" * 600]
)
def test_unusual_prefixes_are_refused(store: Store, prefix: str) -> None:
    with pytest.raises(StoreError, match="unusable prefix"):
        list(store.list(prefix))


def test_usual_names_are_accepted(store: Store) -> None:
    names = ["cubefs", "A.b_c-9", "a/b/c/d/e/f", "keys/passphrase-00ff", "x" * 200, "-", "a-b", "a0"]
    for name in names:
        store.put(name, name.encode())
    assert listed(store) == sorted(names)
    assert all(store.get(name) == name.encode() for name in names)


def test_listing_pages_over_thousands(store: Store) -> None:
    names = [f"meta/{number:05d}" for number in range(2300)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b""), reversed(names)))
    assert listed(store, "meta/") == names
    assert listed(store, "meta/", "meta/01234") == names[1235:]
    assert listed(store, "meta/", "meta/01234-") == names[1235:]
    assert listed(store, "meta/", "meta/99999") == []
    assert listed(store, "meta/0000", "meta/00003") == names[4:10]
    pages, last = [], ""
    while page := [info.name for info, _ in zip(store.list("", start_after=last), range(1000), strict=False)]:
        pages.append(len(page))
        last = page[-1]
    assert pages == [1000, 1000, 300]


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


@settings(max_examples=60, deadline=None)
@given(names=name_lists.map(without_nesting), data=st.data())
@pytest.mark.parametrize("driver_name", sorted(DRIVERS))
def test_listing_is_that_of_a_flat_sorted_store(driver_name: str, names: list[str], data: st.DataObject) -> None:
    cuts = ["", *names, *(name[:stop] for name in names for stop in range(1, len(name)))]
    prefix = data.draw(st.sampled_from(cuts))
    start_after = data.draw(st.sampled_from(cuts))
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(DRIVERS[driver_name](Path(directory)), create=True)
        for name in names:
            store.put(name, b"")
        expected = sorted(name for name in names if name.startswith(prefix) and name > start_after)
        assert listed(store, prefix, start_after) == expected


def test_of_many_exclusive_puts_one_wins(store: Store) -> None:
    barrier = threading.Barrier(32)
    won: list[int] = []

    def contend(number: int) -> None:
        barrier.wait()
        for turn in range(5):
            try:
                store.put_new(f"meta/{turn}", b"%d" % number)
                won.append(turn)
                assert store.get(f"meta/{turn}") == b"%d" % number
            except ObjectExistsError:
                assert store.get(f"meta/{turn}") != b"%d" % number

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(contend, range(32)))
    assert sorted(won) == [0, 1, 2, 3, 4]


def test_many_callers_at_once(store: Store) -> None:
    """Readers of an object that is being replaced see one whole body or another, never a mixture."""

    def work(number: int) -> None:
        own, shared = f"packs/{number % 4:02d}/{number}", "shared"
        for turn in range(8):
            body = bytes([number, turn]) * 3000
            store.put(own, body)
            assert store.get(own) == body
            store.put(shared, body)
            seen = store.get(shared)
            assert seen == seen[:2] * 3000
            assert store.get_range(own, start=2, length=2) == body[:2]
            assert own in listed(store, "packs/")
        store.delete(own)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))
    assert listed(store) == ["shared"]


def test_a_second_instance_sees_everything(driver: str, tmp_path: Path) -> None:
    first = open_store(DRIVERS[driver](tmp_path), create=True)
    second = open_store(DRIVERS[driver](tmp_path))
    first.put("a/b", b"1")
    assert second.get("a/b") == b"1"
    second.delete("a/b")
    assert listed(first) == []
    assert first.describe() == second.describe()


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
