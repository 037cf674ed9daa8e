"""Damage in a real store: each is found, named by its object, and traced to exactly the files it affects."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cubefs.engine import metalog
from cubefs.errors import StoreDeniedError, StoreUnavailableError
from cubefs.format import names
from cubefs.format.keys import object_hash
from cubefs.fsck.report import Severity
from tests.fsck.conftest import Audited, affected
from tests.support import tiny_fs
from tests.support.faulty_store import FaultyStore

MONDAY, TUESDAY, LIVE = b"monday", b"tuesday", b"live"
Flip = Callable[[Path, int], None]

DOCS_PACK = {b"docs/a.txt": (MONDAY,), b"docs/b.txt": (MONDAY,)}
LONG_FILE = {b"long.bin": (TUESDAY, LIVE)}
SMALL_FILE = {b"caf\xe9": (TUESDAY, LIVE)}


# -- clean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [False, True])
def test_a_used_file_system_is_clean(used: Audited, data: bool) -> None:
    report = used.audit(data=data)
    assert report.findings == ()
    assert (report.exit_code, report.verdict()) == (0, "clean")
    counts = report.counts
    assert (counts.inodes, counts.packs, counts.snapshots) == (6, 3, 2)
    assert counts.verified_packs == (3 if data else 0)
    assert counts.objects == len(used.objects(""))
    assert counts.object_bytes == sum(path.stat().st_size for path in used.objects(""))


def test_nothing_is_written_and_nothing_left_behind(
    used: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in used.objects("")}
    modes: list[int] = []

    def look(phase: str, done: int, total: int) -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in temporary.iterdir())

    store = FaultyStore(used.place.store())
    used.audit(store=store, progress=look)
    assert set(store.calls) <= {"get", "list", "head"}
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in used.objects("")} == before
    assert set(modes) == {0o700}
    assert list(temporary.iterdir()) == []


# -- packs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [False, True])
def test_a_missing_pack(used: Audited, data: bool) -> None:
    pack = used.packs()[0]
    pack.unlink()
    report = used.audit(data=data)
    [finding] = report.findings
    assert (finding.check, finding.where) == ("pack-missing", used.name(pack))
    assert affected(finding) == DOCS_PACK
    assert finding.affects.snapshots == (MONDAY,)
    assert (report.exit_code, report.verdict()) == (4, "1 error")


def test_a_flipped_bit_affects_the_files_of_its_frame(used: Audited, flip: Flip) -> None:
    pack = used.packs()[1]
    index = used.index(pack)
    long_frame = next(block.frame for block in index.blocks if block.length > 1_000_000)
    small_frame = next(block.frame for block in index.blocks if block.length == 700)
    for frame, files in ((long_frame + 1, LONG_FILE), (small_frame, SMALL_FILE)):
        offset = index.frames[frame].pack_offset + 20
        flip(pack, offset)
        assert used.audit(data=False).exit_code == 0
        [finding] = used.audit(data=True).findings
        assert (finding.check, finding.where) == ("pack-damaged", used.name(pack))
        assert f"frame {frame} is not authentic" in finding.what
        assert "do not hash to its name" in finding.what
        assert affected(finding) == files
        flip(pack, offset)
    assert used.audit().exit_code == 0


@pytest.mark.parametrize("place", ["magic", "version", "salt", "codec", "index", "footer"])
def test_every_part_of_a_pack_is_verified(used: Audited, flip: Flip, place: str) -> None:
    pack = used.packs()[0]
    size_bytes = pack.stat().st_size
    offsets = {
        "magic": 0,
        "version": 9,
        "salt": 40,
        "codec": 64,
        "index": size_bytes - 40,
        "footer": size_bytes - 1,
    }
    flip(pack, offsets[place])
    report = used.audit()
    [finding] = report.findings
    assert (finding.check, finding.where, report.exit_code) == ("pack-damaged", used.name(pack), 4)
    # frames are read by what the database knows: only one of them that is damaged loses files
    assert affected(finding) == (DOCS_PACK if place == "codec" else {})


def test_a_truncated_pack(used: Audited) -> None:
    pack = used.packs()[1]
    index = used.index(pack)
    last = max(index.blocks, key=lambda block: block.frame)
    pack.write_bytes(pack.read_bytes()[: index.frames[last.frame].pack_offset + 5])
    [by_size] = used.audit(data=False).findings
    assert (by_size.check, by_size.where) == ("pack-damaged", used.name(pack))
    assert affected(by_size) == LONG_FILE | SMALL_FILE
    [finding] = used.audit(data=True).findings
    assert "bytes, not" in finding.what
    assert affected(finding) == (LONG_FILE if last.length > 1000 else SMALL_FILE)


def test_an_extended_pack(used: Audited) -> None:
    pack = used.packs()[0]
    pack.write_bytes(pack.read_bytes() + b"more")
    assert affected(used.audit(data=False).findings[0]) == DOCS_PACK
    [finding] = used.audit(data=True).findings
    assert finding.check == "pack-damaged"
    assert affected(finding) == {}


def test_a_pack_longer_than_any_is_not_downloaded(used: Audited) -> None:
    pack = used.packs()[0]
    with pack.open("ab") as file:
        file.truncate(64 * 1024 * 1024)
    store = FaultyStore(used.place.store())
    read: list[str] = []
    store.hook = lambda verb, name: read.append(name) if verb == "get" else None
    [finding] = used.audit(store=store).findings
    assert finding.check == "pack-damaged"
    assert used.name(pack) not in read


def test_swapped_packs(used: Audited, tmp_path: Path) -> None:
    first, second, _ = used.packs()
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    for data in (False, True):
        found = {finding.where: affected(finding) for finding in used.audit(data=data).findings}
        assert found == {used.name(first): DOCS_PACK, used.name(second): LONG_FILE | SMALL_FILE}


def test_a_pack_of_another_file_system(used: Audited, tmp_path: Path) -> None:
    pack = used.packs()[0]
    data = bytearray(pack.read_bytes())
    data[16:32] = bytes(16)
    pack.write_bytes(data)
    [finding] = used.audit().findings
    assert "another file system" in finding.what


def test_findings_come_in_the_order_of_names(used: Audited, flip: Flip) -> None:
    packs = sorted(used.packs(), key=used.name)
    for pack in packs:
        flip(pack, pack.stat().st_size - 1)
    store = FaultyStore(used.place.store())
    slow = used.name(packs[0])
    store.hook = lambda verb, name: time.sleep(0.1) if name == slow else None
    assert [finding.where for finding in used.audit(store=store).findings] == [used.name(pack) for pack in packs]


def test_packs_without_a_commit_are_a_note(used: Audited) -> None:
    data = b"left by a machine that died"
    path = used.place.store_dir / names.pack(object_hash(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    report = used.audit()
    [finding] = report.findings
    assert (finding.check, finding.severity, finding.where) == ("pack-unreferenced", Severity.NOTE, used.name(path))
    assert "1 pack (27 bytes)" in finding.what
    assert (report.exit_code, report.verdict()) == (0, "clean, 1 note")


# -- other objects -------------------------------------------------------------------------------------------


def test_foreign_objects_are_notes(used: Audited) -> None:
    for name in ("readme.txt", "packs/zz", "meta/12", "base/0000000000000000/x"):
        (used.place.store_dir / name).write_bytes(b"?")
    report = used.audit()
    assert {finding.where for finding in report.findings} == {
        "readme.txt",
        "packs/zz",
        "meta/12",
        "base/0000000000000000/x",
    }
    assert {finding.check for finding in report.findings} == {"object-foreign"}
    assert report.exit_code == 0


def test_many_foreign_objects_are_counted(used: Audited) -> None:
    for number in range(50):
        (used.place.store_dir / f"x{number:02}").write_bytes(b"?")
    report = used.audit()
    assert report.note_count == 50
    assert len(report.findings) == 21


def test_a_base_without_its_manifest_is_a_note(used: Audited) -> None:
    chunk = used.place.store_dir / names.base_chunk(99, 0)
    chunk.parent.mkdir()
    chunk.write_bytes(b"?")
    [finding] = used.audit().findings
    assert (finding.check, finding.severity, finding.where) == (
        "base-unfinished",
        Severity.NOTE,
        "base/0000000000000099",
    )


def test_a_damaged_key_slot(used: Audited, flip: Flip) -> None:
    slot = used.objects("keys")[0]
    flip(slot, 0)
    report = used.audit(data=False)
    [finding] = report.findings
    assert (finding.check, finding.where, report.exit_code) == ("key-slot", used.name(slot), 4)


# -- the metadata log ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 9, 12, 33, 60, 100, 130, -1])
@pytest.mark.parametrize("kind", ["meta", "base"])
def test_a_flipped_bit_in_the_log(used: Audited, flip: Flip, kind: str, offset: int) -> None:
    path = used.objects(kind)[0]
    flip(path, offset)
    report = used.audit(data=False)
    [finding] = report.findings
    assert (finding.check, finding.where, report.exit_code) == ("log", used.name(path), 4)
    assert not report.has_checked_tables
    assert "could not be read" in report.text()


def test_without_the_log_the_packs_are_still_verified(used: Audited, flip: Flip) -> None:
    flip(used.objects("meta")[0], 150)
    packs = used.packs()
    flip(packs[0], 70)
    flip(packs[1], 9)
    report = used.audit()
    assert [finding.check for finding in report.findings] == ["log", "pack-damaged", "pack-damaged"]
    assert {finding.where for finding in report.findings[1:]} == {used.name(packs[0]), used.name(packs[1])}
    assert report.counts.verified_packs == 3


def test_a_missing_log_object(used: Audited) -> None:
    path = used.objects("meta")[0]
    path.unlink()
    [finding] = used.audit(data=False).findings
    assert (finding.check, finding.where) == ("log", "")
    assert used.name(path) in finding.what


def test_swapped_log_objects(used: Audited) -> None:
    first, second = used.objects("meta")[:2]
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    [finding] = used.audit(data=False).findings
    assert (finding.check, finding.where) == ("log", used.name(first))


def test_a_missing_base(used: Audited) -> None:
    for path in used.objects("base"):
        path.unlink()
    [finding] = used.audit(data=False).findings
    assert finding.check == "log"
    assert "base" in finding.what


def _write_base(used: Audited, directory: Path, *changes: str) -> None:
    """Add a base of the present state, changed by SQL; it makes the log so far unnecessary."""
    place = used.place
    image = directory / "image"
    head = metalog.rebuild(
        place.store(),
        keyring=place.keyring,
        superblock_bytes=place.superblock.encode(),
        uuid=place.superblock.uuid,
        target=image,
    )
    tiny_fs.change(image, *changes)
    metalog.write_base(
        place.store(),
        log_key=place.keyring.log_key,
        uuid=place.superblock.uuid,
        seq=head.seq,
        chain_hash=head.chain_hash,
        image=image,
    )


def test_the_old_log_is_verified_with_the_data(used: Audited, flip: Flip, tmp_path: Path) -> None:
    _write_base(used, tmp_path)
    assert used.audit().findings == ()
    for path in (used.objects("meta")[1], used.objects("base")[0], used.objects("base")[1]):
        flip(path, 150)
        assert used.audit(data=False).exit_code == 0
        report = used.audit()
        [finding] = report.findings
        assert (finding.check, finding.where, report.exit_code) == ("log-old", used.name(path), 4)
        flip(path, 150)


def test_an_old_log_object_in_the_place_of_another(used: Audited, tmp_path: Path) -> None:
    _write_base(used, tmp_path)
    first, second = used.objects("meta")[:2]
    second.write_bytes(first.read_bytes())
    [finding] = used.audit().findings
    assert (finding.check, finding.where) == ("log-old", used.name(second))


def test_a_fault_in_the_tables_names_table_and_files(used: Audited, tmp_path: Path) -> None:
    _write_base(used, tmp_path, "UPDATE block SET refs = refs + 1 WHERE length = 700")
    report = used.audit()
    [finding] = report.findings
    assert (finding.check, report.exit_code) == ("block-refs", 4)
    assert finding.where.startswith("block block=")
    assert finding.where.endswith(" refs=2 extents=1")
    assert affected(finding) == SMALL_FILE
    text = report.text()
    assert "caf\\xe9  [the live tree and snapshot tuesday]" in text
    assert text.endswith("\n1 error\n")


def test_a_database_of_another_schema_is_told(used: Audited, tmp_path: Path) -> None:
    _write_base(used, tmp_path, "DROP TABLE xattr_history")
    assert {finding.check for finding in used.audit(data=False).findings} == {"schema", "unreadable"}


# -- what keeps us from looking ------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_no_finding(used: Audited) -> None:
    for verb in ("list", "get"):
        store = FaultyStore(used.place.store())
        store.fail(verb, StoreUnavailableError("no answer"), times=1000)
        with pytest.raises(StoreUnavailableError):
            used.audit(store=store)


def test_one_pack_that_cannot_be_read_is_a_finding(used: Audited) -> None:
    pack = used.packs()[0]
    store = FaultyStore(used.place.store())

    def refuse(verb: str, name: str) -> None:
        if name == used.name(pack):
            raise StoreDeniedError(f"no permission for {name}")

    store.hook = refuse
    report = used.audit(store=store)
    [finding] = report.findings
    assert (finding.check, finding.where, report.exit_code) == ("pack-unreadable", used.name(pack), 4)
    assert affected(finding) == DOCS_PACK


def test_a_store_that_goes_away_in_between_raises(used: Audited) -> None:
    store = FaultyStore(used.place.store())

    def go_away(verb: str, name: str) -> None:
        if name.startswith(names.PACKS):
            store.fail("get", StoreUnavailableError("gone"), times=1000)

    store.hook = go_away
    with pytest.raises(StoreUnavailableError):
        used.audit(store=store)
