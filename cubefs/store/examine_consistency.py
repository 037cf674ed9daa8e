"""How soon a store shows what was done: after put, overwrite and delete, to readers and in listings.

Must never: take a late answer for a wrong one; `-o settle` exists for the former.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cubefs.store.examine_probe import SMALL_BYTES, Probe
from cubefs.store.examine_report import Figure, Result, Verdict

STEADY_READS = 2  # several replicas take turns in answering: one right answer is not the last wrong one


class Event(enum.Enum):
    """What is waited for. The value is the name of the result."""

    PUT = "read_after_put"
    OVERWRITE = "read_after_overwrite"
    DELETE = "read_after_delete"
    LISTED = "listing_after_put"
    UNLISTED = "listing_after_delete"


class Seen(NamedTuple):
    """One observation: how late it was; None: not within our patience."""

    event: Event
    delay_s: float | None


class _Words(NamedTuple):
    """Sentences for a person; `late` and `never` go on with a time."""

    at_once: str
    late: str
    never: str
    verdict_never: Verdict
    is_read: bool


WORDS = {
    Event.PUT: _Words(
        "new objects could be read at once",
        "new objects can be missing for up to",
        "an object that was put could not be read after",
        Verdict.BAD,
        True,
    ),
    Event.OVERWRITE: _Words(
        "overwritten objects had their new contents at once",
        "overwritten objects can show their old contents for up to",
        "an overwritten object still had its old contents after",
        Verdict.BAD,
        True,
    ),
    Event.DELETE: _Words(
        "deleted objects were gone at once",
        "deleted objects can still be read for up to",
        "deleting is acknowledged but not done: an object was still there after",
        Verdict.BAD,
        False,
    ),
    Event.LISTED: _Words(
        "new objects were listed at once",
        "new objects can be missing from listings for up to",
        "listings miss objects: one was not listed after",
        Verdict.BAD,
        False,
    ),
    Event.UNLISTED: _Words(
        "deleted objects were not listed any more",
        "deleted objects can be listed for up to",
        "a deleted object was still listed after",
        Verdict.WARNING,  # whoever asks for it learns that it is gone
        False,
    ),
}


class Amount(NamedTuple):
    """How many rounds, and in how many of them more than put and get is done."""

    rounds: int
    overwrites: int
    deletes: int  # with the listings before and after
    lanes: int  # rounds at once
    is_thorough: bool  # read in both ways and more than once, and sometimes before the object is there


def check_consistency(probe: Probe, amount: Amount) -> list[Result]:
    """Put, overwrite and delete objects, and see when that shows. Raises StoreLiesError for wrong contents."""
    rounds = [functools.partial(_round, probe, amount, number) for number in range(amount.rounds)]
    seen = [each for observations in probe.together(rounds, lanes=amount.lanes) for each in observations]
    results = (_judge(event, [each.delay_s for each in seen if each.event is event], probe) for event in Event)
    return [result for result in results if result is not None]


def _round(probe: Probe, amount: Amount, number: int) -> list[Seen]:
    """Lead one object through its life. What cannot be seen in time ends it: nothing later would mean much."""
    name = probe.name(f"consistency/{number:02d}")
    first, second = (probe.random(SMALL_BYTES) for _ in range(2))
    steady = STEADY_READS if amount.is_thorough else 1
    # both ways of reading, in one way where requests are to be few
    ways = (False, True) if amount.is_thorough else (number % 2 == 1,)
    seen: list[Seen] = []

    def see(event: Event, holds: Callable[[], bool]) -> bool:
        seen.append(Seen(event, probe.until(holds, steady=steady)))
        return seen[-1].delay_s is not None

    def reads(wanted: bytes | None, among: Sequence[bytes]) -> Callable[[], bool]:
        return lambda: all(probe.look(name, among=among, newest=newest) == wanted for newest in ways)

    def lists(is_wanted: bool) -> Callable[[], bool]:
        return lambda: (name in probe.listed(name)) is is_wanted

    if amount.is_thorough and number % 2:
        probe.look(name, among=(first,))  # some stores remember that a name was missing
    probe.put(name, first)
    if not see(Event.PUT, reads(first, (first,))):
        return seen
    if number < amount.deletes and not see(Event.LISTED, lists(True)):
        return seen
    if number < amount.overwrites:
        probe.put(name, second)
        if not see(Event.OVERWRITE, reads(second, (second, first))):
            return seen
    if number < amount.deletes and probe.delete(name) and see(Event.DELETE, reads(None, (second, first))):
        see(Event.UNLISTED, lists(False))
    return seen


def _judge(event: Event, delays_s: Sequence[float | None], probe: Probe) -> Result | None:
    """Return what the observations of one event mean, None without any."""
    if not delays_s:
        return None
    words = WORDS[event]
    known_s = [delay_s for delay_s in delays_s if delay_s is not None]
    late_s = [delay_s for delay_s in known_s if delay_s > 0]
    figures: dict[str, Figure] = {
        "times": len(delays_s),
        "late": len(delays_s) - len(known_s) + len(late_s),
        "worst_delay_s": max(known_s, default=0.0) if len(known_s) == len(delays_s) else None,
    }
    if len(known_s) < len(delays_s):
        return Result(event.value, words.verdict_never, f"{words.never} {probe.patience_s:g} s", figures)
    if late_s:
        sentence = f"{words.late} {max(late_s):.1f} s ({len(late_s)} of {len(delays_s)} times)"
        return Result(event.value, Verdict.WARNING, sentence, figures, max(late_s) if words.is_read else 0.0)
    times = f"{len(delays_s)} times" if len(delays_s) > 1 else "1 time"
    return Result(event.value, Verdict.OK, f"{words.at_once} ({times})", figures)
