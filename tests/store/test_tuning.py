"""The tuning of parallelism, on simulated lines: latency, bandwidth shared by all, and noise."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.store.tuning import ParallelismTuner

MB = 10**6
PACK_BYTES = 8 * 2**20
LOWEST, START, HIGHEST = 1, 4, 32


class Line:
    """Transfers of one size: each waits for the latency, then shares the bandwidth with the others."""

    def __init__(self, *, latency_s: float, bytes_per_s: float, noise: float, seed: int) -> None:
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self._noise = noise
        self._rng = random.Random(seed)
        self.now_s = 0.0
        self._waiting: list[float] = []  # when their latency is over
        self._virtual_bytes = 0.0  # sent by each transfer that sends since the beginning
        self._sending: list[float] = []  # the virtual bytes at which they are through

    @property
    def count(self) -> int:
        return len(self._waiting) + len(self._sending)

    def start(self) -> None:
        heapq.heappush(self._waiting, self.now_s + self.latency_s * self._factor())

    def step(self) -> bool:
        """Go on to the next event; tell whether a transfer ended."""
        share = self.bytes_per_s / max(1, len(self._sending))
        ends_s = self.now_s + (self._sending[0] - self._virtual_bytes) / share if self._sending else float("inf")
        begins_s = self._waiting[0] if self._waiting else float("inf")
        next_s = max(self.now_s, min(ends_s, begins_s))
        self._virtual_bytes += share * (next_s - self.now_s) if self._sending else 0.0
        self.now_s = next_s
        if begins_s <= ends_s:
            heapq.heappop(self._waiting)
            heapq.heappush(self._sending, self._virtual_bytes + PACK_BYTES * self._factor())
            return False
        heapq.heappop(self._sending)
        return True

    def _factor(self) -> float:
        return self._rng.uniform(1 - self._noise, 1 + self._noise)


def run(line: Line, tuner: ParallelismTuner, *, until: Callable[[int], bool]) -> tuple[float, float]:
    """Keep all streams busy until `until(transfers)`; return (bytes per second, mean level) of the second half."""
    ends: list[tuple[float, int]] = []
    while not until(len(ends)):
        while line.count < tuner.level:
            line.start()
        if line.step():
            tuner.finished(PACK_BYTES, line.now_s, True)
            assert LOWEST <= tuner.level <= HIGHEST
            ends.append((line.now_s, tuner.level))
    later = ends[len(ends) // 2 :]
    return PACK_BYTES * (len(later) - 1) / (later[-1][0] - later[0][0]), fmean(level for _, level in later)


def best(line: Callable[[int], Line]) -> float:
    """Return the highest throughput of any fixed number of transfers at once."""
    fixed = (ParallelismTuner(level, level, level) for level in (1, 2, 4, 8, 16, HIGHEST))
    return max(run(line(2), tuner, until=lambda count: count >= 400)[0] for tuner in fixed)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("bytes_per_s", [1 * MB, 10 * MB, 100 * MB, 500 * MB])
@pytest.mark.parametrize("latency_s", [0.0, 0.05, 0.5])
def test_it_finds_what_pays(latency_s: float, bytes_per_s: float, noise: float) -> None:
    def line(seed: int) -> Line:
        return Line(latency_s=latency_s, bytes_per_s=bytes_per_s, noise=noise, seed=seed)

    found, level = run(line(1), ParallelismTuner(LOWEST, HIGHEST, START), until=lambda count: count >= 3000)
    assert found >= 0.85 * best(line)
    if latency_s == 0:  # one stream saturates the line
        assert level < HIGHEST / 4


def test_it_follows_the_line() -> None:
    """A long thin line, then a short one, then the first again."""
    tuner = ParallelismTuner(LOWEST, HIGHEST, START)
    levels = []
    for number, latency_s in enumerate((0.5, 0.0, 0.5)):
        line = Line(latency_s=latency_s, bytes_per_s=100 * MB, noise=0.1, seed=number)
        line.now_s = 1000.0 * number
        levels.append(run(line, tuner, until=lambda count: count >= 3000)[1])
    assert levels[0] > 7
    assert levels[1] < 4
    assert levels[2] > 7


def test_a_line_with_nothing_waiting_says_nothing() -> None:
    tuner = ParallelismTuner(LOWEST, HIGHEST, START)
    for number in range(1000):
        tuner.finished(PACK_BYTES, float(number), False)
    assert tuner.level == START
    for number in range(1000, 1100):  # now and then a moment of load is no measurement either
        tuner.finished(PACK_BYTES, float(number), number % 8 != 0)
    assert tuner.level == START


def test_a_window_is_long_enough() -> None:
    """A thousand transfers within a second decide nothing."""
    tuner = ParallelismTuner(LOWEST, HIGHEST, START)
    for number in range(1000):
        tuner.finished(1, number / 1001, True)
    assert tuner.level == START


@pytest.mark.parametrize(("lowest", "highest", "start"), [(0, 4, 2), (2, 4, 1), (2, 4, 5), (3, 2, 3)])
def test_bounds_that_cannot_be(lowest: int, highest: int, start: int) -> None:
    with pytest.raises(ValueError, match="unusable bounds"):
        ParallelismTuner(lowest, highest, start)


@given(
    bounds=st.lists(st.integers(1, 40), min_size=3, max_size=3).map(sorted),
    transfers=st.lists(st.tuples(st.integers(0, 2**30), st.floats(0, 2), st.booleans()), max_size=400),
)
def test_it_stays_within_its_bounds(bounds: list[int], transfers: list[tuple[int, float, bool]]) -> None:
    lowest, start, highest = bounds
    tuner = ParallelismTuner(lowest, highest, start)
    now_s = 0.0
    for byte_count, passed_s, is_saturated in transfers:
        now_s += passed_s
        before = tuner.level
        tuner.finished(byte_count, now_s, is_saturated or bool(byte_count % 3))
        assert lowest <= tuner.level <= highest
        assert abs(tuner.level - before) <= 2
