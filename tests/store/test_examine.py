"""`cubefs store-test`: every lie is found, an honest store is believed, and nothing of ours stays behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cubefs.errors import StoreError, StoreUnavailableError, StoreUnsuitableError
from cubefs.model import KIB, MIB
from cubefs.store.base import ObjectInfo, Store
from cubefs.store.examine import SHORT, Plan, Result, Verdict, examine
from cubefs.store.examine_speed import Budget
from cubefs.store.local import LocalStore
from tests.support.examining import ALONE, IN_SHORT, NAMES, QUICK, examined, found, left_in
from tests.support.faulty_store import FaultyStore
from tests.support.lying_stores import (
    FOREVER_S,
    AppendOnly,
    ChecksThenActs,
    HonestStore,
    IgnoresCondition,
    KeepsDeleted,
    LateStore,
    ManualClock,
    RefusesFree,
    ReplicatedStore,
    SaysDone,
    ShortNames,
    WrongListings,
    WrongRanges,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


# -- honest stores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [SHORT, QUICK, replace(QUICK, budget=Budget(MIB, 0.1, (1, 4)))])
def test_an_honest_store_is_believed(clock: ManualClock, plan: Plan) -> None:
    store = HonestStore(clock)
    store.put("precious", b"data")
    report = examined(store, clock, plan)
    assert [result.verdict for result in report.results] == [Verdict.OK] * len(report.results)
    expected = [name for name in NAMES if plan.budget or name not in ("latency", "throughput")]
    assert [result.name for result in report.results] == (IN_SHORT if plan is SHORT else expected)
    assert (report.verdict(), report.is_suitable, report.settle_s) == ("suitable", True, 0)
    assert (report.retry_count, report.leftover) == (0, None)
    assert left_in(store) == ["precious"]


def test_a_local_store_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for plan in (SHORT, QUICK):
        assert examine(LocalStore(tmp_path), plan).verdict() == "suitable"
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_the_short_form_asks_little(clock: ManualClock) -> None:
    store = FaultyStore(HonestStore(clock))
    report = examined(store, clock, SHORT)
    assert sum(store.calls.values()) <= 30  # deletions of several count one by one here
    assert report.call_count <= 27


def test_everything_is_under_a_fresh_prefix(clock: ManualClock) -> None:
    names: list[str] = []
    store = FaultyStore(HonestStore(clock))
    store.hook = lambda verb, name: names.append(name)
    for _ in range(2):
        examine(store, QUICK)
    prefixes = {name.partition("/")[0] for name in names}
    assert len(prefixes) == 2
    assert all(len(prefix) == len("store-test-") + 16 and prefix.startswith("store-test-") for prefix in prefixes)


# -- late ------------------------------------------------------------------------------------------------------

LATE = {
    "put": "read_after_put",
    "overwrite": "read_after_overwrite",
    "delete": "read_after_delete",
    "listed": "listing_after_put",
    "unlisted": "listing_after_delete",
}


@pytest.mark.parametrize("plan", [ALONE, QUICK], ids=["short", "full"])
@pytest.mark.parametrize(("late_s", "settle_s"), [(0.4, 1), (1.3, 2), (4.0, 5), (7.0, 10)])
@pytest.mark.parametrize("kind", sorted(LATE))
def test_a_late_store_is_suitable_with_a_settle_delay(
    clock: ManualClock, kind: str, late_s: float, settle_s: int, plan: Plan
) -> None:
    report = examined(LateStore(clock, **{kind: late_s}), clock, plan)
    result = found(report, LATE[kind])
    worst_s = result.figures["worst_delay_s"]
    assert isinstance(worst_s, float) and late_s <= worst_s < late_s + 1.01 and worst_s < 1.6 * late_s
    assert result.verdict is Verdict.WARNING and f"{worst_s:.1f} s" in result.sentence
    others = [each for each in report.results if each.name not in (LATE[kind], "paging")]
    assert all(each.verdict is Verdict.OK for each in others)
    reads = kind in ("put", "overwrite")
    assert report.settle_s == (settle_s if reads else 0)
    assert report.verdict() == (f"suitable, with -o settle={settle_s}s" if reads else "suitable")


@pytest.mark.parametrize("plan", [ALONE, QUICK], ids=["short", "full"])
@pytest.mark.parametrize(
    ("kind", "verdict", "says"),
    [
        ("put", Verdict.BAD, "could not be read after 30 s"),
        ("overwrite", Verdict.BAD, "still had its old contents after 30 s"),
        ("delete", Verdict.BAD, "acknowledged but not done"),
        ("listed", Verdict.BAD, "listings miss objects"),
        ("unlisted", Verdict.WARNING, "still listed after 30 s"),
    ],
)
def test_what_is_never_shown(clock: ManualClock, kind: str, verdict: Verdict, says: str, plan: Plan) -> None:
    """Late for ever: nothing that cubefs could wait for."""
    report = examined(LateStore(clock, **{kind: FOREVER_S}), clock, plan)
    result = found(report, LATE[kind])
    assert (result.verdict, result.figures["worst_delay_s"]) == (verdict, None)
    assert says in result.sentence
    assert report.is_suitable is (verdict is Verdict.WARNING)
    if not report.is_suitable:
        assert report.verdict().startswith("NOT suitable: ")
        assert report.settle_s == 0


def test_a_store_that_remembers_what_was_missing(clock: ManualClock) -> None:
    report = examined(LateStore(clock, remembered=3.0), clock)
    assert found(report, "read_after_put").figures["late"] == 2  # of four rounds, every second asks before
    assert report.settle_s >= 5


@pytest.mark.parametrize("kind", ["put", "overwrite", "delete"])
def test_replicas_that_answer_in_turn(clock: ManualClock, kind: str) -> None:
    """The first answer is right, the next one is old: one right answer proves nothing."""
    report = examined(ReplicatedStore(clock, **{kind: 2.0}), clock)
    result = found(report, LATE[kind])
    assert result.verdict is Verdict.WARNING
    assert result.figures["late"] == 4


# -- conditional put -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (IgnoresCondition, "an existing object was overwritten"),
        (SaysDone, "a second put of the same name was not refused"),
        (RefusesFree, "an existing object was overwritten"),
    ],
)
def test_a_conditional_put_that_is_none(
    clock: ManualClock, make: Callable[[ManualClock], Store], says: str, plan: Plan
) -> None:
    report = examined(make(clock), clock, plan)
    result = found(report, "conditional_put")
    assert result.verdict is Verdict.BAD and says in result.sentence
    assert report.verdict() == f"NOT suitable: {result.sentence}"


def test_of_many_at_once_several_get_the_name(clock: ManualClock) -> None:
    """As with OpenStack Swift: what comes later is refused, so cubefs can work, but a person should know."""
    report = examined(ChecksThenActs(clock), clock)
    result = found(report, "conditional_put")
    assert result.verdict is Verdict.WARNING and "of 16 at once 2 got it" in result.sentence
    assert result.figures == {"races": 4, "contenders": 16, "winners": 2}
    assert report.is_suitable


def test_the_winner_is_told_and_the_loser_stored(clock: ManualClock) -> None:
    report = examined(ChecksThenActs(clock, tells=False), clock)
    assert "another one's contents are there" in found(report, "conditional_put").sentence
    assert not report.is_suitable


def test_a_free_name_that_nobody_gets(clock: ManualClock) -> None:
    class Selfish(HonestStore):
        def put_new(self, name: str, data: bytes | memoryview) -> None:
            if "/race/" in name:
                super().put(name, b"x")
            super().put_new(name, data)

    assert "nobody got" in found(examined(Selfish(clock), clock), "conditional_put").sentence


def test_a_conditional_put_that_does_not_exist(clock: ManualClock) -> None:
    store = FaultyStore(HonestStore(clock))
    store.fail("put_new", StoreUnsuitableError("no If-None-Match here"), times=99)
    report = examined(store, clock, SHORT)
    assert report.verdict() == "NOT suitable: no If-None-Match here"


def test_a_repeated_put_that_finds_its_own_bytes_is_no_lie(clock: ManualClock) -> None:
    """The first answer got lost on the way, the repetition is refused: that is how it must be."""
    store = FaultyStore(HonestStore(clock))
    store.fail("put_new", StoreUnavailableError("cut"), times=5, done=True)
    report = examined(store, clock)  # one name in sequence, four for many at once
    assert report.verdict() == "suitable"
    assert (report.retry_count, report.last_retry) == (5, "cut")


# -- contents, ranges, names, listings -------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if data else data


def truncated(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
@pytest.mark.parametrize("verb", ["put", "put_new", "get"])
@pytest.mark.parametrize(
    ("spoil", "says"), [(flipped, "byte 1,023 changed"), (truncated, "of 1,024 bytes 1,023 came")]
)
def test_other_bytes_than_were_stored(
    clock: ManualClock, verb: str, spoil: Callable[[bytes], bytes], says: str, plan: Plan
) -> None:
    store = FaultyStore(HonestStore(clock))
    store.spoil(verb, spoil, times=100_000)
    report = examined(store, clock, plan)
    result = found(report, "contents")
    assert result.verdict is Verdict.BAD
    assert "what was stored is not what is read back" in result.sentence and says in result.sentence
    assert not report.is_suitable


def test_damage_that_only_large_objects_have(clock: ManualClock) -> None:
    class Large(HonestStore):
        def put(self, name: str, data: bytes | memoryview) -> None:
            super().put(name, bytes(data)[: 64 * KIB - 1])

    report = examined(Large(clock), clock)
    assert "of 65,536 bytes 65,535 came back" in found(report, "contents").sentence
    assert found(report, "read_after_put").verdict is Verdict.OK


def test_damage_on_the_way_is_a_warning(clock: ManualClock) -> None:
    store = FaultyStore(HonestStore(clock))
    store.spoil("get", flipped)
    report = examined(store, clock, SHORT)
    result = found(report, "contents")
    assert result.verdict is Verdict.WARNING and "right when read again" in result.sentence
    assert report.verdict() == "suitable"


def test_damage_that_shows_under_load(clock: ManualClock) -> None:
    class Loaded(HonestStore):
        def put(self, name: str, data: bytes | memoryview) -> None:
            super().put(name, flipped(bytes(data)) if "throughput-4" in name else data)

    plan = replace(QUICK, budget=Budget(MIB, 0.1, (1, 4)))
    assert "byte 1,048,575 changed" in found(examined(Loaded(clock), clock, plan), "contents").sentence


@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda data, start, length: data[start + 1 : start + 1 + length], "came back"),
        (lambda data, start, length: data, "came back"),
        (lambda data, start, length: data[start : start + length][: length - 1], "came back"),
        (lambda data, start, length: data[start : start + length], "beyond the end of an object is not refused"),
    ],
    ids=["shifted", "whole", "short", "beyond"],
)
def test_wrong_ranges(clock: ManualClock, wrong: Callable[[bytes, int, int], bytes], says: str, plan: Plan) -> None:
    result = found(examined(WrongRanges(clock, wrong), clock, plan), "range")
    assert result.verdict is Verdict.BAD and says in result.sentence


def test_long_names_that_are_cut(clock: ManualClock) -> None:
    result = found(examined(ShortNames(clock), clock), "names")
    assert (result.verdict, result.sentence) == (Verdict.BAD, "two objects with long names are taken for one")


def test_long_names_that_are_refused(clock: ManualClock) -> None:
    def refuse(verb: str, name: str) -> None:
        if verb == "put" and len(name) > 255:
            raise StoreError("KeyTooLong")

    store = FaultyStore(HonestStore(clock))
    store.hook = refuse
    assert found(examined(store, clock), "names") == Result("names", Verdict.BAD, "KeyTooLong")


def after(infos: list[ObjectInfo], start_after: str) -> list[ObjectInfo]:
    return [info for info in infos if info.name > start_after]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda infos, start_after: after(infos, start_after)[:1000], "listings miss objects: 100 of 1,100"),
        (lambda infos, start_after: after(infos, start_after)[::-1], "not in the order of the names"),
        (lambda infos, start_after: infos, "from the middle on"),
        (lambda infos, start_after: [i for i in infos if i.name >= start_after], "from the middle on"),
        (lambda infos, start_after: after(infos, start_after) * 2, "2,200 names listed of 1,100 objects"),
    ],
    ids=["one page", "order", "start_after", "start_after included", "twice"],
)
def test_wrong_listings(
    clock: ManualClock, wrong: Callable[[list[ObjectInfo], str], list[ObjectInfo]], says: str
) -> None:
    report = examined(WrongListings(clock, wrong), clock)
    assert found(report, "paging").verdict is Verdict.BAD
    assert says in found(report, "paging").sentence


# -- deleting, the clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [SHORT, QUICK, replace(QUICK, budget=Budget(MIB, 0.1, (1, 4)))])
def test_an_append_only_key_is_fine(clock: ManualClock, plan: Plan) -> None:
    store = AppendOnly(clock)
    report = examined(store, clock, plan)
    assert report.verdict() == "suitable"
    assert found(report, "deleting").verdict is Verdict.WARNING
    assert [each.name for each in report.results if each.verdict is not Verdict.OK] == ["deleting"]
    assert report.leftover is not None
    assert report.leftover.count == len(left_in(store)) < 120
    assert report.leftover.where.startswith("memory://test, store-test-")
    assert all(info.size_bytes <= KIB for info in store.list(""))  # what was large has been emptied


@pytest.mark.parametrize(
    ("which", "name", "plan"),
    [
        ("consistency", "read_after_delete", ALONE),
        ("consistency", "read_after_delete", QUICK),
        ("deleting-2", "deleting", QUICK),
    ],
)
def test_deletions_that_are_not_done(clock: ManualClock, which: str, name: str, plan: Plan) -> None:
    report = examined(KeepsDeleted(clock, which), clock, plan)
    assert found(report, name).verdict is Verdict.BAD
    assert "deleting is acknowledged but not done" in report.verdict()


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "says"),
    [
        (4, Verdict.OK, "agree"),
        (7, Verdict.WARNING, "7 s ahead of"),
        (-600, Verdict.WARNING, "10 minutes behind"),
        (3600, Verdict.BAD, "60 minutes ahead of"),
        (-3600, Verdict.BAD, "60 minutes behind"),
    ],
)
@pytest.mark.parametrize("plan", [SHORT, QUICK], ids=["short", "full"])
def test_the_clock(clock: ManualClock, ahead_s: int, verdict: Verdict, says: str, plan: Plan) -> None:
    class Ahead(HonestStore):
        def now_ns(self) -> int:
            return self.time.time_ns() + ahead_s * 10**9

    report = examined(Ahead(clock), clock, plan)
    result = found(report, "clock")
    assert result.verdict is verdict and says in result.sentence
    assert result.figures["ahead_s"] == pytest.approx(ahead_s, abs=0.01)
    assert report.is_suitable is (verdict is not Verdict.BAD)
