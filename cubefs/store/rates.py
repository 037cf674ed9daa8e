"""Rates as pure values and rules: operations per interval, bytes per second, and a rate that adapts.

Times are passed in, in seconds of one clock that does not go back; nothing here is thread-safe. Must never: wait,
read a clock or know what an operation is (throttle.py does).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from cubefs.errors import UsageError
from cubefs.model import KIB

COUNT_MAX = 100_000  # a window keeps that many times: 0.8 MB of pointers, 2.4 MB of floats
INTERVAL_MAX_S = 24 * 3600.0
BYTES_PER_S_MIN = 1000.0  # slower than a modem of 1990, one part would take minutes: surely a wrong unit
BYTES_PER_S_MAX = 1e12
BURST_S = 0.25  # what may go at once after a pause: not seen in a chart, and sleeps may be that inexact
BURST_BYTES_MIN = 64 * KIB  # one part of a body


@dataclass(frozen=True)
class OperationRate:
    """At most `count` operations in any `interval_s` seconds."""

    count: int
    interval_s: float

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be kept."""
        if not 1 <= self.count <= COUNT_MAX or not 0 < self.interval_s <= INTERVAL_MAX_S:
            raise ValueError(f"unusable rate of operations: {self.count} in {self.interval_s} s")


class SlidingWindow:
    """Keeps an OperationRate exactly: in no interval of that length, wherever it begins, are there more.

    An operation counts when it starts, at our end of the line.
    """

    def __init__(self, rate: OperationRate) -> None:
        """Begin with nothing done."""
        self._rate = rate
        self._times: deque[float] = deque(maxlen=rate.count)  # of the last `count`: older ones decide nothing

    @property
    def rate(self) -> OperationRate:
        """The rate that is kept."""
        return self._rate

    def change(self, rate: OperationRate) -> None:
        """Keep another rate from now on; the last operations count in it, as many as the old rate allowed."""
        self._rate = rate
        self._times = deque(self._times, maxlen=rate.count)

    def delay_s(self, now_s: float) -> float:
        """Return how long the next operation has to wait, 0 if it may start."""
        if len(self._times) < self._rate.count:
            return 0.0
        return max(0.0, self._times[0] + self._rate.interval_s - now_s)

    def take(self, now_s: float) -> None:
        """Count an operation that starts now. Raises ValueError when it should have waited."""
        if self.delay_s(now_s) > 0:
            raise ValueError("the operation starts before it may")
        self._times.append(now_s)


class ByteBucket:
    """Keeps a number of bytes per second: on average exactly, with a small burst after a pause.

    Bytes reserve their place in the stream first, in the order they come, and pass when it is reached. So in any
    time t at most bytes_per_s * t + max(burst, one reservation) pass, and nobody is overtaken.
    """

    def __init__(self, bytes_per_s: float, now_s: float) -> None:
        """Begin with a full burst."""
        self._bytes_per_s = bytes_per_s
        self._now_s = now_s
        self._reserved_bytes = 0  # by all so far
        self._passed_bytes = self._burst_bytes()  # the place in the stream that is reached

    @property
    def bytes_per_s(self) -> float:
        """The rate that is kept."""
        return self._bytes_per_s

    def change(self, bytes_per_s: float, now_s: float) -> None:
        """Keep another rate from now on, for those who wait too."""
        self._advance(now_s)
        self._bytes_per_s = bytes_per_s
        self._advance(now_s)

    def reserve(self, byte_count: int, now_s: float) -> int:
        """Take the next place for `byte_count` bytes; return it, for `delay_s`."""
        self._advance(now_s)
        self._reserved_bytes += byte_count
        return self._reserved_bytes

    def delay_s(self, place: int, now_s: float) -> float:
        """Return how long it takes at least until `place` is reached, 0 if it is."""
        self._advance(now_s)
        missing_bytes = place - self._passed_bytes
        return missing_bytes / self._bytes_per_s if missing_bytes > 0.5 else 0.0  # there are no half bytes

    def _advance(self, now_s: float) -> None:
        self._passed_bytes += max(0.0, now_s - self._now_s) * self._bytes_per_s
        self._passed_bytes = min(self._passed_bytes, self._reserved_bytes + self._burst_bytes())
        self._now_s = max(self._now_s, now_s)

    def _burst_bytes(self) -> float:
        return max(float(BURST_BYTES_MIN), self._bytes_per_s * BURST_S)


class AdaptiveRate:
    """Operations per second as the store can bear them: no limit until it says that it is busy.

    Then half of what it served lately; more again, by a constant step, while it serves; no limit when twice as
    much has gone well as before it complained. Additive increase and multiplicative decrease: clients that do
    not know of each other come to share a store fairly (Chiu and Jain, 1989).
    """

    LATELY_S = 3.0  # long enough to count some requests, short against the growth between two complaints
    LATELY_COUNT = 1000
    CUT_INTERVAL_S = 1.0  # one storm is many answers to requests that were under way together
    LOWEST_PER_S = 0.5  # the waits of retry.py do the rest
    STEP = 0.05  # of what was served before, per second: from half back to all of it in 10 s
    GONE_WELL = 2.0
    CATCH_UP_S = 0.1  # a sleep that was too long is made up for, a pause is not

    def __init__(self) -> None:
        """Begin without a limit."""
        self._rate: float | None = None
        self._served: deque[float] = deque(maxlen=self.LATELY_COUNT)  # when
        self._served_before = self.LOWEST_PER_S  # per second, when the store complained
        self._cut_s = 0.0  # the last decrease
        self._grown_s = 0.0  # up to when the rate has grown
        self._has_served_since_cut = True
        self._next_s = 0.0  # when the next operation may start

    @property
    def rate(self) -> float | None:
        """Operations per second, None when there is no limit."""
        return self._rate

    def delay_s(self, now_s: float) -> float:
        """Return how long the next operation has to wait, 0 if it may start."""
        return 0.0 if self._rate is None else max(0.0, self._next_s - now_s)

    def take(self, now_s: float) -> None:
        """Count an operation that starts now."""
        if self._rate is not None:
            self._next_s = max(self._next_s, now_s - self.CATCH_UP_S) + 1 / self._rate

    def served(self, now_s: float) -> None:
        """Note that the store has served an operation: time without complaints makes the rate grow."""
        self._served.append(now_s)
        self._has_served_since_cut = True
        if self._rate is None:
            return
        step = max(self.LOWEST_PER_S, self._served_before * self.STEP)
        self._rate += step * max(0.0, now_s - self._grown_s)
        self._grown_s = now_s
        if self._rate > self.GONE_WELL * self._served_before:
            self._rate = None

    def busy(self, now_s: float) -> None:
        """Note that the store complained: halve the rate, once for complaints that come together."""
        self._grown_s = now_s
        if self._rate is not None and now_s - self._cut_s < self.CUT_INTERVAL_S:
            return
        measured = self._measured(now_s)
        if self._rate is None:
            self._next_s = now_s
        else:
            measured = min(measured, self._rate)
        if self._has_served_since_cut:  # else that was during the same trouble and says nothing about the store
            self._served_before = max(measured, self.LOWEST_PER_S)
        self._rate = max(measured / 2, self.LOWEST_PER_S)
        self._cut_s = now_s
        self._has_served_since_cut = False

    def _measured(self, now_s: float) -> float:
        """Return operations per second served lately."""
        while self._served and self._served[0] < now_s - self.LATELY_S:
            self._served.popleft()
        if not self._served:
            return 0.0
        span_s = now_s - self._served[0]
        if len(self._served) < self.LATELY_COUNT:
            return len(self._served) / max(span_s, 1.0)
        return len(self._served) / max(span_s, 0.001)


# -- rates as people write them -----------------------------------------------------------------------------------

_BYTE_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(k|M|G|Ki|Mi|Gi)?B?(?:/s)?", re.ASCII | re.IGNORECASE)
_OPERATION_RATE = re.compile(
    r"([0-9]{1,9}) ?/ ?([0-9]{1,9}(?:\.[0-9]{1,3})?)? ?(s|min|h)", re.ASCII | re.IGNORECASE
)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SECONDS = {"s": 1, "min": 60, "h": 3600}
NO_RATE = "none"


def parse_byte_rate(text: str) -> float | None:
    """Return the bytes per second of `10MB/s`, `10M`, `500k`, `1MiB/s`; None for `none`. Raises UsageError.

    k, M, G are powers of 1000 as with all rates of lines, Ki, Mi, Gi of 1024; capital or small is the same.
    """
    word = text.strip()
    if word.lower() == NO_RATE:
        return None
    found = _BYTE_RATE.fullmatch(word)
    if not found:
        raise UsageError(f"{text!r} is no rate of bytes; write it like 10MB/s, 500k, 1MiB/s, or none for no limit")
    bytes_per_s = float(found[1]) * _UNITS[(found[2] or "").lower()]
    if not BYTES_PER_S_MIN <= bytes_per_s <= BYTES_PER_S_MAX:
        raise UsageError(
            f"{text!r} is out of range: rates are 1kB/s to 1000GB/s, like 10MB/s; write none for no limit"
        )
    return bytes_per_s


def parse_operation_rate(text: str) -> OperationRate | None:
    """Return the rate of `100/5s`, `20/s`, `600/min`; None for `none`. Raises UsageError."""
    word = text.strip()
    if word.lower() == NO_RATE:
        return None
    found = _OPERATION_RATE.fullmatch(word)
    if not found:
        raise UsageError(
            f"{text!r} is no rate of requests; write it like 100/5s, 20/s, 600/min, or none for no limit"
        )
    try:
        return OperationRate(int(found[1]), float(found[2] or 1) * _SECONDS[found[3].lower()])
    except ValueError:
        raise UsageError(
            f"{text!r} is out of range: 1 to {COUNT_MAX} requests in up to 24 h, like 100/5s; none for no limit"
        ) from None


def format_byte_rate(bytes_per_s: float | None) -> str:
    """Return a rate for people, which `parse_byte_rate` understands: `10 MB/s`, `none`."""
    if bytes_per_s is None:
        return NO_RATE
    for unit in ("G", "M", "k"):
        if bytes_per_s >= _UNITS[unit.lower()]:
            return f"{_number(bytes_per_s / _UNITS[unit.lower()])} {unit}B/s"
    return f"{_number(bytes_per_s)} B/s"


def format_operation_rate(rate: OperationRate | None) -> str:
    """Return a rate for people, which `parse_operation_rate` understands: `100/5s`, `none`."""
    if rate is None:
        return NO_RATE
    return f"{rate.count}/{'' if rate.interval_s == 1 else _number(rate.interval_s)}s"


def _number(value: float) -> str:
    """Return up to three digits behind the point, as few as needed."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
