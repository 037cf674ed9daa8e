"""What fsck says about this machine's cache: what is not shipped, and that the store was set back."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import trio

from cubefs.fsck.report import Finding, Severity
from tests.fsck.conftest import Audited
from tests.support import tiny_fs
from tests.support.calls import make_file
from tests.support.driver import Place, copy_place, opened


async def _leave_unshipped_work(place: Place, left: Path) -> None:
    """Commit locally, and keep the cache directory as a machine that is switched off now would."""
    async with opened(place) as fs:
        await make_file(fs, b"late", b"not in the store yet " * 100)
        await fs.commit()
        shutil.copytree(place.cache_dir, left)


async def _add_a_file(place: Place) -> None:
    async with opened(place) as fs:
        await make_file(fs, b"late", b"in the store " * 100)


@pytest.fixture
def crashed(pristine: Audited, used: Audited, tmp_path: Path) -> Audited:
    """A file system whose last mount crashed with commits that were not shipped."""
    elsewhere = copy_place(pristine.place, tmp_path / "elsewhere")  # its store gets what `used` must not have
    trio.run(_leave_unshipped_work, elsewhere, used.place.cache_dir)
    return used


def _cache_findings(used: Audited) -> list[Finding]:
    return list(used.audit(data=False, cache=True).findings)


def test_what_is_not_shipped_is_a_note(crashed: Audited) -> None:
    report = crashed.audit(cache=True)
    [finding] = report.findings
    assert (finding.check, finding.severity) == ("not-shipped", Severity.NOTE)
    assert "1 pack" in finding.what
    assert " since 20" in finding.what
    assert finding.where.endswith("/db.sqlite")
    assert (report.exit_code, report.verdict()) == (0, "clean, 1 note")
    assert crashed.audit().findings == ()


def test_the_cache_is_not_changed(crashed: Audited) -> None:
    directory = crashed.place.cache_dir

    def state() -> dict[Path, bytes]:
        files = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
        return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}

    before = state()
    assert any(path.name.endswith("-wal") for path in before)
    _cache_findings(crashed)
    assert state() == before


def test_a_cache_that_was_left_cleanly_says_nothing(used: Audited) -> None:
    trio.run(_add_a_file, used.place)
    before = sorted(path.name for path in used.place.cache_dir.iterdir())
    assert _cache_findings(used) == []
    assert sorted(path.name for path in used.place.cache_dir.iterdir()) == before


def test_no_cache_no_finding(used: Audited) -> None:
    assert not used.place.cache_dir.exists()
    assert _cache_findings(used) == []


def test_a_store_that_was_set_back_is_an_error(used: Audited, pristine: Audited, tmp_path: Path) -> None:
    trio.run(_add_a_file, used.place)
    assert _cache_findings(used) == []
    older = copy_place(pristine.place, tmp_path / "older")
    set_back = Audited(Place(older.store_dir, used.place.cache_dir, older.superblock, older.keyring))
    report = set_back.audit(data=False, cache=True)
    [finding] = report.findings
    assert (finding.check, report.exit_code) == ("log-forked", 4)
    assert "set back" in finding.what


def test_a_forked_store_is_an_error(used: Audited, tmp_path: Path) -> None:
    other = copy_place(used.place, tmp_path / "other")
    trio.run(_add_a_file, used.place)
    trio.run(_add_a_file, other)
    mixed = Audited(Place(other.store_dir, used.place.cache_dir, other.superblock, other.keyring))
    [finding] = _cache_findings(mixed)
    assert finding.check == "log-forked"
    assert "forked" in finding.what


def test_a_cache_of_another_file_system_says_nothing(crashed: Audited, tmp_path: Path) -> None:
    other = Place(crashed.place.store_dir, tmp_path / "cache", crashed.place.superblock, crashed.place.keyring)
    other.cache_dir.mkdir()
    for path in crashed.place.cache_dir.glob("db.sqlite*"):
        shutil.copy(path, other.cache_dir)
    tiny_fs.change(other.cache_dir / "db.sqlite", "UPDATE meta SET value = zeroblob(16) WHERE key = 'uuid'")
    assert _cache_findings(Audited(other)) == []


def test_a_cache_that_cannot_be_read_is_a_note(used: Audited) -> None:
    used.place.cache_dir.mkdir()
    (used.place.cache_dir / "db.sqlite").write_bytes(b"nothing that SQLite knows" * 100)
    report = used.audit(data=False, cache=True)
    [finding] = report.findings
    assert (finding.check, finding.severity, report.exit_code) == ("cache-unreadable", Severity.NOTE, 0)


async def _audit_while_open(used: Audited) -> list[str]:
    async with opened(used.place) as fs:
        await make_file(fs, b"late", b"in the store soon " * 100)
        await fs.commit()
        checks = [finding.check for finding in _cache_findings(used)]
        await make_file(fs, b"later", b"and the locks are still there")
        await fs.sync()
        return checks


def test_a_cache_in_use(used: Audited) -> None:
    assert trio.run(_audit_while_open, used) == ["not-shipped"]
    assert used.audit().findings == ()
