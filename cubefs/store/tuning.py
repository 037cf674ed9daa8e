"""How many transfers at once pay: found out by trying more or fewer and comparing the throughput.

Pure: completions and times go in, a number comes out. Must never: wait, judge by transfers that had the line for
themselves because nothing else was waiting, or leave its bounds.
"""

from __future__ import annotations

import enum

# Found by simulating lines of 1 to 500 MB/s with 0 to 500 ms latency and up to 60 % noise, as the tests do.
WINDOW_S = 1.0  # shorter ones measure the scheduler
ROUNDS = 3  # each transfer counts three times at least in a window, so that none decides alone
PAYS = 0.02  # going up must bring 2 %, or a quarter of the share it adds where that is less
HOLD_WINDOWS_MIN = 3  # between attempts; doubled while they bring nothing
HOLD_WINDOWS_MAX = 8
CHANGED = 0.3  # so much more or less than before, at the same level: another line, find out soon
BIG_LEVEL = 8  # from here on steps of two: one of many is lost in the noise


class _Phase(enum.Enum):
    """What the window that is being measured is for."""

    HOLD = "hold"
    UP = "up"
    DOWN = "down"


class ParallelismTuner:
    """Hill climbing over the number of parallel transfers. Not thread-safe.

    hold   the level stays; what it brings is measured; after some windows: up or down, in turn
    up     one step more pays: another; else back, and hold
    down   one step fewer costs nothing, compared with where the descent began: another; else back, and hold
    """

    def __init__(self, lowest: int, highest: int, start: int) -> None:
        """Stay within [lowest, highest] and begin with `start`."""
        if not 1 <= lowest <= start <= highest:
            raise ValueError(f"unusable bounds of parallelism: {lowest} <= {start} <= {highest}")
        self._lowest, self._highest = lowest, highest
        self._level = start
        self._phase = _Phase.HOLD
        self._hold_left = 1  # one look at how it is, then the first attempt
        self._hold_windows = HOLD_WINDOWS_MIN
        self._is_up_next = True
        self._came_from = start  # the level of the step before, and the throughput there, bytes per second
        self._rate_before = 0.0
        self._rate_above = 0.0  # at the top of a descent
        self._skip_count = 0
        self._start_s: float | None = None  # of the window; None: with the next transfer that ends
        self._byte_count = 0
        self._count = 0

    @property
    def level(self) -> int:
        """How many transfers should be under way."""
        return self._level

    def finished(self, byte_count: int, now_s: float, is_saturated: bool) -> None:
        """Note a transfer that ended well. is_saturated: others were waiting for their turn all the time."""
        if not is_saturated:
            self._restart()
        elif self._skip_count > 0:
            self._skip_count -= 1
        elif self._start_s is None:
            self._start_s = now_s
        else:
            self._byte_count += byte_count
            self._count += 1
            elapsed_s = now_s - self._start_s
            if self._count >= ROUNDS * self._level and elapsed_s >= WINDOW_S:
                rate = self._byte_count / elapsed_s
                self._byte_count = self._count = 0
                self._start_s = now_s
                self._evaluate(rate)

    def _restart(self) -> None:
        """Measure anew, after a round: what ends until then began under other conditions."""
        self._skip_count = self._level
        self._start_s = None
        self._byte_count = self._count = 0

    def _evaluate(self, rate: float) -> None:
        """Decide by the throughput of the window just measured, in bytes per second."""
        if self._phase is _Phase.HOLD:
            self._hold(rate)
        elif self._phase is _Phase.UP:
            share = (self._level - self._came_from) / self._came_from
            if rate >= self._rate_before * (1 + min(PAYS, share / 4)):
                self._accept(rate)
            else:
                self._step_back()
        elif rate >= self._rate_above:
            self._accept(rate)
        else:
            self._step_back()

    def _hold(self, rate: float) -> None:
        is_changed = self._rate_before > 0 and abs(rate / self._rate_before - 1) > CHANGED
        self._rate_before = rate
        if is_changed:
            self._hold_windows = HOLD_WINDOWS_MIN
            self._hold_left = min(self._hold_left, 2)  # one more look at it
        self._hold_left -= 1
        if self._hold_left > 0:
            return
        self._rate_above = rate
        self._step(_Phase.UP if self._is_up_next else _Phase.DOWN)

    def _accept(self, rate: float) -> None:
        self._hold_windows = HOLD_WINDOWS_MIN
        self._rate_before = rate
        self._step(self._phase)

    def _step(self, phase: _Phase) -> None:
        """Go one step in that direction, or hold at the bound."""
        size = 2 if self._level >= BIG_LEVEL else 1
        level = self._level + size if phase is _Phase.UP else self._level - size
        level = min(max(level, self._lowest), self._highest)
        self._is_up_next = phase is _Phase.DOWN
        if level == self._level:
            self._phase, self._hold_left = _Phase.HOLD, self._hold_windows
            return
        self._came_from = self._level
        self._move(level, phase)

    def _step_back(self) -> None:
        self._hold_left = self._hold_windows
        self._hold_windows = min(2 * self._hold_windows, HOLD_WINDOWS_MAX)
        self._move(self._came_from, _Phase.HOLD)

    def _move(self, level: int, phase: _Phase) -> None:
        self._level, self._phase = level, phase
        self._restart()
