"""Read-after-write verification, against a store that lies on command."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubefs.errors import ObjectExistsError, StoreLiesError, StoreUnavailableError
from cubefs.store import open_store
from cubefs.store.retry import Retrying
from cubefs.store.verify import ATTEMPTS, Verify, put_new_verified, put_verified
from tests.support.faulty_store import FaultyStore, Spoil

DATA = bytes(range(256)) * 20

LIES: dict[str, Spoil] = {
    "flipped": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "truncated": lambda data: data[:-1],
    "extended": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "other": lambda data: bytes(len(data)),
}
lies = pytest.mark.parametrize("lie", LIES.values(), ids=LIES)


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStore:
    return FaultyStore(open_store(f"local://{tmp_path}/store", create=True))


@pytest.mark.parametrize("data", [b"", DATA, memoryview(DATA)[10:20]])
def test_the_honest_case(faulty: FaultyStore, data: bytes | memoryview) -> None:
    assert put_verified(faulty, "a", data) == "full"
    put_new_verified(faulty, "b", data)
    assert faulty.inner.get("a") == faulty.inner.get("b") == data
    assert faulty.calls == {"put": 1, "put_new": 1, "get": 2}


@lies
def test_a_wrong_write_is_put_again(faulty: FaultyStore, lie: Spoil) -> None:
    faulty.spoil("put", lie, times=ATTEMPTS - 1)
    put_verified(faulty, "a", DATA)
    assert faulty.inner.get("a") == DATA


@lies
@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_store_that_goes_on_lying_is_given_up(faulty: FaultyStore, lie: Spoil, verb: str) -> None:
    faulty.spoil(verb, lie, times=1000)
    with pytest.raises(StoreLiesError, match=f"local://.* accepted a {ATTEMPTS} times"):
        put_verified(faulty, "a", DATA)
    assert faulty.calls["put"] == ATTEMPTS


def test_a_write_that_leaves_nothing(faulty: FaultyStore) -> None:
    """A store may accept an object and drop it."""

    def drop(verb: str, name: str) -> None:
        if verb in ("get", "head"):
            faulty.inner.delete(name)

    faulty.hook = drop
    with pytest.raises(StoreLiesError):
        put_verified(faulty, "a", DATA)
    with pytest.raises(StoreLiesError):
        put_verified(faulty, "a", DATA, policy=Verify.HEAD)
    with pytest.raises(StoreLiesError):
        put_new_verified(faulty, "b", DATA)


def test_the_cheap_policy_sees_sizes_only(faulty: FaultyStore) -> None:
    faulty.spoil("put", LIES["truncated"])
    assert put_verified(faulty, "a", DATA, policy=Verify.HEAD) == "head"
    assert (faulty.inner.get("a"), faulty.calls["put"], faulty.calls["get"]) == (DATA, 2, 0)
    faulty.spoil("put", LIES["flipped"])
    put_verified(faulty, "a", DATA, policy=Verify.HEAD)
    assert faulty.inner.get("a") != DATA


def test_somebody_elses_object_stays(faulty: FaultyStore) -> None:
    faulty.inner.put("a", b"theirs")
    with pytest.raises(ObjectExistsError, match=r"a exists already.*with other contents"):
        put_new_verified(faulty, "a", DATA)
    assert faulty.inner.get("a") == b"theirs"


def test_our_own_earlier_attempt_is_success(faulty: FaultyStore) -> None:
    faulty.inner.put("a", DATA)
    put_new_verified(faulty, "a", DATA)


def test_a_lost_answer_is_no_conflict(faulty: FaultyStore) -> None:
    faulty.fail("put_new", StoreUnavailableError("no answer"), done=True)
    put_new_verified(Retrying(faulty, sleep=lambda seconds: None), "a", DATA)
    assert faulty.calls["put_new"] == 2
    assert faulty.inner.get("a") == DATA


@lies
def test_an_exclusive_write_is_not_overwritten_blindly(faulty: FaultyStore, lie: Spoil) -> None:
    faulty.spoil("put_new", lie)
    with pytest.raises(StoreLiesError, match="accepted a"):
        put_new_verified(faulty, "a", DATA)
    assert faulty.calls["put"] == 0


@lies
def test_a_wrong_read_is_read_again(faulty: FaultyStore, lie: Spoil) -> None:
    faulty.spoil("get", lie, times=ATTEMPTS - 1)
    put_new_verified(faulty, "a", DATA)
    assert faulty.inner.get("a") == DATA


def test_errors_of_the_store_are_not_hidden(faulty: FaultyStore) -> None:
    for verb in ("put", "get"):
        faulty.fail(verb, StoreUnavailableError("down"))
        with pytest.raises(StoreUnavailableError):
            put_verified(faulty, "a", DATA)
