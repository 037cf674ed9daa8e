"""What is to be reached, and whether it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.bench.floor import Floor
from tests.bench.metadata import SNAPSHOT, Sample
from tests.bench.ours import Cubefs
from tests.bench.peers import RESTIC
from tests.bench.remote import CUBEFS, HEAD, MeasuredRemote
from tests.bench.remote_rows import Column, RemoteResults, RemoteRow
from tests.bench.rows import Results, Row

TREE_IN_MAX_RATIO = 1.8  # of the floor's time
TREE_OUT_MAX_RATIO = 2.0
SNAPSHOT_MAX_S = 0.050  # the transaction, at any number of inodes
MEMORY_MAX_BYTES = 500_000_000
FULL_MAX_RATIO = 1.5  # until stored: packs read back, of the time with packs only asked for
REQUESTS_PER_PACK = 2.0  # one to put it, one to read it back
IDLE_REQUESTS = 0


class Target(NamedTuple):
    """One line of the verdict."""

    label: str
    reached: str  # with its unit; why not, where it was not measured
    wanted: str
    met: bool


def mounted_targets(results: Results) -> list[Target]:
    """Return the targets of the rows that are measured through the mount."""
    return [
        _ratio_target(results, Row.TREE_IN, TREE_IN_MAX_RATIO),
        _ratio_target(results, Row.TREE_OUT, TREE_OUT_MAX_RATIO),
        _memory_target(results),
        _stored_target(results),
    ]


def snapshot_targets(samples: Sequence[Sample]) -> list[Target]:
    """Return the target of a snapshot at each size; the median counts, the disk's worst moment does not."""
    return [
        Target(
            f"snapshot at {sample.inodes:,} inodes",
            f"{sample.seconds * 1000:.1f} ms",
            f"<= {SNAPSHOT_MAX_S * 1000:.0f} ms",
            sample.seconds <= SNAPSHOT_MAX_S,
        )
        for sample in samples
        if sample.what == SNAPSHOT
    ]


def remote_targets(measured: MeasuredRemote) -> list[Target]:
    """Return the targets of the rows that are measured over S3."""
    results = measured.results
    targets = [
        _full_target(results, row, latency_ms)
        for row in (RemoteRow.TREE_IN, RemoteRow.FILE_IN)
        for latency_ms in measured.latencies_ms
    ]
    columns = [Column(CUBEFS, latency_ms) for latency_ms in measured.latencies_ms]
    per_pack = [results.requests_per_pack(column) for column in columns]
    idle = [results.most(column, RemoteRow.IDLE) for column in columns]
    peaks = [results.peak_bytes(column) for column in columns]
    targets.append(_worst_target("requests for each pack stored", per_pack, REQUESTS_PER_PACK, "{:g}"))
    requests = [None if traffic is None else float(sum(traffic.requests)) for traffic in idle]
    targets.append(_worst_target("requests of an idle mount in 10 s", requests, IDLE_REQUESTS, "{:g}"))
    memory = [None if peak is None else peak / 1e6 for peak in peaks]
    label = "memory of the daemon over S3, at its peak"
    targets.append(_worst_target(label, memory, MEMORY_MAX_BYTES / 1e6, "{:,.0f} MB"))
    return targets


def ratio(results: Results, row: Row) -> float | None:
    """Return cubefs's median time in units of the floor's."""
    ours, floor = results.median(Cubefs.name, row), results.median(Floor.name, row)
    return None if ours is None or not floor else ours / floor


def _ratio_target(results: Results, row: Row, limit: float) -> Target:
    reached = ratio(results, row)
    shown = "not measured" if reached is None else f"{reached:.2f} x the floor"
    return Target(row.label, shown, f"<= {limit} x", reached is not None and reached <= limit)


def _full_target(results: RemoteResults, row: RemoteRow, latency_ms: float) -> Target:
    full = results.median_s(Column(CUBEFS, latency_ms), row)
    head = results.median_s(Column(HEAD, latency_ms), row)
    reached = None if full is None or not head else full / head
    return Target(
        f"{row.label}, {latency_ms:g} ms",
        "not measured" if reached is None else f"{reached:.2f} x {HEAD}",
        f"<= {FULL_MAX_RATIO} x",
        reached is not None and reached <= FULL_MAX_RATIO,
    )


def _worst_target(label: str, values: Sequence[float | None], limit: float, form: str) -> Target:
    measured = [value for value in values if value is not None]
    if len(measured) < len(values) or not measured:
        return Target(label, "not measured", f"<= {form.format(limit)}", False)
    worst = max(measured)
    return Target(label, form.format(worst), f"<= {form.format(limit)}", worst <= limit)


def _memory_target(results: Results) -> Target:
    peak = results.peak(Cubefs.name)
    shown = "not measured" if peak is None else f"{peak / 1e6:,.0f} MB"
    met = peak is not None and peak <= MEMORY_MAX_BYTES
    return Target("memory of the daemon, at its peak", shown, f"<= {MEMORY_MAX_BYTES / 1e6:.0f} MB", met)


def _stored_target(results: Results) -> Target:
    ours, theirs = results.median(Cubefs.name, Row.STORED), results.median(RESTIC.program, Row.STORED)
    label = "bytes stored for the small files"
    if ours is None or theirs is None:
        return Target(label, "not measured", "< restic's", False)
    return Target(label, f"{ours / 1e6:,.1f} MB", f"< restic's {theirs / 1e6:,.1f} MB", ours < theirs)
