"""What the part "remote" of the bench makes of the proxy's log and of its samples: no server is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrib.demo.scratch import StepError
from tests.bench.link import Requests, Traffic, count_requests
from tests.bench.remote import CUBEFS, CUBEFS_ROWS, HEAD, HEAD_ROWS, RESTIC_ROWS, MeasuredRemote
from tests.bench.remote_rows import Column, RemoteResults, RemoteRow
from tests.bench.remote_table import print_remote
from tests.bench.targets import remote_targets
from tests.bench.trees import Inputs

OURS, OURS_HEAD, RESTIC = Column(CUBEFS, 50.0), Column(HEAD, 50.0), Column("restic", 50.0)
ALL = (OURS, OURS_HEAD, RESTIC)
NOTHING = Requests(0, 0, 0, 0, 0)
READ_BACK = Requests(2, 2, 0, 0, 0)
ASKED_FOR = Requests(2, 0, 2, 0, 0)


def traffic(seconds: float, requests: Requests = READ_BACK, *, packs: int = 2) -> Traffic:
    return Traffic(seconds, requests, 16_000_000, 16_000_000, packs, requests.put + requests.get + requests.head)


def filled(*, full_s: float = 3.0, idle: Requests = NOTHING, peak_bytes: int = 10**8) -> RemoteResults:
    """Return the results of one round in which every row was measured."""
    results = RemoteResults()
    samples = {
        OURS: (CUBEFS_ROWS, traffic(full_s)),
        OURS_HEAD: (HEAD_ROWS, traffic(2.0, ASKED_FOR)),
        RESTIC: (RESTIC_ROWS, traffic(1.5, packs=0)),
    }
    for column, (rows, sample) in samples.items():
        for row in rows:
            if row is not RemoteRow.PEAK:
                results.traffic[column, row].append(sample)
        results.take_peak(column, peak_bytes)
    results.traffic[OURS, RemoteRow.IDLE] = [traffic(10.0, idle, packs=0)]
    return results


def measured(results: RemoteResults) -> MeasuredRemote:
    inputs = Inputs(Path("/nowhere"), 15_000, 16_000, 250_000_000, 800_000_000)
    return MeasuredRemote("radosgw", inputs, [column.contender for column in ALL], [50.0], results)


def test_requests_are_told_apart_by_method_and_target() -> None:
    log = [
        ("PUT", "/bench/prefix/packs/aa/bb/c"),
        ("GET", "/bench/prefix/packs/aa/bb/c"),
        ("GET", "/bench/a%20name?partNumber=1"),
        ("HEAD", "/bench/prefix/packs/aa/bb/c"),
        ("GET", "/bench?list-type=2&prefix=packs%2F"),
        ("GET", "/bench/?delimiter=&list-type=2"),
        ("GET", "/bench/?location="),
        ("HEAD", "/bench"),
        ("POST", "/bench?delete"),
        ("DELETE", "/bench/keys/x"),
    ]
    counted = count_requests({"method": method, "target": target} for method, target in log)
    assert counted == Requests(put=1, get=2, head=1, listing=2, other=4)
    assert str(counted) == "1/2/1/2 +4"


def test_a_typical_sample_is_one_that_was_measured() -> None:
    results = RemoteResults()
    for seconds, puts in ((3.0, 7), (1.0, 5), (2.0, 6)):
        results.traffic[OURS, RemoteRow.TREE_IN].append(traffic(seconds, Requests(puts, 0, 0, 0, 0)))
    assert results.median_s(OURS, RemoteRow.TREE_IN) == 2.0
    typical = results.typical(OURS, RemoteRow.TREE_IN)
    assert typical is not None and typical.requests.put == 6


def test_a_row_that_fails_once_has_no_figures() -> None:
    results = filled()

    def fail() -> Traffic:
        raise StepError("rsync: exit status 23")

    results.take(OURS, RemoteRow.TREE_OUT, fail)
    assert results.median_s(OURS, RemoteRow.TREE_OUT) is None
    results.fail(OURS, [RemoteRow.FILE_OUT, RemoteRow.PEAK], round_number=2, reason="not reached")
    failed = (RemoteRow.TREE_OUT, RemoteRow.FILE_OUT, RemoteRow.PEAK)
    assert set(results.failures) == {(OURS, row) for row in failed}


@pytest.mark.parametrize(
    ("results", "missed"),
    [
        (filled(), set()),
        (filled(full_s=3.1), {"rsync in, until stored, 50 ms", "cp in, until stored, 50 ms"}),
        (filled(idle=Requests(0, 1, 0, 0, 0)), {"requests of an idle mount in 10 s"}),
        (filled(peak_bytes=500_000_001), {"memory of the daemon over S3, at its peak"}),
    ],
)
def test_targets(results: RemoteResults, missed: set[str]) -> None:
    assert {target.label for target in remote_targets(measured(results)) if not target.met} == missed


def test_one_request_too_many_for_a_pack_misses_the_target() -> None:
    results = filled()
    results.take(OURS, RemoteRow.FILE_IN, lambda: traffic(3.0, Requests(3, 2, 0, 0, 0)))
    assert not all(target.met for target in remote_targets(measured(results)))


def test_what_was_not_measured_misses_its_target() -> None:
    assert not any(target.met for target in remote_targets(measured(RemoteResults())))


def test_the_table_compares_restores_with_the_mount_and_names_what_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = filled(full_s=3.0)
    results.failures[RESTIC, RemoteRow.FILE_IN] = "restic is not installed"
    print_remote(measured(results), rounds=1)
    lines = capsys.readouterr().out.splitlines()
    with_mount = next(line for line in lines if "with the mount" in line)
    assert "6.00 s" in with_mount and with_mount.endswith("4.00 x")
    assert next(line for line in lines if "rsync in" in line).endswith("2.00 x")
    assert any(line.startswith("FAILED: restic at 50 ms, cp in, until stored: restic is not") for line in lines)
    assert "radosgw" in lines[1]
