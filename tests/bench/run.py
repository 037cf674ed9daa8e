"""`make bench`: measures cubefs beside the floor and its peers in one run, and prints the tables.

Environment: ROUNDS (default 3), QUICK=1 (a tenth of everything, one round, no verdict), PARTS (default
"mounted metadata"), CONTENDERS (default all), BENCH_DIR (the disk to measure on, default build/bench).
Exit status 1 when a row failed or a target was missed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from contrib.demo.scratch import Interrupted, Scratch, StepError
from tests.bench import metadata, trees
from tests.bench.alternate import measure_contenders
from tests.bench.table import (
    metadata_as_json,
    mounted_as_json,
    print_metadata,
    print_mounted,
    print_targets,
    write_json,
)
from tests.bench.targets import Target, mounted_targets, snapshot_targets

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench.json"


class Run:
    """One run: the parts asked for, their targets, what goes into the JSON."""

    def __init__(self, *, quick: bool, rounds: int, disk: Path) -> None:
        self.quick = quick
        self.rounds = rounds
        self.disk = disk
        self.targets: list[Target] = []
        self.outcome: dict[str, object] = {"quick": quick}
        self.failed_rows = 0

    def mounted(self, scratch: Scratch) -> None:
        """Measure through mounts and by the peers' commands."""
        sizes = trees.QUICK if self.quick else trees.FULL
        measured = measure_contenders(scratch, disk=self.disk, sizes=sizes, rounds=self.rounds)
        print_mounted(measured, rounds=self.rounds)
        self.targets += mounted_targets(measured.results)
        self.outcome["mounted"] = mounted_as_json(measured, rounds=self.rounds)
        self.failed_rows += len(measured.results.failures)

    def metadata(self, scratch: Scratch) -> None:
        """Measure the file layer on synthetic databases."""
        effort = metadata.QUICK if self.quick else metadata.FULL
        samples = list(metadata.measure_metadata(scratch.directory(self.disk), effort))
        print_metadata(samples)
        self.targets += snapshot_targets(samples)
        self.outcome["metadata"] = metadata_as_json(samples)

    def finish(self) -> int:
        """Print the verdict, write the JSON; return the exit status."""
        if not self.quick:
            print_targets(self.targets)
        self.outcome["targets"] = [target._asdict() for target in self.targets]
        write_json(OUTPUT, self.outcome)
        print(f"\nAll samples: {OUTPUT.relative_to(ROOT)}")
        missed = not self.quick and not all(target.met for target in self.targets)
        return int(self.failed_rows > 0 or missed)


def main() -> int:
    """Run what the environment asks for; return the exit status."""
    quick = os.environ.get("QUICK", "") not in ("", "0")
    disk = Path(os.environ.get("BENCH_DIR") or ROOT / "build" / "bench")
    disk.mkdir(parents=True, exist_ok=True)
    run = Run(quick=quick, rounds=int(os.environ.get("ROUNDS") or (1 if quick else 3)), disk=disk)
    known = {"mounted": run.mounted, "metadata": run.metadata}
    parts = os.environ.get("PARTS", "").split() or list(known)
    if unknown := set(parts) - set(known):
        print(f"PARTS: {', '.join(sorted(unknown))}: not one of {', '.join(known)}", file=sys.stderr)
        return 2
    with Scratch("cubefs-bench-") as scratch:
        try:
            for part in parts:
                known[part](scratch)
            status = run.finish()
        except StepError as error:
            print(f"\nThe bench failed: {error}", file=sys.stderr)
            status = 1
        except Interrupted as signal:
            print("\nInterrupted: unmounting and removing what was made.", file=sys.stderr)
            status = signal.status
    for problem in scratch.problems:
        print(f"left behind: {problem}", file=sys.stderr)
        status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(main())
