"""Prints the results side by side, and writes them as JSON."""

from __future__ import annotations

import json
import os
import platform
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.bench.alternate import Measured
from tests.bench.metadata import Sample
from tests.bench.rows import Results, Row, Subject, Unit
from tests.bench.targets import Target, ratio

LABEL_WIDTH = 32
METADATA_LABEL_WIDTH = 42
COLUMN_WIDTH = 15
WIDE_COLUMN = 30
NOT_APPLICABLE = "-"
MICROSECONDS_BELOW_S = 0.001


def print_mounted(measured: Measured, *, rounds: int) -> None:
    """Print the table of what was measured through the mounts and by the programs."""
    inputs, contenders, results = measured
    print(f"\nMedians of {rounds} alternating rounds.\n")
    _print_line("", [*contenders, "cubefs / floor"])
    headings = {
        Subject.TREE: f"{inputs.tree_files:,} small files, {inputs.tree_bytes / 1e6:,.0f} MB",
        Subject.FILE: f"one file of {inputs.file_bytes / 1e6:,.0f} MB",
        Subject.BOTH: "both",
    }
    for subject, heading in headings.items():
        print(heading)
        for row in Row:
            if row.subject is subject:
                _print_row(results, contenders, row)
    _print_failures(results)


def print_metadata(samples: Sequence[Sample]) -> None:
    """Print the metadata rows: one line per operation, one column per number of inodes."""
    sizes = sorted({sample.inodes for sample in samples if sample.inodes})
    cells = {(sample.what, sample.inodes): sample for sample in samples}
    print("\nMetadata, without FUSE: median (worst)\n")
    print(f"{'':<{METADATA_LABEL_WIDTH}}" + "".join(f"{f'{size:,} inodes':>{WIDE_COLUMN}}" for size in sizes))
    for what in dict.fromkeys(sample.what for sample in samples if sample.inodes):
        line = [_spread(cells.get((what, size))) for size in sizes]
        print(f"  {what:<{METADATA_LABEL_WIDTH - 2}}" + "".join(f"{cell:>{WIDE_COLUMN}}" for cell in line))
    for sample in samples:
        if not sample.inodes:
            print(f"  {sample.what:<{METADATA_LABEL_WIDTH + WIDE_COLUMN - 2}}{_spread(sample):>{WIDE_COLUMN}}")


def print_targets(targets: Sequence[Target]) -> None:
    """Print what was to be reached and whether it was."""
    print("\nTargets")
    for target in targets:
        verdict = "met" if target.met else "MISSED"
        print(f"  {target.label:<42} {target.reached:>20}   {target.wanted:<24} {verdict}")


def shown(value: float, unit: Unit) -> str:
    """Return a measured number (seconds or bytes) with its unit."""
    match unit:
        case Unit.SECONDS:
            return f"{value:.2f} s"
        case Unit.MILLISECONDS:
            return f"{value * 1e3:.1f} ms"
        case Unit.MICROSECONDS:
            return f"{value * 1e6:.1f} µs"
        case Unit.BYTES:
            return f"{value / 1e6:,.1f} MB"


def mounted_as_json(measured: Measured, *, rounds: int) -> dict[str, object]:
    """Return the results with every sample: seconds, and bytes."""
    inputs, _, results = measured
    rows: dict[str, dict[str, object]] = {}
    for (contender, row), samples in results.samples.items():
        rows.setdefault(row.name.lower(), {})[contender] = {
            "unit": "bytes" if row.unit is Unit.BYTES else "s",
            "median": results.median(contender, row),
            "samples": samples,
        }
    failures = [
        {"row": row.name.lower(), "contender": contender, "reason": reason}
        for (contender, row), reason in results.failures.items()
    ]
    return {
        "rounds": rounds,
        "tree": {"files": inputs.tree_files, "bytes": inputs.tree_bytes},
        "file": {"bytes": inputs.file_bytes},
        "rows": rows,
        "failures": failures,
    }


def metadata_as_json(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """Return the metadata rows; all times in seconds."""
    return [sample._asdict() for sample in samples]


def write_json(path: Path, parts: dict[str, object]) -> None:
    """Write all parts of a run, with the machine they were measured on."""
    machine = {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, **parts}, indent=2) + "\n")


def _print_failures(results: Results) -> None:
    """Print each reason once, with the rows it spoilt."""
    spoilt: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (contender, row), reason in results.failures.items():
        spoilt[contender, reason].append(row.label)
    for (contender, reason), labels in spoilt.items():
        rows = labels[0] if len(labels) == 1 else f"{len(labels)} rows"
        print(textwrap.fill(f"FAILED: {contender}, {rows}: {reason}", 110, subsequent_indent="    "))


def _print_row(results: Results, contenders: Sequence[str], row: Row) -> None:
    cells = [_cell(results, contender, row) for contender in contenders]
    is_compared = row.unit is Unit.SECONDS and row is not Row.MOUNT
    in_floors = ratio(results, row) if is_compared else None
    _print_line(f"  {row.label}", [*cells, "" if in_floors is None else f"{in_floors:.2f} x"])


def _spread(sample: Sample | None) -> str:
    if sample is None:
        return NOT_APPLICABLE
    unit = Unit.MICROSECONDS if sample.seconds < MICROSECONDS_BELOW_S else Unit.MILLISECONDS
    if sample.seconds == sample.worst_seconds:
        return shown(sample.seconds, unit)
    return f"{shown(sample.seconds, unit)} ({shown(sample.worst_seconds, unit)})"


def _cell(results: Results, contender: str, row: Row) -> str:
    if (contender, row) in results.failures:
        return "FAILED"
    value = results.peak(contender) if row is Row.PEAK else results.median(contender, row)
    return NOT_APPLICABLE if value is None else shown(value, row.unit)


def _print_line(label: str, cells: Sequence[str]) -> None:
    print(f"{label:<{LABEL_WIDTH}}" + "".join(f"{cell:>{COLUMN_WIDTH}}" for cell in cells))
