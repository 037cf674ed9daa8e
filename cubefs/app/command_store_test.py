"""`cubefs store-test`: find out what a store really guarantees, and say it so that a person understands it.

Must never: ask for a passphrase; no file system is touched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cubefs.app import arguments
from cubefs.app.display import ProgressLine, aligned, format_bytes, format_duration, table
from cubefs.errors import StoreUnsuitableError, UsageError
from cubefs.model import KIB, MIB
from cubefs.visible import safe

if TYPE_CHECKING:
    from cubefs.store.examine import Plan, Report, Result
    from cubefs.store.examine_report import Figure

SUMMARY = "find out what a store really guarantees, before trusting it"
DESCRIPTION = """\
Examine the store at URL: is what was put, overwritten and deleted seen at once, by readers and in listings; is a
name that is taken refused, also when many ask at once; do contents, ranges and listings come back as they should;
does its clock agree with ours; how fast is it. The last line is the verdict.

Everything is done under a prefix of its own, store-test-..., and removed at the end. At most about 1 GiB is moved
each way, and 256 MiB stored at a time; less on a slow line. --short does what mkfs does: about 25 small requests.
"""
SIZE_MIB, SIZE_MAX_MIB = 8, 16  # 16 at once are held in memory
SECONDS, SECONDS_MAX = 2.0, 60.0
MEASURED = ("latency", "throughput")  # shown as tables
_LABELS = {"ok": "ok", "warning": "warning", "bad": "BAD"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    arguments.add_url(parser)
    parser.add_argument("--short", action="store_true", help="examine only what mkfs does, in about a second")
    parser.add_argument(
        "--size",
        metavar="MIB",
        type=int,
        help=f"measure throughput with objects of so many MiB (default {SIZE_MIB}, at most {SIZE_MAX_MIB})",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        help=f"begin no request of a measurement after S seconds (default {SECONDS:g}); there are six",
    )
    parser.add_argument("--large", action="store_true", help="also put and get an object of 64 MiB")
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Examine and report; 0 for a store that can be used, with warnings or without."""
    from cubefs.store import open_store
    from cubefs.store.examine import examine

    plan = _plan(namespace)
    store = open_store(namespace.url)
    progress = ProgressLine()
    try:
        report = examine(store, plan, progress=progress.show)
    finally:
        progress.clear()
    if namespace.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(report)))
    return 0 if report.is_suitable else StoreUnsuitableError.exit_code


def _plan(namespace: argparse.Namespace) -> Plan:
    """Understand how much is to be examined. Raises UsageError."""
    from cubefs.store.examine import FULL, LARGE_BYTES, SHORT
    from cubefs.store.examine_speed import Budget

    if namespace.short:
        if namespace.size is not None or namespace.seconds is not None or namespace.large:
            raise UsageError("--short measures nothing: leave out --size, --seconds and --large")
        return SHORT
    size_mib = SIZE_MIB if namespace.size is None else namespace.size
    seconds = SECONDS if namespace.seconds is None else namespace.seconds
    if not 1 <= size_mib <= SIZE_MAX_MIB:
        raise UsageError(f"--size {size_mib} is not a number of MiB from 1 to {SIZE_MAX_MIB}")
    if not 0 < seconds <= SECONDS_MAX:
        raise UsageError(f"--seconds {seconds:g} is not a time from 0 to {SECONDS_MAX:g} seconds")
    sizes_bytes = (*FULL.sizes_bytes, *([LARGE_BYTES] if namespace.large else []))
    return replace(FULL, sizes_bytes=sizes_bytes, budget=Budget(size_mib * MIB, seconds, (1, 4, 16)))


def _lines(report: Report) -> Iterator[str]:
    """Yield the report for a person."""
    yield f"{safe(report.url)}, examined in {format_duration(report.seconds)} with {report.call_count:,} requests"
    yield ""
    judged = [result for result in report.results if result.name not in MEASURED]
    labels = aligned((_LABELS[result.verdict.value], result.name.replace("_", " ")) for result in judged)
    yield from aligned((label, safe(result.sentence)) for label, result in zip(labels, judged, strict=True))
    measured = {result.name: result for result in report.results if result.name in MEASURED}
    if "latency" in measured:
        yield ""
        yield from _latency_lines(measured["latency"])
    if "throughput" in measured:
        yield ""
        yield from _throughput_lines(measured["throughput"])
    yield ""
    if report.retry_count:
        times = f"{report.retry_count:,} times" if report.retry_count > 1 else "once"
        yield f"A request failed and was repeated, {times}; the last: {safe(report.last_retry)}"
    if report.leftover is not None:
        left = report.leftover
        yield f"{left.count:,} small test objects stay in {safe(left.where)}: {safe(left.why)}"
    yield f"Verdict: {safe(report.verdict())}"


def _latency_lines(result: Result) -> list[str]:
    figures = result.figures
    rows = [
        [f"{verb} of {_size(figures['object_bytes'])}", *(_milliseconds(figures[key]) for key in keys)]
        for verb in ("put", "get")
        for keys in [[f"{verb}_min_s", f"{verb}_median_s", f"{verb}_p95_s"]]
    ]
    return table(["latency", "fastest", "median", "95 % within"], rows)


def _throughput_lines(result: Result) -> list[str]:
    figures = result.figures
    lanes = [key.split("_")[1] for key in figures if key.startswith("up_")]
    rows = [
        [
            f"{lane} at once",
            *(_rate(figures[f"{way}_{lane}_bytes_per_s"]) for way in ("up", "down")),
            _size(figures[f"object_{lane}_bytes"]),
        ]
        for lane in lanes
    ]
    return table(["throughput", "up", "down", "objects of"], rows)


def _rate(figure: Figure) -> str:
    return f"{format_bytes(round(float(figure or 0)))}/s"


def _size(figure: Figure) -> str:
    kib_count = float(figure or 0) / KIB
    return f"{kib_count:g} KiB" if kib_count < KIB else f"{kib_count / KIB:g} MiB"


def _milliseconds(figure: Figure) -> str:
    return f"{float(figure or 0) * 1e3:.1f} ms"
