"""`cubefs store-test` when there is no verdict to be had, its report, mkfs's refusal, and the real servers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cubefs.errors import (
    NoStoreError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreLiesError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.model import MIB
from cubefs.store import Store, open_store
from cubefs.store.base import ObjectInfo
from cubefs.store.examine import SHORT, Plan, Verdict, examine, require_suitable
from cubefs.store.examine_speed import Budget
from tests.support.examining import IN_SHORT, QUICK, examined, found, left_in, probe_of
from tests.support.faulty_store import FaultyStore
from tests.support.lying_stores import HonestStore, IgnoresCondition, LateStore, ManualClock
from tests.support.servers.swift import SwiftServer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


# -- no verdict ------------------------------------------------------------------------------------------------


def test_a_hiccup_is_counted_and_condemns_nobody(clock: ManualClock) -> None:
    store = FaultyStore(HonestStore(clock))
    for verb in ("put", "put_new", "get", "get_range", "delete"):
        store.fail(verb, StoreBusyError("slow down"), times=2)
    report = examined(store, clock)
    assert report.verdict() == "suitable"
    assert (report.retry_count, report.last_retry) == (10, "slow down")


@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
@pytest.mark.parametrize("verb", ["put", "put_new", "get", "get_range", "delete"])
@pytest.mark.parametrize(
    "error", [StoreUnavailableError("down"), NoStoreError("no bucket"), StoreFullError("full")]
)
def test_without_an_answer_there_is_no_verdict(
    clock: ManualClock, verb: str, error: StoreError, plan: Plan
) -> None:
    store = FaultyStore(HonestStore(clock))
    answers = FaultyStore(store)
    answers.fail(verb, error, times=60)
    with pytest.raises(type(error), match=str(error)):
        examined(answers, clock, plan)
    if verb != "delete":
        assert left_in(store) == []


def test_a_store_that_asks_for_minutes_is_not_waited_for(clock: ManualClock) -> None:
    store = FaultyStore(HonestStore(clock))
    store.fail("put", StoreBusyError("busy", retry_after_s=300), times=99)
    with pytest.raises(StoreBusyError, match=r"left alone for 30\d s"):
        examined(store, clock, SHORT)


@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
def test_credentials_that_may_only_read(clock: ManualClock, plan: Plan) -> None:
    store = FaultyStore(HonestStore(clock))
    for verb in ("put", "put_new"):
        store.fail(verb, StoreDeniedError("403"), times=99)
    with pytest.raises(StoreDeniedError, match=r"may read but not write in memory://test.*403\)$"):
        examined(store, clock, plan)


def test_what_may_have_stayed_is_named(clock: ManualClock) -> None:
    """The store goes away in the middle: nobody can tell then what is still there."""
    store = FaultyStore(HonestStore(clock))

    def fail(verb: str, name: str) -> None:
        if verb in ("get_range", "delete"):
            raise StoreUnavailableError("down")

    store.hook = fail
    with pytest.raises(
        StoreUnavailableError, match=r"^down; \d+ test objects may stay in memory://test, store-test-"
    ):
        examined(store, clock, SHORT)


def test_credentials_that_may_do_nothing(clock: ManualClock) -> None:
    class Locked(HonestStore):
        def put(self, name: str, data: bytes | memoryview) -> None:
            raise StoreDeniedError("no such key: put")

        put_new = put

        def list(self, prefix: str, *, start_after: str = "") -> list[ObjectInfo]:  # type: ignore[override]
            raise StoreDeniedError("no such key: list")

    with pytest.raises(StoreDeniedError, match=r"^no such key: list$"):
        examined(Locked(clock), clock, SHORT)


@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
def test_interrupted_it_tidies_up(clock: ManualClock, plan: Plan) -> None:
    store = FaultyStore(HonestStore(clock))

    def interrupt(verb: str, name: str) -> None:
        if verb == "get_range":
            raise KeyboardInterrupt

    store.hook = interrupt
    with pytest.raises(KeyboardInterrupt):
        examined(store, clock, plan)
    assert left_in(store.inner) == []


# -- the report ------------------------------------------------------------------------------------------------


def test_speed_is_measured_by_the_clock(clock: ManualClock) -> None:
    """A line of 1 MiB/s with 50 ms for a request: the objects shrink so that nobody waits for long."""

    class Slow(HonestStore):
        def put(self, name: str, data: bytes | memoryview) -> None:
            self.time.sleep(0.05 + len(data) / MIB)
            super().put(name, data)

        def get(self, name: str, *, newest: bool = False) -> bytes:
            data = super().get(name, newest=newest)
            self.time.sleep(0.05 + len(data) / MIB)
            return data

    plan = replace(QUICK, sizes_bytes=(1,), budget=Budget(8 * MIB, 3.0, (1, 4)))
    report = examined(Slow(clock), clock, plan)
    figures = found(report, "latency").figures
    for verb in ("put", "get"):
        assert figures[f"{verb}_count"] == 30
        for what in ("min", "median", "p95"):
            assert figures[f"{verb}_{what}_s"] == pytest.approx(0.051, abs=0.001)
    figures = found(report, "throughput").figures
    assert (figures["object_1_bytes"], figures["object_4_bytes"]) == (2.75 * MIB, 0.5 * MIB)
    assert figures["up_1_bytes_per_s"] == pytest.approx(0.98 * MIB, rel=0.02)
    assert figures["down_1_bytes_per_s"] == pytest.approx(0.98 * MIB, rel=0.02)


def test_json_has_stable_keys(clock: ManualClock) -> None:
    report = examined(LateStore(clock, put=1.3), clock, SHORT)
    fields = json.loads(json.dumps(report.to_json()))
    assert list(fields) == [
        *("url", "suitable", "verdict", "settle_s", "checks", "calls", "retries", "last_retry"),
        *("left_objects", "left_where", "left_why", "seconds"),
    ]
    assert (fields["suitable"], fields["url"]) == (True, "memory://test")
    assert fields["verdict"] == f"suitable, with -o settle={fields['settle_s']}s"
    assert [check["name"] for check in fields["checks"]] == IN_SHORT
    assert all(list(check) == ["name", "verdict", "sentence", "figures"] for check in fields["checks"])
    late = fields["checks"][3]
    assert (late["name"], late["verdict"]) == ("read_after_put", "warning")
    assert set(late["figures"]) == {"times", "late", "worst_delay_s"}


def test_mkfs_refuses_with_one_line(clock: ManualClock) -> None:
    store = IgnoresCondition(clock)
    with pytest.raises(StoreUnsuitableError) as caught:
        require_suitable(store, probe=probe_of(store, clock))
    assert str(caught.value).startswith("memory://test is NOT suitable: conditional put cannot be relied on: ")
    assert "\n" not in str(caught.value) and "cubefs store-test" in str(caught.value)
    assert caught.value.exit_code == 8
    assert left_in(store) == []
    assert not isinstance(caught.value, StoreLiesError)


# -- real servers ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["s3", "swift"])
def server_store(
    request: pytest.FixtureRequest, swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """A prefix of a bucket or container of a real server."""
    name = f"examined-{request.param}"
    if request.param == "s3":
        swift_server.make_bucket(name)
        environment = swift_server.s3_environment()
    else:
        swift_server.make_container(name)
        environment = swift_server.swift_environment()
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return open_store(f"{request.param}://{name}/some/prefix")


@pytest.mark.parametrize(
    "plan", [SHORT, replace(QUICK, contenders=4, races=1, paging_count=30)], ids=["short", "full"]
)
def test_real_servers_are_suitable(server_store: Store, plan: Plan) -> None:
    report = examine(server_store, plan)
    assert report.verdict() == "suitable"
    # of several at once more than one may get a name: Swift looks first and puts then
    others = [result for result in report.results if result.name != "conditional_put"]
    assert [result.verdict for result in others] == [Verdict.OK] * len(others)
    assert report.leftover is None
    assert left_in(server_store) == []
