"""What the tests of `cubefs store-test` share: smaller plans, a clock that nobody waits for, looking at results."""

from __future__ import annotations

import random
from dataclasses import replace

from cubefs.model import KIB
from cubefs.store.base import Store
from cubefs.store.examine import FULL, SHORT, Plan, Report, Result, examine
from cubefs.store.examine_consistency import Amount
from cubefs.store.examine_probe import Probe
from tests.support.lying_stores import ManualClock

# everything, but less of it; one round at a time, so that only one thread moves the clock
QUICK = replace(
    FULL,
    amount=Amount(rounds=4, overwrites=4, deletes=4, lanes=1, is_thorough=True),
    sizes_bytes=(0, 1, 64 * KIB),
    budget=None,
)
ALONE = replace(SHORT, amount=SHORT.amount._replace(lanes=1))
NAMES = [
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
]
IN_SHORT = [name for name in NAMES if name not in ("names", "paging", "latency", "throughput")]


def probe_of(store: Store, clock: ManualClock) -> Probe:
    return Probe(
        store,
        clock=clock.monotonic,
        wall_clock_ns=clock.time_ns,
        sleep=clock.sleep,
        random=random.Random(1).randbytes,
    )


def examined(store: Store, clock: ManualClock, plan: Plan = QUICK) -> Report:
    return examine(store, plan, probe=probe_of(store, clock))


def found(report: Report, name: str) -> Result:
    (result,) = [result for result in report.results if result.name == name]
    return result


def left_in(store: Store) -> list[str]:
    return [info.name for info in store.list("")]
