"""Rates: never above, however it is asked; and how people write them."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import UsageError
from cubefs.store.rates import (
    BURST_BYTES_MIN,
    BURST_S,
    BYTES_PER_S_MAX,
    BYTES_PER_S_MIN,
    COUNT_MAX,
    AdaptiveRate,
    ByteBucket,
    OperationRate,
    SlidingWindow,
    format_byte_rate,
    format_operation_rate,
    parse_byte_rate,
    parse_operation_rate,
)

operation_rates = st.builds(OperationRate, st.integers(1, 8), st.sampled_from([0.1, 1.0, 5.0, 7.3]))
pauses = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 4.0)), max_size=60)


# -- operations ----------


def started(window: SlidingWindow, pauses_s: list[float], now_s: float = 1e6) -> list[float]:
    """Ask after each pause, wait as long as told, and return when the operations started."""
    times = []
    for pause_s in pauses_s:
        now_s += pause_s
        for _ in range(3):  # the clock's resolution may make a second wait necessary
            now_s += window.delay_s(now_s)
        window.take(now_s)
        times.append(now_s)
    return times


def most_in_any(times: list[float], interval_s: float) -> int:
    """Return the largest number of times in any half-open interval of this length, by trying all."""
    return max((sum(begin <= time < begin + interval_s for time in times) for begin in times), default=0)


@given(operation_rates, pauses)
def test_no_interval_has_more_operations(rate: OperationRate, pauses_s: list[float]) -> None:
    times = started(SlidingWindow(rate), pauses_s)
    assert most_in_any(times, rate.interval_s) <= rate.count


@given(operation_rates, pauses)
def test_no_operation_waits_longer_than_needed(rate: OperationRate, pauses_s: list[float]) -> None:
    window, now_s = SlidingWindow(rate), 0.0
    times: list[float] = []
    for pause_s in pauses_s:
        asked_s = now_s = now_s + pause_s
        while delay_s := window.delay_s(now_s):
            now_s += delay_s
        window.take(now_s)
        times.append(now_s)
        if now_s > asked_s:  # it had to wait: a little earlier would have been too early
            assert most_in_any([*times[:-1], now_s - 1e-6], rate.interval_s) > rate.count


@given(operation_rates, operation_rates, pauses, pauses)
def test_a_new_rate_counts_what_was_done(
    old: OperationRate, new: OperationRate, before: list[float], after: list[float]
) -> None:
    window = SlidingWindow(old)
    earlier = started(window, before)
    window.change(new)
    assert window.rate == new
    later = started(window, after, earlier[-1] if earlier else 0.0)
    assert most_in_any(earlier[-min(old.count, new.count) :] + later, new.interval_s) <= new.count


def test_what_starts_too_early_is_refused() -> None:
    window = SlidingWindow(OperationRate(1, 5.0))
    window.take(10.0)
    with pytest.raises(ValueError, match="before it may"):
        window.take(14.9)
    window.take(15.0)


@pytest.mark.parametrize(
    ("count", "interval_s"), [(0, 1), (COUNT_MAX + 1, 1), (1, 0), (1, -1), (1, 1e9), (1, math.nan)]
)
def test_rates_that_cannot_be_kept(count: int, interval_s: float) -> None:
    with pytest.raises(ValueError, match="unusable"):
        OperationRate(count, interval_s)


# -- bytes ----------

parts = st.lists(st.tuples(st.floats(0, 3), st.integers(1, BURST_BYTES_MIN)), max_size=60)


@given(st.sampled_from([BYTES_PER_S_MIN, 1e5, 1e6, 3e8]), parts, st.integers(1, 8))
def test_no_stretch_of_time_has_more_bytes(
    bytes_per_s: float, steps: list[tuple[float, int]], streams: int
) -> None:
    """`streams` callers, each waiting until its part has passed before it asks for the next."""
    bucket = ByteBucket(bytes_per_s, 0.0)
    ready_s = [0.0] * streams
    passed: list[tuple[float, int]] = []
    now_s = 0.0
    for pause_s, byte_count in steps:
        stream = min(range(streams), key=lambda number: ready_s[number])
        now_s = max(now_s, ready_s[stream] + pause_s)
        place = bucket.reserve(byte_count, now_s)
        ready_s[stream] = now_s + bucket.delay_s(place, now_s)
        passed.append((ready_s[stream], byte_count))
    assert [when for when, _ in passed] == sorted(when for when, _ in passed)  # nobody is overtaken
    burst_bytes = max(BURST_BYTES_MIN, bytes_per_s * BURST_S)
    for first in range(len(passed)):
        total = 0
        for when, byte_count in passed[first:]:
            total += byte_count
            # the first part may be one whose bytes count before the stretch began, hence a part more
            assert total <= bytes_per_s * (when - passed[first][0]) + burst_bytes + BURST_BYTES_MIN + 1


@given(st.sampled_from([BYTES_PER_S_MIN, 1e6, 3e8]), st.lists(st.integers(1, 10**7), min_size=1, max_size=40))
def test_the_average_is_exact(bytes_per_s: float, byte_counts: list[int]) -> None:
    """One caller that always has more: all but the burst at exactly the rate, whatever the parts are."""
    bucket, now_s = ByteBucket(bytes_per_s, 50.0), 50.0
    burst_bytes = max(BURST_BYTES_MIN, bytes_per_s * BURST_S)
    for byte_count in byte_counts:
        place = bucket.reserve(byte_count, now_s)
        while delay_s := bucket.delay_s(place, now_s):
            now_s += delay_s
    expected_s = max(0.0, sum(byte_counts) - burst_bytes) / bytes_per_s
    assert now_s - 50.0 == pytest.approx(expected_s, abs=1e-3, rel=1e-6)


def test_a_pause_is_not_saved_up() -> None:
    bucket = ByteBucket(1e6, 0.0)
    place = bucket.reserve(10_000_000, 3600.0)
    assert bucket.delay_s(place, 3600.0) == pytest.approx(10 - BURST_S)


def test_who_waits_gets_the_new_rate() -> None:
    bucket = ByteBucket(1000.0, 0.0)
    place = bucket.reserve(BURST_BYTES_MIN + 10_000, 0.0)
    assert bucket.delay_s(place, 0.0) == pytest.approx(10)
    bucket.change(1e6, 5.0)
    assert bucket.bytes_per_s == 1e6
    assert bucket.delay_s(place, 5.0) == pytest.approx(0.005)
    bucket.change(500.0, 5.002)
    assert bucket.delay_s(place, 5.002) == pytest.approx(6)


# -- the adaptive rate ----------


def test_without_complaints_there_is_no_limit() -> None:
    rate = AdaptiveRate()
    for number in range(10_000):
        assert rate.delay_s(number * 1e-4) == 0
        rate.take(number * 1e-4)
        rate.served(number * 1e-4)
    assert rate.rate is None


def test_a_complaint_halves_what_was_served() -> None:
    rate = AdaptiveRate()
    for number in range(400):
        rate.served(number / 40)  # 40/s for 10 s
    rate.busy(10.0)
    assert rate.rate == pytest.approx(20, rel=0.05)
    for number in range(50):  # of the same storm
        rate.busy(10.0 + number / 51)
    assert rate.rate == pytest.approx(20, rel=0.05)
    rate.busy(11.0)
    assert rate.rate == pytest.approx(10, rel=0.05)


def test_it_grows_with_time_and_ends() -> None:
    rate = AdaptiveRate()
    for number in range(400):
        rate.served(number / 40)
    rate.busy(10.0)
    seen = []
    for second in range(11, 60):
        rate.served(float(second))
        seen.append(rate.rate)
        if rate.rate is None:
            break
    grown = [value for value in seen if value is not None]
    steps = [b - a for a, b in itertools.pairwise(grown)]
    assert steps == pytest.approx([steps[0]] * len(steps))  # additive
    assert grown[9] == pytest.approx(40, rel=0.05)  # back to what it was after 10 s
    assert 25 < len(grown) < 35  # twice that went well


def test_an_hour_of_rest_ends_it() -> None:
    rate = AdaptiveRate()
    rate.busy(10.0)
    assert rate.rate == AdaptiveRate.LOWEST_PER_S
    rate.served(3610.0)
    assert rate.rate is None


def test_an_outage_is_no_measurement() -> None:
    """A store that refuses everything for a minute is not a slow one: it is soon used again as before."""
    rate = AdaptiveRate()
    for number in range(400):
        rate.served(number / 40)
    for second in range(10, 70):
        rate.busy(float(second))
    assert rate.rate == AdaptiveRate.LOWEST_PER_S
    second = 70
    while rate.rate is not None and rate.rate < 40:
        rate.served(float(second))
        second += 1
    assert rate.rate is not None  # it has come there step by step, not at once
    assert 10 < second - 70 < 30


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from(["ask", "served", "busy"])), max_size=200))
def test_the_bounds_of_the_adaptive_rate(steps: list[tuple[float, str]]) -> None:
    rate, now_s, seen_complaint = AdaptiveRate(), 0.0, False
    for pause_s, what in steps:
        now_s += pause_s
        before = rate.rate
        if what == "served":
            rate.served(now_s)
            assert before is None or rate.rate is None or rate.rate >= before
        elif what == "busy":
            rate.busy(now_s)
            seen_complaint = True
            assert rate.rate is not None
            assert before is None or rate.rate <= max(before, AdaptiveRate.LOWEST_PER_S)
        else:
            delay_s = rate.delay_s(now_s)
            assert 0 <= delay_s <= 1 / AdaptiveRate.LOWEST_PER_S
            if delay_s == 0:
                rate.take(now_s)
        assert rate.rate is None or rate.rate >= AdaptiveRate.LOWEST_PER_S
        assert seen_complaint or rate.rate is None


@given(st.floats(0.6, 500), st.lists(st.floats(0, 0.3), max_size=200))
def test_it_is_kept(per_s: float, pauses_s: list[float]) -> None:
    rate, now_s, count = AdaptiveRate(), 0.0, 0
    for number in range(int(per_s * 6) + 1):
        rate.served(number / (2 * per_s))
    now_s = begin_s = int(per_s * 6) / (2 * per_s)
    rate.busy(now_s)
    assert rate.rate is not None
    for pause_s in pauses_s:
        now_s += pause_s
        while delay_s := rate.delay_s(now_s):
            now_s += delay_s
        rate.take(now_s)
        count += 1
    allowed = rate.rate * (now_s - begin_s + AdaptiveRate.CATCH_UP_S) + 1
    assert count <= allowed * (1 + 1e-9)


def test_a_rest_is_not_saved_up_for_a_storm() -> None:
    rate = AdaptiveRate()
    for number in range(400):
        rate.served(number / 40)
    rate.busy(10.0)
    assert rate.rate is not None
    count = 0
    while rate.delay_s(3600.0) == 0:
        rate.take(3600.0)
        count += 1
    assert 0 < count <= rate.rate * AdaptiveRate.CATCH_UP_S + 1


@pytest.mark.parametrize("capacity", [3, 30, 300])
def test_it_finds_what_a_store_can_bear(capacity: int) -> None:
    """A store that serves so many in each second and refuses the others; callers that always want more."""
    rate, rng, now_s = AdaptiveRate(), random.Random(1), 0.0
    served, refused = 0, 0
    second, in_second = 0, 0
    while now_s < 600:
        now_s += max(rate.delay_s(now_s), rng.uniform(0, 2) / (capacity * 20))
        rate.take(now_s)
        if int(now_s) != second:
            second, in_second = int(now_s), 0
        in_second += 1
        if in_second <= capacity:
            rate.served(now_s)
            served += now_s > 60
        else:
            rate.busy(now_s)
            refused += now_s > 60
    assert served / 540 > 0.7 * capacity
    assert refused < 0.1 * served


# -- as people write them ----------


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("10MB/s", 10e6),
        ("10M", 10e6),
        ("10 MB/s", 10e6),
        ("10mb/s", 10e6),
        ("500k", 500e3),
        ("500kB", 500e3),
        ("1MiB/s", 2**20),
        ("64Ki", 2**16),
        ("1.5M", 1.5e6),
        ("1G", 1e9),
        ("2GiB", 2**31),
        ("1000", 1000),
        ("1000B/s", 1000),
        (" 1000GB/s ", 1e12),
        ("none", None),
        ("None", None),
    ],
)
def test_rates_of_bytes(text: str, bytes_per_s: float | None) -> None:
    assert parse_byte_rate(text) == bytes_per_s


NO_BYTE_RATES = ["", "fast", "-1M", "10Mbit/s", "10Mbps", "10MB/min", "M", "1e6", "inf", "nan", "1,5M", "٣M"]
BYTE_RATES_OUT_OF_RANGE = ["0", "0M", "999", "1B/s", "1001G", "999999999999999G"]


@pytest.mark.parametrize("text", [*NO_BYTE_RATES, "10M/s/s", "9" * 400, *BYTE_RATES_OUT_OF_RANGE])
def test_no_rates_of_bytes(text: str) -> None:
    with pytest.raises(UsageError, match=r"10MB/s.*none") as caught:
        parse_byte_rate(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/5s", OperationRate(100, 5)),
        ("20/s", OperationRate(20, 1)),
        ("600/min", OperationRate(600, 60)),
        ("5 / 0.5s", OperationRate(5, 0.5)),
        ("1000/24h", OperationRate(1000, 86400)),
        ("none", None),
    ],
)
def test_rates_of_operations(text: str, rate: OperationRate | None) -> None:
    assert parse_operation_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "100", "100/5", "/s", "100/s5", "1.5/s", "-1/s", "100/5d", "0/s", "1/0s", "1/25h", "100001/s", "many"],
)
def test_no_rates_of_operations(text: str) -> None:
    with pytest.raises(UsageError, match=r"100/5s.*none") as caught:
        parse_operation_rate(text)
    assert "\n" not in str(caught.value)


@given(st.one_of(st.none(), st.floats(BYTES_PER_S_MIN, BYTES_PER_S_MAX)))
def test_a_byte_rate_shown_can_be_read(bytes_per_s: float | None) -> None:
    shown = parse_byte_rate(format_byte_rate(bytes_per_s))
    assert shown == (None if bytes_per_s is None else pytest.approx(bytes_per_s, rel=1e-3))


@given(st.integers(1, COUNT_MAX), st.one_of(st.integers(1, 86400), st.sampled_from([0.5, 0.125, 7.25])))
def test_an_operation_rate_shown_can_be_read(count: int, interval_s: float) -> None:
    rate = OperationRate(count, float(interval_s))
    assert parse_operation_rate(format_operation_rate(rate)) == rate


def test_rates_as_shown() -> None:
    assert [format_byte_rate(rate) for rate in (None, 10e6, 1.5e9, 2**20, 1000, 999_999)] == [
        "none",
        "10 MB/s",
        "1.5 GB/s",
        "1.049 MB/s",
        "1 kB/s",
        "999.999 kB/s",
    ]
    assert format_operation_rate(None) == "none"
    assert [format_operation_rate(OperationRate(100, s)) for s in (1, 5, 0.5, 60)] == [
        "100/s",
        "100/5s",
        "100/0.5s",
        "100/60s",
    ]
