"""Read-after-write verification, against a store that lies or takes its time on command."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import ObjectExistsError, StoreLiesError, StoreUnavailableError, UsageError
from cubefs.store import open_store
from cubefs.store.meter import Meter
from cubefs.store.retry import Retrying
from cubefs.store.verify import (
    PATIENCE,
    PUTS_MAX,
    Confirmation,
    Done,
    GiveUp,
    How,
    Look,
    Outcome,
    Policy,
    PutAgain,
    Step,
    lies,
    look,
    put_new_verified,
    put_verified,
)
from tests.support.faulty_store import FaultyStore, Spoil

DATA = bytes(range(256)) * 20

LIES: dict[str, Spoil] = {
    "flipped": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "truncated": lambda data: data[:-1],
    "extended": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "other": lambda data: bytes(len(data)),
}
every_lie = pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
LOOKS_PER_PUT = 1 + PATIENCE.different_count  # at an object that stays different


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStore:
    return FaultyStore(open_store(f"local://{tmp_path}/store", create=True))


class Time:
    """Time that passes only while somebody waits; what is due then happens."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []
        self._due: list[tuple[float, Callable[[], None]]] = []

    def at(self, due_s: float, event: Callable[[], None]) -> None:
        self._due.append((due_s, event))

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds
        due = [event for due_s, event in self._due if due_s <= self.now_s]
        self._due = [(due_s, event) for due_s, event in self._due if due_s > self.now_s]
        for event in due:
            event()


@pytest.fixture
def passing() -> Time:
    return Time()


# -- policies ----------


@pytest.mark.parametrize("text", ["full", "head", "sample:10%", "sample:0.5%", "sample:99.999%", "sample:1%"])
def test_a_policy_is_what_it_says(text: str) -> None:
    assert str(Policy.parse(text)) == text
    assert Policy.parse(f" {text} ") == Policy.parse(text)


def test_all_of_it_is_full() -> None:
    assert Policy.parse("sample:100%") == Policy.parse("full") == Policy()


NO_SAMPLES = ["", ":", ":10", ":%", ":-1%", ":0%", ":101%", ":1e1%", ":nan%", ":1.%", ":10%%", ": 10%"]


@pytest.mark.parametrize("text", ["", "none", "FULL!", *[f"sample{rest}" for rest in NO_SAMPLES]])
def test_no_policies(text: str) -> None:
    with pytest.raises(UsageError, match=r"sample:10%") as caught:
        Policy.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("full", 1000), ("head", 0), ("sample:10%", 100), ("sample:99%", 990)]
)
def test_a_sample_has_its_size(text: str, expected: int) -> None:
    rng, policy = random.Random(1), Policy.parse(text)
    chosen = [policy.choose(rng) for _ in range(1000)]
    assert chosen.count(How.FULL) == pytest.approx(expected, abs=25 * (0 < expected < 1000))
    assert set(chosen) <= {How.FULL, How.HEAD}


def test_the_words_of_the_database() -> None:
    assert [how.value for how in How] == ["full", "head"]


# -- one look ----------


def look_at(store: FaultyStore, how: How) -> Outcome:
    return look(store, "a", how=how, size_bytes=len(DATA), matches=lambda data: data == DATA)


@every_lie
def test_a_look_in_full(faulty: FaultyStore, lie: Spoil) -> None:
    assert look_at(faulty, How.FULL) is Outcome.MISSING
    faulty.inner.put("a", lie(DATA))
    assert look_at(faulty, How.FULL) is Outcome.DIFFERENT
    faulty.inner.put("a", DATA)
    assert look_at(faulty, How.FULL) is Outcome.SAME
    assert faulty.calls == {"get": 3}


def test_a_look_at_the_head(faulty: FaultyStore) -> None:
    assert look_at(faulty, How.HEAD) is Outcome.MISSING
    faulty.inner.put("a", DATA[1:])
    assert look_at(faulty, How.HEAD) is Outcome.DIFFERENT
    faulty.inner.put("a", bytes(len(DATA)))
    assert look_at(faulty, How.HEAD) is Outcome.SAME
    assert faulty.calls == {"head": 3}


@pytest.mark.parametrize("how", How)
def test_a_look_asks_for_the_newest(faulty: FaultyStore, how: How) -> None:
    asked: list[bool] = []

    class Recording(FaultyStore):
        def get(self, name: str, *, newest: bool = False) -> bytes:
            asked.append(newest)
            return super().get(name, newest=newest)

        def head(self, name: str, *, newest: bool = False) -> object:
            asked.append(newest)
            return super().head(name, newest=newest)

    look_at(Recording(faulty), how)
    assert asked == [True]


@pytest.mark.parametrize("how", How)
def test_errors_are_no_outcome(faulty: FaultyStore, how: How) -> None:
    faulty.fail({How.FULL: "get", How.HEAD: "head"}[how], StoreUnavailableError("down"))
    with pytest.raises(StoreUnavailableError):
        look_at(faulty, how)


# -- what comes after a look ----------


def steps(outcomes: list[Outcome], meter: Meter | None = None, seed: int = 1, how: How = How.FULL) -> list[Step]:
    """Return what comes after these outcomes; the last is repeated until the end."""
    confirmation = Confirmation(rng=random.Random(seed), meter=meter, how=how)
    taken: list[Step] = []
    while not taken or not isinstance(taken[-1], Done | GiveUp):
        taken.append(confirmation.next(outcomes[min(len(taken), len(outcomes) - 1)]))
    return taken


def kinds(taken: list[Step]) -> list[type[Step]]:
    return [type(step) for step in taken]


@pytest.mark.parametrize("how", How)
def test_right_at_once(how: How) -> None:
    meter = Meter()
    assert steps([Outcome.SAME], meter, how=how) == [Done()]
    assert meter.statistics() == {f"verified_{how.value}_count": 1}


def test_the_settle_delay() -> None:
    assert Confirmation(settle_s=1.5).start() == 1.5
    assert Confirmation().start() == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_a_missing_object_is_waited_for(seed: int) -> None:
    meter = Meter()
    taken = steps([Outcome.MISSING], meter, seed)
    waits = [step.wait_s for step in taken if isinstance(step, Look)]
    assert sum(waits) == pytest.approx(PUTS_MAX * PATIENCE.missing_s)  # with jitter too
    per_put = kinds(taken).index(PutAgain)
    assert kinds(taken).count(PutAgain) == PUTS_MAX - 1
    assert taken[-1] == GiveUp()
    assert 6 <= per_put <= 20  # requests
    assert waits[0] <= 0.25
    assert max(waits) <= PATIENCE.missing_longest_s
    assert waits[4] > 2 * waits[0]
    again = [step.wait_s for step in taken if isinstance(step, PutAgain)]
    assert again[0] < again[1] <= 2 * PATIENCE.again_first_s
    assert meter.statistics() == {"verify_gave_up_count": 1, "verify_put_again_count": 2}


def test_other_contents_are_looked_at_again_for_a_moment() -> None:
    taken = steps([Outcome.DIFFERENT])
    once = [Look] * PATIENCE.different_count
    assert kinds(taken) == [*once, PutAgain, *once, PutAgain, *once, GiveUp]
    waits = [step.wait_s for step in taken[: len(once)] if isinstance(step, Look)]
    assert 1 < sum(waits) <= 2.1
    assert waits == sorted(waits)


def test_objects_do_not_come_back_together() -> None:
    assert len({tuple(map(str, steps([Outcome.MISSING], seed=seed))) for seed in range(50)}) == 50


@pytest.mark.parametrize("first", [Outcome.MISSING, Outcome.DIFFERENT])
def test_right_a_little_later(first: Outcome) -> None:
    meter = Meter()
    assert kinds(steps([first, first, Outcome.SAME], meter)) == [Look, Look, Done]
    assert meter.statistics() == {"verified_full_count": 1, "verify_late_count": 1}


def test_right_after_another_put() -> None:
    meter = Meter()
    taken = steps([Outcome.DIFFERENT] * LOOKS_PER_PUT + [Outcome.SAME], meter)
    assert kinds(taken) == [Look] * PATIENCE.different_count + [PutAgain, Done]
    assert meter.statistics() == {"verified_full_count": 1, "verify_late_count": 1, "verify_put_again_count": 1}


def test_what_is_not_ours_is_never_replaced() -> None:
    confirmation = Confirmation(may_replace=False)
    once = [Outcome.DIFFERENT] * LOOKS_PER_PUT
    assert kinds([confirmation.next(outcome) for outcome in once]) == [Look] * PATIENCE.different_count + [GiveUp]
    confirmation = Confirmation(may_replace=False)
    while isinstance(step := confirmation.next(Outcome.MISSING), Look):
        pass
    assert isinstance(step, PutAgain)
    assert confirmation.put_count == 2


@given(st.lists(st.sampled_from([Outcome.MISSING, Outcome.DIFFERENT]), min_size=1, max_size=200), st.integers())
def test_it_ends_whatever_is_seen(outcomes: list[Outcome], seed: int) -> None:
    taken = steps(outcomes, seed=seed)
    assert taken[-1] == GiveUp()
    assert kinds(taken).count(PutAgain) == PUTS_MAX - 1
    waits = [step.wait_s for step in taken if isinstance(step, Look | PutAgain)]
    assert all(wait_s > 0 for wait_s in waits)
    assert sum(waits) < PUTS_MAX * (PATIENCE.missing_s + 2.1) + 3
    assert len(taken) < 100


def test_the_error_names_all(faulty: FaultyStore) -> None:
    error = lies(faulty, "packs/1", 3)
    assert isinstance(error, StoreLiesError)
    assert faulty.describe() in str(error)
    assert "packs/1 3 times" in str(error)


# -- putting and waiting in one call ----------


@pytest.mark.parametrize("data", [b"", DATA, memoryview(DATA)[10:20]])
def test_the_honest_case(faulty: FaultyStore, passing: Time, data: bytes | memoryview) -> None:
    put_verified(faulty, "a", data, sleep=passing.sleep)
    put_new_verified(faulty, "b", data, sleep=passing.sleep)
    assert faulty.inner.get("a") == faulty.inner.get("b") == data
    assert faulty.calls == {"put": 1, "put_new": 1, "get": 2}
    assert passing.now_s == 0


def test_it_settles_after_every_put(faulty: FaultyStore, passing: Time) -> None:
    put_new_verified(faulty, "b", DATA, sleep=passing.sleep, settle_s=5.0)
    assert passing.waits == [5.0]
    faulty.spoil("put", LIES["empty"])
    put_verified(faulty, "a", DATA, sleep=passing.sleep, settle_s=5.0)
    assert passing.waits.count(5.0) == 3


@every_lie
@pytest.mark.parametrize("times", range(1, PUTS_MAX))
def test_a_wrong_write_is_put_again(faulty: FaultyStore, passing: Time, lie: Spoil, times: int) -> None:
    faulty.spoil("put", lie, times=times)
    meter = Meter()
    put_verified(faulty, "a", DATA, sleep=passing.sleep, meter=meter)
    assert faulty.inner.get("a") == DATA
    assert faulty.calls == {"put": times + 1, "get": times * LOOKS_PER_PUT + 1}
    assert meter.statistics()["verify_put_again_count"] == times


@every_lie
@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_store_that_goes_on_lying_is_given_up(faulty: FaultyStore, passing: Time, lie: Spoil, verb: str) -> None:
    faulty.spoil(verb, lie, times=1000)
    with pytest.raises(StoreLiesError, match=f"local://.* accepted a {PUTS_MAX} times"):
        put_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.calls == {"put": PUTS_MAX, "get": PUTS_MAX * LOOKS_PER_PUT}


def drop_what_was_put(faulty: FaultyStore) -> None:
    """Make the store accept objects and drop them."""

    def drop(verb: str, name: str) -> None:
        if verb in ("get", "head"):
            faulty.inner.delete(name)

    faulty.hook = drop


def test_a_write_that_leaves_nothing(faulty: FaultyStore, passing: Time) -> None:
    drop_what_was_put(faulty)
    with pytest.raises(StoreLiesError, match=f"a {PUTS_MAX} times"):
        put_verified(faulty, "a", DATA, sleep=passing.sleep)
    with pytest.raises(StoreLiesError):
        put_verified(faulty, "a", DATA, how=How.HEAD, sleep=passing.sleep)
    before_s = passing.now_s
    with pytest.raises(StoreLiesError, match=f"b {PUTS_MAX} times"):
        put_new_verified(faulty, "b", DATA, sleep=passing.sleep)
    assert faulty.calls["put_new"] == PUTS_MAX
    assert 60 <= passing.now_s - before_s < 70


def test_a_dropped_write_is_made_again(faulty: FaultyStore, passing: Time) -> None:
    drop_what_was_put(faulty)
    passing.at(30.0, lambda: setattr(faulty, "hook", lambda verb, name: None))
    put_new_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.inner.get("a") == DATA
    assert 1 < faulty.calls["put_new"] <= PUTS_MAX


@pytest.mark.parametrize("put", [put_verified, put_new_verified])
def test_an_object_may_take_seconds_to_appear(
    faulty: FaultyStore, passing: Time, put: Callable[..., None], tmp_path: Path
) -> None:
    """A put shows 12 s later; nothing is put again meanwhile."""
    hidden = open_store(f"local://{tmp_path}/hidden", create=True)
    slow = FaultyStore(faulty.inner)

    def hide(name: str, data: bytes | memoryview) -> None:
        slow.calls["put"] += 1
        hidden.put(name, data)
        passing.at(passing.now_s + 12.0, lambda: faulty.inner.put(name, hidden.get(name)))

    slow.put = slow.put_new = hide
    meter = Meter()
    put(slow, "a", DATA, sleep=passing.sleep, meter=meter)
    assert faulty.inner.get("a") == DATA
    assert slow.calls["put"] == 1
    assert 12 <= passing.now_s <= 16
    assert meter.statistics() == {"verified_full_count": 1, "verify_late_count": 1}


def test_an_old_version_may_be_seen_for_a_moment(faulty: FaultyStore, passing: Time) -> None:
    faulty.inner.put("a", b"before")
    faulty.spoil("get", lambda data: b"before", times=2)
    put_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.calls == {"put": 1, "get": 3}


def test_the_cheap_way_sees_sizes_only(faulty: FaultyStore, passing: Time) -> None:
    faulty.spoil("put", LIES["truncated"])
    meter = Meter()
    put_verified(faulty, "a", DATA, how=How.HEAD, sleep=passing.sleep, meter=meter)
    assert (faulty.inner.get("a"), faulty.calls["put"], faulty.calls["get"]) == (DATA, 2, 0)
    assert meter.statistics()["verified_head_count"] == 1
    faulty.spoil("put", LIES["flipped"])
    put_verified(faulty, "a", DATA, how=How.HEAD, sleep=passing.sleep)
    assert faulty.inner.get("a") != DATA


def test_somebody_elses_object_stays(faulty: FaultyStore, passing: Time) -> None:
    faulty.inner.put("a", b"theirs")
    with pytest.raises(ObjectExistsError, match=r"a exists already.*with other contents"):
        put_new_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.inner.get("a") == b"theirs"
    assert faulty.calls["put_new"] == 1
    assert passing.now_s < 3  # it is no secret for long


def test_somebody_elses_object_may_not_be_seen_at_first(faulty: FaultyStore, passing: Time) -> None:
    """The store says that the name is taken, and then that there is no such object."""
    faulty.fail("put_new", ObjectExistsError("taken"))
    passing.at(5.0, lambda: faulty.inner.put("a", b"theirs"))
    with pytest.raises(ObjectExistsError, match="with other contents"):
        put_new_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.calls["put_new"] == 1


def test_our_own_earlier_attempt_is_success(faulty: FaultyStore, passing: Time) -> None:
    faulty.inner.put("a", DATA)
    put_new_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert passing.now_s == 0
    faulty.fail("put_new", ObjectExistsError("taken"))
    passing.at(5.0, lambda: faulty.inner.put("b", DATA))
    put_new_verified(faulty, "b", DATA, sleep=passing.sleep)


def test_a_lost_answer_is_no_conflict(faulty: FaultyStore, passing: Time) -> None:
    faulty.fail("put_new", StoreUnavailableError("no answer"), done=True)
    put_new_verified(Retrying(faulty, sleep=lambda seconds: None), "a", DATA, sleep=passing.sleep)
    assert faulty.calls["put_new"] == 2
    assert faulty.inner.get("a") == DATA


@every_lie
def test_an_exclusive_write_is_not_overwritten_blindly(faulty: FaultyStore, passing: Time, lie: Spoil) -> None:
    faulty.spoil("put_new", lie)
    with pytest.raises(StoreLiesError, match="accepted a once"):
        put_new_verified(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.calls["put"] == 0
    assert faulty.calls["put_new"] == 1


@every_lie
@pytest.mark.parametrize("put", [put_verified, put_new_verified])
def test_a_wrong_read_is_read_again(
    faulty: FaultyStore, passing: Time, lie: Spoil, put: Callable[..., None]
) -> None:
    faulty.spoil("get", lie, times=PATIENCE.different_count)
    put(faulty, "a", DATA, sleep=passing.sleep)
    assert faulty.inner.get("a") == DATA
    assert faulty.calls["put"] + faulty.calls["put_new"] == 1


def test_errors_of_the_store_are_not_hidden(faulty: FaultyStore, passing: Time) -> None:
    for verb in ("put", "get"):
        faulty.fail(verb, StoreUnavailableError("down"))
        with pytest.raises(StoreUnavailableError):
            put_verified(faulty, "a", DATA, sleep=passing.sleep)
