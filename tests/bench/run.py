"""`make bench`: measures cubefs beside the floor and its peers in one run, and prints the tables.

Environment: ROUNDS (default 3), QUICK=1 (a tenth of everything, one round, no verdict), PARTS (default
"mounted metadata remote"), CONTENDERS (default all), LATENCIES_MS (of the part "remote", default "0 50"),
BENCH_DIR (the disk to measure on, default build/bench).
Exit status 1 when a row failed or a target was missed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from contrib.demo.scratch import Interrupted, Scratch, StepError
from contrib.demo.stores import forget_credentials
from tests.bench import metadata, trees
from tests.bench.alternate import Grounds, measure_contenders, prepare_grounds
from tests.bench.remote import LATENCIES_MS, measure_remote
from tests.bench.remote_table import print_remote, remote_as_json
from tests.bench.table import (
    metadata_as_json,
    mounted_as_json,
    print_metadata,
    print_mounted,
    print_targets,
    write_json,
)
from tests.bench.targets import Target, mounted_targets, remote_targets, snapshot_targets

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench.json"


class Run:
    """One run: the parts asked for, their targets, what goes into the JSON."""

    def __init__(self, *, quick: bool, rounds: int, latencies_ms: Sequence[float], disk: Path) -> None:
        self.quick = quick
        self.rounds = rounds
        self.latencies_ms = latencies_ms
        self.disk = disk
        self.targets: list[Target] = []
        self.outcome: dict[str, object] = {"quick": quick}
        self.failed_rows = 0
        self._grounds: Grounds | None = None

    def mounted(self, scratch: Scratch) -> None:
        """Measure through mounts and by the peers' commands."""
        grounds = self._prepared(scratch)
        measured = measure_contenders(scratch, grounds, disk=self.disk, rounds=self.rounds)
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

    def remote(self, scratch: Scratch) -> None:
        """Measure over S3."""
        forget_credentials()
        grounds = self._prepared(scratch)
        measured = measure_remote(scratch, grounds, latencies_ms=self.latencies_ms, rounds=self.rounds)
        print_remote(measured, rounds=self.rounds)
        self.targets += remote_targets(measured)
        self.outcome["remote"] = remote_as_json(measured, rounds=self.rounds)
        self.failed_rows += len(measured.results.failures)

    def _prepared(self, scratch: Scratch) -> Grounds:
        """Return the inputs and where to work, made once for all parts."""
        if self._grounds is None:
            sizes = trees.QUICK if self.quick else trees.FULL
            self._grounds = prepare_grounds(scratch, disk=self.disk, sizes=sizes)
        return self._grounds

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
    try:
        rounds = int(os.environ.get("ROUNDS") or (1 if quick else 3))
        latencies_ms = [float(word) for word in os.environ.get("LATENCIES_MS", "").split()] or LATENCIES_MS
    except ValueError as error:
        print(f"ROUNDS and LATENCIES_MS are numbers: {error}", file=sys.stderr)
        return 2
    run = Run(quick=quick, rounds=rounds, latencies_ms=latencies_ms, disk=disk)
    known = {"mounted": run.mounted, "metadata": run.metadata, "remote": run.remote}
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
