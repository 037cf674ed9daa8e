"""What a cache directory remembers for mounting while the store is down."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cubefs.app.remembered import LOCKS, find_remembered, remember
from cubefs.engine.unlock import Locks
from cubefs.errors import UsageError
from cubefs.format.superblock import Superblock
from cubefs.format.version import FORMAT_VERSION

URL = "s3://bucket/prefix"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CUBEFS_CACHE_DIR", raising=False)
    (tmp_path / "cubefs").mkdir()
    return tmp_path / "cubefs"


def locks_of(number: int) -> Locks:
    superblock = Superblock(version=FORMAT_VERSION, uuid=bytes([number]) * 16)
    return Locks(superblock.encode(), {"keys/passphrase-00": b"sealed %d" % number})


def make_cache(directory: Path, locks: Locks, *, url: str = URL) -> Path:
    directory.mkdir()
    (directory / "owner").write_text(locks.superblock.uuid.hex() + "\n")
    remember(directory, url=url, locks=locks)
    return directory


def test_what_was_remembered_is_found_by_its_url(caches: Path) -> None:
    ours = locks_of(1)
    directory = make_cache(caches / "ours", ours)
    make_cache(caches / "theirs", locks_of(2), url="s3://bucket/other")
    assert find_remembered(URL, given=None) == ours
    assert find_remembered(URL, given=directory) == ours
    assert find_remembered(URL, given=caches / "theirs") is None
    assert find_remembered("s3://bucket/none", given=None) is None
    assert stat.S_IMODE((directory / LOCKS).stat().st_mode) == 0o600


def test_a_newer_state_replaces_the_old_one(caches: Path) -> None:
    directory = make_cache(caches / "ours", locks_of(1))
    changed = Locks(locks_of(1).superblock_bytes, {"keys/passphrase-11": b"another"})
    remember(directory, url=URL, locks=changed)
    assert find_remembered(URL, given=None) == changed
    assert sorted(path.name for path in directory.iterdir()) == ["locks", "owner"]


def test_of_two_file_systems_at_one_url_none_is_guessed(caches: Path) -> None:
    """The store was emptied and mkfs run again: writing into the wrong one would strand everything written."""
    old = make_cache(caches / "old", locks_of(1))
    make_cache(caches / "new", locks_of(2))
    with pytest.raises(UsageError, match=r"2 cache directories .* --cache-dir \(.*new, .*old\)"):
        find_remembered(URL, given=None)
    assert find_remembered(URL, given=old) == locks_of(1)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", json.dumps({"url": URL}).encode(), b'{"url": 1, "slots": 2}']
)
def test_a_damaged_note_is_none(caches: Path, text: bytes) -> None:
    (make_cache(caches / "ours", locks_of(1)) / LOCKS).write_bytes(text)
    assert find_remembered(URL, given=None) is None


def test_a_note_of_another_file_system_is_none(caches: Path) -> None:
    directory = make_cache(caches / "ours", locks_of(1))
    remember(directory, url=URL, locks=locks_of(2))
    assert find_remembered(URL, given=None) is None
