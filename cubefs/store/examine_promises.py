"""The promises of a store that time does not change: exclusive creation, ranges, contents, names, listings.

Must never: fail because a store shows things late (it reads patiently; examine_consistency looks at that).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Mapping, Sequence

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreError
from cubefs.model import KIB, MIB
from cubefs.store.base import COMPONENT_MAX_BYTES, NAME_MAX_BYTES
from cubefs.store.examine_probe import SMALL_BYTES, Probe
from cubefs.store.examine_report import Figure, Result, Verdict

PAGING_LANES = 16
RANGED_BYTES = 300 * KIB
START_WAIT_S = 10.0
# OpenStack Swift looks first and puts then. Who comes later is refused, and that is what fences a writer off: only
# two that write the same log object within one request's time could both believe that it is theirs.
RACE_VERDICT = Verdict.WARNING
CLOCK_WARNING_S = 5.0
CLOCK_BAD_S = 15 * 60.0  # S3 refuses requests of clients whose clock is further off


class _BrokenError(Exception):
    """A promise is broken; the text says which. Never leaves this module."""


# -- exclusive creation ----------


def check_conditional_put(probe: Probe, *, races: int, contenders: int) -> list[Result]:
    """See that a taken name is never put again: one after the other, many at once, and after a deletion."""
    winners = [1]
    try:
        _put_twice(probe)
        names = [probe.name(f"race/{number:02d}") for number in range(races)]
        winners += [_race(probe, name, contenders) for name in names]
        if names and probe.may_delete and probe.delete(names[-1]) and _is_gone(probe, names[-1]):
            winners.append(_race(probe, names[-1], contenders))
    except _BrokenError as broken:
        return [Result("conditional_put", Verdict.BAD, f"conditional put cannot be relied on: {broken}")]
    figures: dict[str, Figure] = {"races": len(winners) - 1, "contenders": contenders, "winners": max(winners)}
    if max(winners) > 1:
        sentence = (
            f"a name that is taken is refused, but of {contenders} at once {max(winners)} got it:"
            " two machines must never take a file system over in the same moment"
        )
        return [Result("conditional_put", RACE_VERDICT, sentence, figures)]
    sentence = "a name that is taken is refused"
    if races:
        sentence += f", and of {contenders} at once exactly one gets it"
    return [Result("conditional_put", Verdict.OK, sentence, figures)]


def _put_twice(probe: Probe) -> None:
    name = probe.name("conditional")
    first, second = (probe.random(SMALL_BYTES) for _ in range(2))
    refused_first = _is_refused(probe, name, first)
    refused_second = _is_refused(probe, name, second)
    if probe.look_patiently(name, among=(first, second)) == second:
        raise _BrokenError("it is ignored, and an existing object was overwritten")
    if not refused_second:
        raise _BrokenError("a second put of the same name was not refused, though not done either")
    if refused_first and not probe.retry_count:  # a repeated put finds its own bytes there
        raise _BrokenError("a name that was free was refused, and taken all the same")


def _race(probe: Probe, name: str, contenders: int) -> int:
    """Let many put one free name at once; return how many were told that they got it."""
    bodies = [probe.random(SMALL_BYTES) for _ in range(contenders)]
    start = threading.Barrier(contenders)

    def contend(body: bytes) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):  # some may not have been started: Ctrl-C
            start.wait(START_WAIT_S)
        return not _is_refused(probe, name, body)

    won = probe.together([functools.partial(contend, body) for body in bodies])
    winners = [body for body, has_won in zip(bodies, won, strict=True) if has_won]
    if not winners and not probe.retry_count:
        raise _BrokenError(f"of {contenders} at once nobody got a free name")
    if probe.look_patiently(name, among=(*winners, *bodies)) not in (winners or bodies):
        raise _BrokenError("one put was told that it got the name, but another one's contents are there")
    return max(len(winners), 1)


def _is_refused(probe: Probe, name: str, body: bytes) -> bool:
    try:
        probe.put_new(name, body)
    except ObjectExistsError:
        return True
    return False


def _is_gone(probe: Probe, name: str) -> bool:
    return probe.until(lambda: probe.find(name) is None) is not None


# -- ranges ----------


def check_ranges(probe: Probe, *, is_thorough: bool) -> list[Result]:
    """Read parts of an object, and demand some that are not there."""
    size_bytes = RANGED_BYTES if is_thorough else SMALL_BYTES
    name, data = probe.name("range"), probe.random(size_bytes)
    probe.put(name, data)
    middle = (size_bytes // 3, size_bytes // 4)
    inside = [(0, 1), (size_bytes - 1, 1), (0, size_bytes), middle] if is_thorough else [middle]
    beyond = [(size_bytes, 1), (size_bytes - 1, 2), (2 * size_bytes, 10)] if is_thorough else [(size_bytes - 1, 2)]
    figures: dict[str, Figure] = {"ranges": len(inside) + len(beyond)}
    for start, length in inside:
        part = probe.patiently(functools.partial(probe.get_range, name, start=start, length=length))
        wanted = data[start : start + length]
        if part != wanted:
            sentence = (
                f"ranges are wrong: asked for {length:,} bytes from byte {start:,}, {_difference(part, wanted)}"
            )
            return [Result("range", Verdict.BAD, sentence, figures)]
    for start, length in beyond:
        try:
            part = probe.get_range(name, start=start, length=length)
        except ObjectMissingError:
            return [
                Result("range", Verdict.BAD, "an object is missing when a range beyond its end is read", figures)
            ]
        except StoreError as error:
            if error.retryable:
                raise
        else:
            sentence = f"a range beyond the end of an object is not refused: {len(part):,} bytes came back"
            return [Result("range", Verdict.BAD, sentence, figures)]
    return [Result("range", Verdict.OK, "parts of objects are what they should be", figures)]


def _difference(seen: bytes, wanted: bytes) -> str:
    return f"{len(seen):,} came back" if len(seen) != len(wanted) else "others came back"


# -- contents, names, listings ----------


def check_contents(probe: Probe, sizes_bytes: Sequence[int]) -> list[Result]:
    """Store and read back bodies of all sizes that cubefs writes. Raises StoreLiesError."""
    for size_bytes in sizes_bytes:
        probe.begin(f"contents of {size_bytes // MIB} MiB" if size_bytes >= MIB else "contents")
        name, data = probe.name(f"contents-{size_bytes}"), probe.random(size_bytes)
        probe.put(name, data)
        probe.look_patiently(name, among=(data,))
        probe.delete(name)
    figures: dict[str, Figure] = {"largest_bytes": max(sizes_bytes)}
    return [damage_result(probe, f"objects of up to {max(sizes_bytes) // MIB} MiB came back as they were", figures)]


def damage_result(probe: Probe, sentence: str, figures: Mapping[str, Figure]) -> Result:
    """Return the result about contents: `sentence`, unless one came back wrong and then right."""
    if probe.mended_damage:
        sentence = f"damaged on the way, but right when read again: {probe.mended_damage}"
        return Result("contents", Verdict.WARNING, sentence, figures)
    return Result("contents", Verdict.OK, sentence, figures)


def check_names(probe: Probe) -> list[Result]:
    """Use the longest names that cubefs may, which differ in their last letters, and an unusual one."""
    figures: dict[str, Figure] = {"longest_bytes": NAME_MAX_BYTES}
    longest = _longest_name(probe.name(""))
    names = [longest, f"{longest[:-1]}m", probe.name("-A.b_c-9")]
    bodies = [name.encode() for name in names]
    for name, body in zip(names, bodies, strict=True):
        probe.put(name, body)
    for name, body in zip(names, bodies, strict=True):
        if probe.look_patiently(name, among=(body, *bodies)) != body:
            return [Result("names", Verdict.BAD, "two objects with long names are taken for one", figures)]
        if probe.until(functools.partial(_is_listed, probe, name)) is None:
            sentence = f"listings miss objects: one with a name of {len(name)} bytes"
            return [Result("names", Verdict.BAD, sentence, figures)]
    return [Result("names", Verdict.OK, f"names of up to {NAME_MAX_BYTES} bytes are kept and listed", figures)]


def _longest_name(start: str) -> str:
    name = start
    while len(name) < NAME_MAX_BYTES:
        name += "n" * min(COMPONENT_MAX_BYTES, NAME_MAX_BYTES - len(name))
        if len(name) < NAME_MAX_BYTES - 1:
            name += "/"
    return name


def _is_listed(probe: Probe, name: str) -> bool:
    return name in probe.listed(name)


def check_paging(probe: Probe, count: int) -> list[Result]:
    """List more objects than fit into one answer, from the start and from the middle, then delete them all."""
    if not probe.may_delete:
        return []  # they would stay
    prefix = probe.name("paging-")
    names = [f"{prefix}{number:04d}" for number in range(count)]
    probe.together([functools.partial(probe.put, name, b"") for name in names], lanes=PAGING_LANES)
    probe.begin(f"listing {count:,} objects")
    figures: dict[str, Figure] = {"objects": count}
    middle = count // 3
    delay_s = probe.until(lambda: probe.listed(prefix) == names)
    if delay_s is None:
        return [Result("paging", Verdict.BAD, _listing_fault(probe.listed(prefix), names), figures)]
    if probe.listed(prefix, start_after=names[middle]) != names[middle + 1 :]:
        sentence = "listings cannot be relied on: a listing from the middle on is not what it should be"
        return [Result("paging", Verdict.BAD, sentence, figures)]
    if probe.delete_many(names) and probe.until(lambda: not probe.listed(prefix)) is None:
        sentence = f"of {count:,} objects deleted some are still listed after {probe.patience_s:g} s"
        return [Result("paging", Verdict.WARNING, sentence, figures)]
    sentence = f"{count:,} objects were listed completely and in order"
    return [Result("paging", Verdict.OK, sentence, figures)]


def _listing_fault(seen: Sequence[str], names: Sequence[str]) -> str:
    missing_count = len(set(names) - set(seen))
    if missing_count:
        return f"listings miss objects: {missing_count:,} of {len(names):,}"
    if sorted(set(seen)) == list(names) and len(seen) == len(names):
        return "listings are not in the order of the names"
    return f"listings cannot be relied on: {len(seen):,} names listed of {len(names):,} objects"


# -- deleting, and the clock ----------


def check_deleting(probe: Probe, *, is_thorough: bool) -> list[Result]:
    """See that deletions of objects there and not there are accepted; that they are done is seen elsewhere."""
    if is_thorough and probe.may_delete:
        names = [probe.name(f"deleting-{number}") for number in range(4)]
        for name in names[:3]:
            probe.put(name, b"")
        probe.delete(names[0])
        probe.delete(names[3])  # never there
        probe.delete_many(names)
        left = [name for name in names if not _is_gone(probe, name)]
        if probe.may_delete and left:
            sentence = f"deleting is acknowledged but not done: {len(left)} of {len(names)} objects are still there"
            return [Result("deleting", Verdict.BAD, sentence)]
    if not probe.may_delete:
        sentence = "deleting is refused: fine for an append-only key; reclaiming space needs one that may delete"
        return [Result("deleting", Verdict.WARNING, sentence, {"allowed": False})]
    return [Result("deleting", Verdict.OK, "deleting is allowed", {"allowed": True})]


def check_clock(probe: Probe) -> list[Result]:
    """Compare the store's clock with ours. Both the way there and the way back may have taken the time."""
    before_ns = probe.wall_clock_ns()
    store_ns = probe.store_now_ns()
    skew_s = (store_ns - (before_ns + probe.wall_clock_ns()) / 2) / 1e9
    figures: dict[str, Figure] = {"ahead_s": skew_s}
    if abs(skew_s) <= CLOCK_WARNING_S:
        return [Result("clock", Verdict.OK, "the store's clock and this machine's agree", figures)]
    ahead = "ahead of" if skew_s > 0 else "behind"
    amount = f"{abs(skew_s):,.0f} s" if abs(skew_s) < 120 else f"{abs(skew_s) / 60:,.0f} minutes"
    sentence = f"the store's clock is {amount} {ahead} this machine's; set this machine's clock"
    verdict = Verdict.BAD if abs(skew_s) > CLOCK_BAD_S else Verdict.WARNING
    return [Result("clock", verdict, sentence, figures)]
