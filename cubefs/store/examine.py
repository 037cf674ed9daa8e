"""Finds out what a store really guarantees, before anybody trusts it with a file system.

Must never: touch an object of somebody else, or leave one of its own behind that it may delete.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cubefs.errors import (
    NoStoreError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreLiesError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.model import MIB
from cubefs.store import examine_promises as promises
from cubefs.store.base import Store
from cubefs.store.examine_consistency import Amount, check_consistency
from cubefs.store.examine_probe import SMALL_BYTES, Probe, Progress
from cubefs.store.examine_report import Report, Result, Verdict
from cubefs.store.examine_speed import Budget, measure_latency, measure_throughput

__all__ = ["FULL", "SHORT", "Plan", "Report", "Result", "Verdict", "examine", "require_suitable"]

# not a verdict on the store, but a reason to ask again later or with other credentials
_NO_VERDICT = (NoStoreError, StoreDeniedError, StoreUnavailableError, StoreFullError)

Check = tuple[str, Callable[[], list[Result]]]


@dataclass(frozen=True)
class Plan:
    """How much is examined."""

    amount: Amount
    races: int
    contenders: int
    is_thorough: bool
    paging_count: int = 0  # objects for a long listing
    sizes_bytes: Sequence[int] = ()  # of contents; none: those of the other checks have to do
    budget: Budget | None = None  # None: speed is not measured


SHORT = Plan(
    Amount(rounds=3, overwrites=3, deletes=1, lanes=3, is_thorough=False), races=0, contenders=0, is_thorough=False
)
FULL = Plan(
    Amount(rounds=20, overwrites=20, deletes=20, lanes=4, is_thorough=True),
    races=3,
    contenders=16,
    is_thorough=True,
    paging_count=1100,  # S3 answers with at most 1,000 names at a time
    sizes_bytes=(0, 1, MIB, 8 * MIB, 16 * MIB),  # a pack has about 8 MiB, 16 at most
    budget=Budget(8 * MIB, 2.0, (1, 4, 16)),
)
LARGE_BYTES = 64 * MIB  # a log object of a very busy minute


def examine(store: Store, plan: Plan, *, probe: Probe | None = None, progress: Progress | None = None) -> Report:
    """Examine a store and report, everything of ours removed. Blocks for about half a minute; SHORT: a second.

    Raises StoreError when there is no verdict to be had: unreachable, wrong credentials, full.
    """
    probe = probe or Probe(store, progress=progress or (lambda text: None))
    started_s = probe.clock()
    try:
        probe.begin("reading what was put")
        probe.find(probe.name("absent"))  # who is no store at all gets no report, but one line
        results = _thorough(probe, plan) if plan.is_thorough else _brief(probe, plan)
    except StoreError as error:
        leftover = probe.clean_up()
        if leftover is None:
            raise
        stay = f"{leftover.count} test object{'s' if leftover.count > 1 else ''} may stay in {leftover.where}"
        raise type(error)(f"{error}; {stay}") from error
    except BaseException:  # Ctrl-C
        probe.clean_up()
        raise
    if probe.mended_damage:  # by whatever check
        results.append(promises.damage_result(probe, "", {}))
    probe.begin("removing the test objects")
    leftover = probe.clean_up()
    return Report(
        url=probe.describe(),
        results=_in_order(results),
        seconds=probe.clock() - started_s,
        call_count=probe.call_count,
        retry_count=probe.retry_count,
        last_retry=probe.last_retry,
        leftover=leftover,
    )


def require_suitable(store: Store, *, probe: Probe | None = None) -> Report:
    """Do the short examination; raise StoreUnsuitableError, saying why, for a store that breaks a promise."""
    report = examine(store, SHORT, probe=probe)
    if not report.is_suitable:
        raise StoreUnsuitableError(
            f"{report.url} is {report.verdict()}; no file system was made (cubefs store-test tells more)"
        )
    return report


_SEVERITY = {Verdict.OK: 0, Verdict.WARNING: 1, Verdict.BAD: 2}
_ORDER = (
    "conditional_put",
    "contents",
    "range",
    "names",
    "read_after_put",
    "read_after_overwrite",
    "read_after_delete",
    "listing_after_put",
    "listing_after_delete",
    "paging",
    "deleting",
    "clock",
    "latency",
    "throughput",
)


def _brief(probe: Probe, plan: Plan) -> list[Result]:
    """Everything that matters, all at once: it is the round trips that take the time."""
    checks: list[Check] = [
        ("read_after_put", lambda: check_consistency(probe, plan.amount)),
        (
            "conditional_put",
            lambda: promises.check_conditional_put(probe, races=plan.races, contenders=plan.contenders),
        ),
        ("range", lambda: promises.check_ranges(probe, is_thorough=False)),
        ("clock", lambda: promises.check_clock(probe)),
    ]
    results = probe.together([functools.partial(_result_of, *check) for check in checks])
    same = promises.damage_result(probe, "small objects came back as they were", {"largest_bytes": SMALL_BYTES})
    deleting = promises.check_deleting(probe, is_thorough=False)
    return [result for part in results for result in part] + [same, *deleting]


def _thorough(probe: Probe, plan: Plan) -> list[Result]:
    """One check after the other, so that each has the store for itself."""
    budget = plan.budget
    checks: list[tuple[str, str, Callable[[], list[Result]]]] = [
        ("reading what was put", "read_after_put", lambda: check_consistency(probe, plan.amount)),
        (
            "conditional put",
            "conditional_put",
            lambda: promises.check_conditional_put(probe, races=plan.races, contenders=plan.contenders),
        ),
        ("ranges", "range", lambda: promises.check_ranges(probe, is_thorough=True)),
        ("contents", "contents", lambda: promises.check_contents(probe, plan.sizes_bytes)),
        ("names", "names", lambda: promises.check_names(probe)),
        (
            f"putting {plan.paging_count:,} objects",
            "paging",
            lambda: promises.check_paging(probe, plan.paging_count),
        ),
        ("deleting", "deleting", lambda: promises.check_deleting(probe, is_thorough=True)),
        ("the clock", "clock", lambda: promises.check_clock(probe)),
    ]
    if budget is not None:
        checks += [
            ("latency", "latency", lambda: measure_latency(probe, seconds=budget.seconds)),
            ("throughput", "throughput", lambda: measure_throughput(probe, budget)),
        ]
    results: list[Result] = []
    for title, name, check in checks:
        probe.begin(title)
        results += _result_of(name, check)
    return results


def _result_of(name: str, check: Callable[[], list[Result]]) -> list[Result]:
    """Run a check; an error that tells something about the store is a result, too."""
    try:
        return check()
    except _NO_VERDICT:
        raise
    except StoreLiesError as error:
        return [Result("contents", Verdict.BAD, str(error))]
    except StoreError as error:
        return [Result(name, Verdict.BAD, str(error))]


def _in_order(results: Sequence[Result]) -> tuple[Result, ...]:
    """Return one result for each name, the worst, in the order in which a person should read them."""
    worst: dict[str, Result] = {}
    for result in results:
        known = worst.get(result.name)
        if known is None or _SEVERITY[result.verdict] > _SEVERITY[known.verdict]:
            worst[result.name] = result
    return tuple(worst[name] for name in _ORDER if name in worst)
