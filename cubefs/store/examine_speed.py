"""How fast a store is from here: the time of a small request, and bytes per second with several at once.

Must never: judge a store by its speed, or take much longer than it was given.
"""

from __future__ import annotations

import functools
import statistics
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cubefs.model import KIB, MIB
from cubefs.store.examine_probe import Probe
from cubefs.store.examine_report import Figure, Result, Verdict

LATENCY_BYTES = KIB
LATENCY_COUNT = 30
SMALLEST_BYTES = 256 * KIB  # below, latency would be measured once more
MOVED_MAX_BYTES = 256 * MIB  # in one measurement: enough for any line, little enough for a bill or a full disk


class Budget(NamedTuple):
    """What a measurement may take."""

    object_bytes: int
    seconds: float  # after which no further request is begun
    lanes: Sequence[int]  # how many at once, in turn; ascending


class _Moved(NamedTuple):
    """What one direction moved."""

    bytes_per_s: float
    names: Sequence[str]


def measure_latency(probe: Probe, *, seconds: float) -> list[Result]:
    """Time PUT and GET of 1 KiB, one after the other."""
    data = probe.random(LATENCY_BYTES)
    names = [probe.name(f"latency-{number:02d}") for number in range(LATENCY_COUNT)]
    put_s = _times(probe, [functools.partial(probe.put, name, data) for name in names], seconds)
    gets = [functools.partial(probe.look_patiently, name, among=(data,)) for name in names[: len(put_s)]]
    get_s = _times(probe, gets, seconds)
    figures: dict[str, Figure] = {"object_bytes": LATENCY_BYTES}
    words = []
    for verb, times_s in (("put", put_s), ("get", get_s)):
        median_s, p95_s = statistics.median(times_s), sorted(times_s)[int(0.95 * (len(times_s) - 1))]
        figures |= {f"{verb}_count": len(times_s), f"{verb}_min_s": min(times_s)}
        figures |= {f"{verb}_median_s": median_s, f"{verb}_p95_s": p95_s}
        words.append(
            f"{verb.upper()} {median_s * 1e3:.1f} ms (min {min(times_s) * 1e3:.1f}, p95 {p95_s * 1e3:.1f})"
        )
    return [Result("latency", Verdict.OK, f"median of 1 KiB: {', '.join(words)}", figures)]


def _times(probe: Probe, calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Return the duration of each call, of as many as begin within `seconds`, but one at least."""
    started_s = probe.clock()
    times_s: list[float] = []
    for call in calls:
        begun_s = probe.clock()
        if times_s and begun_s - started_s >= seconds:
            break
        call()
        times_s.append(probe.clock() - begun_s)
    return times_s


def measure_throughput(probe: Probe, budget: Budget) -> list[Result]:
    """Move large objects up and down, with ever more at once.

    The objects shrink where the line seems too slow to move one for each lane in the time given. Raises
    StoreLiesError when one comes back wrong.
    """
    figures: dict[str, Figure] = {}
    words = []
    data = probe.random(budget.object_bytes)
    best_bytes_per_s = _sounding(probe, data)
    for lanes in budget.lanes:
        affordable_bytes = int(best_bytes_per_s * budget.seconds / lanes)
        size_bytes = min(
            budget.object_bytes, max(SMALLEST_BYTES, affordable_bytes // SMALLEST_BYTES * SMALLEST_BYTES)
        )
        probe.begin(f"throughput up, {lanes} at once")
        up = _move_up(probe, lanes, data[:size_bytes], budget.seconds)
        probe.begin(f"throughput down, {lanes} at once")
        down = _move_down(probe, lanes, data[:size_bytes], up.names, budget.seconds)
        best_bytes_per_s = max(best_bytes_per_s, min(up.bytes_per_s, down.bytes_per_s))
        probe.delete_many(up.names)
        figures |= {f"object_{lanes}_bytes": size_bytes}
        figures |= {f"up_{lanes}_bytes_per_s": up.bytes_per_s, f"down_{lanes}_bytes_per_s": down.bytes_per_s}
        words.append(f"{lanes} at once {up.bytes_per_s / MIB:.1f} up, {down.bytes_per_s / MIB:.1f} down")
    return [Result("throughput", Verdict.OK, f"MiB/s: {'; '.join(words)}", figures)]


def _sounding(probe: Probe, data: bytes) -> float:
    """Return at how many bytes per second an object goes up and down, roughly."""
    name, part = probe.name("throughput-first"), data[: min(MIB, len(data))]
    started_s = probe.clock()
    probe.put(name, part)
    probe.look_patiently(name, among=(part,))
    return 2 * len(part) / max(probe.clock() - started_s, 1e-6)


def _move_up(probe: Probe, lanes: int, data: bytes, seconds: float) -> _Moved:
    """Put objects, each lane its own ones; where nothing may be deleted, the same one again and again."""
    names: list[str] = []
    lock = threading.Lock()

    def put(lane: int, turn: int) -> None:
        name = probe.name(f"throughput-{lanes}-{lane}-{turn if probe.may_delete else 0}")
        # each object begins differently: a store that keeps equal contents once has no easier work
        probe.put(name, _marked(data, name))
        with lock:
            if name not in names:
                names.append(name)

    return _Moved(_rate(probe, lanes, len(data), put, seconds), names)


def _move_down(probe: Probe, lanes: int, data: bytes, names: Sequence[str], seconds: float) -> _Moved:
    def get(lane: int, turn: int) -> None:
        name = names[(lane + turn * lanes) % len(names)]
        probe.look_patiently(name, among=(_marked(data, name),))

    return _Moved(_rate(probe, lanes, len(data), get, seconds), names)


def _marked(data: bytes, name: str) -> bytes:
    return name.encode() + data[len(name) :]


def _rate(probe: Probe, lanes: int, size_bytes: int, move: Callable[[int, int], None], seconds: float) -> float:
    """Return bytes per second of `move(lane, turn)`, repeated in all lanes until time or amount is reached."""
    most_turns = max(MOVED_MAX_BYTES // size_bytes // lanes, 1)
    started_s = probe.clock()

    def lane_of(lane: int) -> int:
        turn = 0
        while turn < most_turns and (not turn or probe.clock() - started_s < seconds):
            move(lane, turn)
            turn += 1
        return turn

    turns = probe.together([functools.partial(lane_of, lane) for lane in range(lanes)])
    return sum(turns) * size_bytes / max(probe.clock() - started_s, 1e-6)
