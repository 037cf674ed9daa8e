"""Prints the part "remote", one table for each latency, the contenders side by side; and returns it for JSON."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable

from contrib.demo.report import mb
from tests.bench.link import Traffic
from tests.bench.peers import RESTIC
from tests.bench.remote import CUBEFS, MeasuredRemote
from tests.bench.remote_rows import Column, RemoteResults, RemoteRow
from tests.bench.rows import Subject, Unit
from tests.bench.table import NOT_APPLICABLE, shown

LABEL_WIDTH = 40
COLUMN_WIDTH = 20
FAILED = "FAILED"
WITH_MOUNT = {RemoteRow.TREE_OUT, RemoteRow.FILE_OUT}  # restic reads its index within its command
NOT_COMPARED = {RemoteRow.MOUNT, RemoteRow.IDLE, RemoteRow.PEAK}


def print_remote(measured: MeasuredRemote, *, rounds: int) -> None:
    """Print all latencies."""
    print(f"\nOver S3 ({measured.server}), medians of {rounds} alternating rounds.")
    for latency_ms in measured.latencies_ms:
        print(f"\nWith {latency_ms:g} ms latency for each request\n")
        _print_line("", [*measured.contenders, f"{CUBEFS} / {RESTIC.program}"])
        _print_table(measured, [Column(name, latency_ms) for name in measured.contenders])
    _print_failures(measured.results)


def remote_as_json(measured: MeasuredRemote, *, rounds: int) -> dict[str, object]:
    """Return the results with every sample."""
    results = measured.results
    return {
        "server": measured.server,
        "rounds": rounds,
        "tree": {"files": measured.inputs.tree_files, "bytes": measured.inputs.tree_bytes},
        "file": {"bytes": measured.inputs.file_bytes},
        "rows": [
            {
                **column._asdict(),
                "row": row.name.lower(),
                "median_s": results.median_s(column, row),
                "samples": [{**sample._asdict(), "requests": sample.requests._asdict()} for sample in samples],
            }
            for (column, row), samples in results.traffic.items()
        ],
        "peak_bytes": [{**column._asdict(), "samples": peaks} for column, peaks in results.peaks.items()],
        "failures": [
            {**column._asdict(), "row": row.name.lower(), "reason": reason}
            for (column, row), reason in results.failures.items()
        ],
    }


def _print_table(measured: MeasuredRemote, columns: list[Column]) -> None:
    inputs, results = measured.inputs, measured.results
    headings = {
        Subject.TREE: f"{inputs.tree_files:,} small files, {mb(inputs.tree_bytes)}",
        Subject.FILE: f"one file of {mb(inputs.file_bytes)}",
        Subject.BOTH: "both",
    }
    for subject, heading in headings.items():
        print(heading)
        for row in RemoteRow:
            if row.subject is not subject:
                continue
            if row is RemoteRow.PEAK:
                _print_peaks(results, columns)
            else:
                _print_row(results, columns, row)
    _print_line("  requests for each pack stored", [_per_pack(results, column) for column in columns])


def _print_row(results: RemoteResults, columns: list[Column], row: RemoteRow) -> None:
    def cells(show: Callable[[Traffic], str]) -> list[str]:
        return [_cell(results, column, row, show) for column in columns]

    if row is not RemoteRow.IDLE:
        seconds = cells(lambda sample: shown(sample.seconds, Unit.SECONDS))
        _print_line(f"  {row.label}", seconds if row in WITH_MOUNT else [*seconds, _ratio(results, columns, row)])
    if row in WITH_MOUNT:
        totals = [_with_mount_s(results, column, row) for column in columns]
        line = [NOT_APPLICABLE if total is None else shown(total, Unit.SECONDS) for total in totals]
        _print_line("    with the mount", [*line, _ratio(results, columns, row)])
    label = f"  {row.label}: requests" if row is RemoteRow.IDLE else "    requests"
    _print_line(f"{label} PUT/GET/HEAD/LIST", cells(lambda sample: str(sample.requests)))
    if row is not RemoteRow.IDLE:
        _print_line("    MB up/down", cells(_volume))


def _volume(sample: Traffic) -> str:
    return f"{sample.up_bytes / 1e6:,.1f}/{sample.down_bytes / 1e6:,.1f}"


def _cell(results: RemoteResults, column: Column, row: RemoteRow, show: Callable[[Traffic], str]) -> str:
    if (column, row) in results.failures:
        return FAILED
    sample = results.most(column, row) if row is RemoteRow.IDLE else results.typical(column, row)
    return NOT_APPLICABLE if sample is None else show(sample)


def _with_mount_s(results: RemoteResults, column: Column, row: RemoteRow) -> float | None:
    """Return the seconds of a restore, with those of the mount where there is one; None: not measured."""
    seconds, mount_s = results.median_s(column, row), results.median_s(column, RemoteRow.MOUNT)
    if mount_s is None and column.contender == CUBEFS:
        return None
    return None if seconds is None else seconds + (mount_s or 0.0)


def _ratio(results: RemoteResults, columns: list[Column], row: RemoteRow) -> str:
    by_name = {column.contender: _with_mount_s(results, column, row) for column in columns}
    if row not in WITH_MOUNT:
        by_name = {column.contender: results.median_s(column, row) for column in columns}
    ours, theirs = by_name.get(CUBEFS), by_name.get(RESTIC.program)
    return "" if row in NOT_COMPARED or ours is None or not theirs else f"{ours / theirs:.2f} x"


def _per_pack(results: RemoteResults, column: Column) -> str:
    reached = results.requests_per_pack(column)
    return NOT_APPLICABLE if reached is None else f"{reached:.2f}"


def _print_peaks(results: RemoteResults, columns: list[Column]) -> None:
    cells = []
    for column in columns:
        peak = results.peak_bytes(column)
        is_failed = (column, RemoteRow.PEAK) in results.failures
        cells.append(FAILED if is_failed else NOT_APPLICABLE if peak is None else shown(peak, Unit.BYTES))
    _print_line(f"  {RemoteRow.PEAK.label}", cells)


def _print_failures(results: RemoteResults) -> None:
    """Print each reason once, with the rows it spoilt."""
    spoilt: dict[tuple[Column, str], list[str]] = defaultdict(list)
    for (column, row), reason in results.failures.items():
        spoilt[column, reason].append(row.label)
    for (column, reason), labels in spoilt.items():
        rows = labels[0] if len(labels) == 1 else f"{len(labels)} rows"
        print(textwrap.fill(f"FAILED: {column}, {rows}: {reason}", 110, subsequent_indent="    "))


def _print_line(label: str, cells: list[str]) -> None:
    print(f"{label:<{LABEL_WIDTH}}" + "".join(f"{cell:>{COLUMN_WIDTH}}" for cell in cells))
