"""How an audit looks: text, JSON, exit code, and the progress bar."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import cubefs.fsck
from cubefs.db.audit import CHECKS
from cubefs.db.audit_check import Affected, AffectedPath, Severity
from cubefs.fsck import catalogue
from cubefs.fsck.progress import BAR_CELLS, ProgressBar, render
from cubefs.fsck.report import Counts, Finding, Report
from cubefs.visible import safe
from tests.fsck.conftest import Audited

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "FSCK.md"

AFFECTED = Affected(
    paths=(
        AffectedPath(b"a\x1b[31m/caf\xe9", True, ()),
        AffectedPath(b"old", False, (b"s1", b"s2", b"s3", b"s4", b"s5", b"s6", b"s7")),
    ),
    more_count=1234,
    is_live=True,
    snapshots=(b"s1", b"s2", b"s3", b"s4", b"s5", b"s6", b"s7"),
)
FINDINGS = (
    Finding("pack-missing", Severity.ERROR, "a pack is not in the store", "packs/aa/bb/aabb", AFFECTED),
    Finding("block-refs", Severity.ERROR, "further such rows", "block", count=1200),
    Finding("object-foreign", Severity.NOTE, "an object that is not cubefs's", "readme.txt"),
)
REPORT = Report(
    "local:///store", bytes(range(16)), FINDINGS, Counts(objects=5, object_bytes=3 * 2**20, seconds=1.23)
)


def test_text() -> None:
    assert REPORT.text().splitlines() == [
        "error  pack-missing: a pack is not in the store",
        "       at packs/aa/bb/aabb",
        "       affects 1,236 paths in the live tree and snapshots s1, s2, s3, s4, s5 and 2 more:",
        "         a\\x1b[31m/caf\\xe9  [the live tree]",
        "         old  [snapshots s1, s2, s3, s4, s5 and 2 more]",
        "         and 1,234 more",
        "error  block-refs: further such rows (1,200 in all)",
        "       at block",
        "note   object-foreign: an object that is not cubefs's",
        "       at readme.txt",
        "5 objects (3.0 MiB), 0 packs, 0 inodes, 0 blocks, 0 snapshots in 1.2 s",
        "the contents of packs were not read: --data does",
        "1,201 errors, 1 note",
    ]


def test_json() -> None:
    told = json.loads(json.dumps(REPORT.to_json()))
    assert (told["clean"], told["errors"], told["notes"]) == (False, 1201, 1)
    assert told["uuid"] == "000102030405060708090a0b0c0d0e0f"
    assert told["counts"]["object_bytes"] == 3 * 2**20
    affects = told["findings"][0]["affects"]
    assert affects["paths"][0] == {
        "path": "a\\x1b[31m/caf\\xe9",
        "path_b64": "YRtbMzFtL2NhZuk=",
        "live": True,
        "snapshots": [],
    }
    assert affects["more_paths"] == 1234
    assert len(affects["snapshots"]) == 7


@pytest.mark.parametrize(
    ("severities", "verdict", "exit_code"),
    [
        ([], "clean", 0),
        ([Severity.NOTE], "clean, 1 note", 0),
        ([Severity.ERROR], "1 error", 4),
        ([Severity.ERROR, Severity.ERROR, Severity.NOTE, Severity.NOTE], "2 errors, 2 notes", 4),
    ],
)
def test_verdict_and_exit_code(severities: list[Severity], verdict: str, exit_code: int) -> None:
    report = Report("x", bytes(16), tuple(Finding("x", severity, "x", "x") for severity in severities))
    assert (report.verdict(), report.exit_code) == (verdict, exit_code)
    assert report.text().endswith(f"{verdict}\n")


def test_names_are_shown_safely() -> None:
    assert safe(b"plain name") == "plain name"
    assert safe("größe".encode()) == "größe"
    assert safe(b"\xff\\\n\x00") == "\\xff\\\\\\n\\x00"
    assert safe("\u202egnp.exe".encode()) == "\\u202egnp.exe"
    names = [b"\xff", b"\\xff", b"\\\\xff", "\u00ff".encode()]
    assert len({safe(name) for name in names}) == len(names)


# -- progress ------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar() -> None:
    assert render("tables", 0, 4) == f"tables [{'.' * BAR_CELLS}] 0 %"
    assert render("tables", 4, 4) == f"tables [{'#' * BAR_CELLS}] 100 %"
    assert render("tables", 9, 4).endswith("] 100 %")
    assert render("metadata log", 1234, 0) == "metadata log: 1,234"


def test_the_bar_is_drawn_on_a_terminal_now_and_then_and_removed() -> None:
    stream, times = Terminal(), iter([0.0, 0.01, 0.02, 0.2])
    with ProgressBar(stream, clock=lambda: next(times)) as bar:
        bar("packs", 1, 10)
        bar("packs", 2, 10)
        bar("contents", 1, 10)
        bar("contents", 9, 10)
    assert stream.getvalue().count("\r\x1b[K") == 4
    assert stream.getvalue().endswith("90 %\r\x1b[K")
    assert "20 %" not in stream.getvalue()


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as bar:
        bar("packs", 1, 10)
    assert stream.getvalue() == ""


def test_each_phase_reaches_its_end(used: Audited) -> None:
    steps: list[tuple[str, int, int]] = []
    used.audit(progress=lambda *step: steps.append(step))
    phases = list(dict.fromkeys(phase for phase, _, _ in steps))
    assert phases == ["metadata log", "tables", "contents"]
    for phase in phases:
        done = [(done, total) for name, done, total in steps if name == phase]
        assert [number for number, _ in done] == list(range(1, len(done) + 1))
        assert done[-1][0] == done[-1][1]


# -- the document --------------------------------------------------------------------------------------------


def test_the_document_has_the_table_of_all_checks() -> None:
    assert catalogue.table() in DOCUMENT.read_text(), "docs/FSCK.md: put in what catalogue.table() returns"


def test_every_finding_of_the_code_is_in_the_catalogue() -> None:
    names = [check.name for check in CHECKS] + [check.name for check in catalogue.STORE_CHECKS]
    assert len(names) == len(set(names))
    (folder,) = cubefs.fsck.__path__
    source = "".join(path.read_text() for path in sorted(Path(folder).glob("*.py")))
    for check in catalogue.STORE_CHECKS:
        assert source.count(f'"{check.name}"') >= 2, f"nobody reports {check.name}"
