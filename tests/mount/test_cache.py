"""The local cache and memory: remounting from nothing, less room than data, bounded dirty data, damage."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import remotes
from tests.support.compare import assert_same, facts
from tests.support.mounting import Machine, wait_until
from tests.support.sharedmount import assert_quiet, audit, damage, error_of, machine_at, packs, remount
from tests.support.trees import MIB, churn, make_everything

# more than a mount may ever take; uploads to a server hold up to 12 packs in memory
LARGE_BYTES = (240 if remotes.kind() == "local" else 400) * MIB
CHUNK_BYTES = 10 * MIB


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A file system for most of these tests, audited when they are through; each mounts it in its own way."""
    with machine_at(tmp_path_factory.mktemp("cache")) as machine:
        machine.mkfs()
        yield machine
        audit(machine)


@pytest.fixture
def made(shared: Machine) -> Iterator[Machine]:
    """The same, empty but for snapshots and not mounted."""
    yield shared
    if os.path.ismount(shared.mount_point):
        for path in shared.mount_point.iterdir():
            if path.name != "snapshots":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shared.umount()


def cached_bytes(machine: Machine) -> int:
    """Return how much the local packs take."""
    sizes = 0
    for path in (machine.cache / "packs").iterdir():
        with contextlib.suppress(FileNotFoundError):  # evicted since it was listed
            sizes += path.stat().st_size
    return sizes


def drop_kernel_pages(*paths: Path) -> None:
    """Let reads reach the daemon."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_every_range(path: Path) -> None:
    """Read a damaged file piece by piece: what is damaged gets noted."""
    descriptor = os.open(path, os.O_RDONLY)
    for offset in range(0, path.stat().st_size, 64 * 1024):
        assert error_of(os.pread, descriptor, 64 * 1024, offset) in ("none", "EIO")
    os.close(descriptor)


def test_a_machine_that_has_nothing_sees_everything(made: Machine, tmp_path: Path) -> None:
    """To the last fact that stat(2) tells, in the live tree and in snapshots; and restores what was."""
    root = made.mount()
    tree = root / "tree"
    tree.mkdir()
    make_everything(tree)
    (root / "snapshots" / "one").mkdir()
    churn(tree, seed=1, steps=60)
    (root / "snapshots" / "two").mkdir()
    churn(tree, seed=2, steps=60)
    made.cubefs("sync", root)
    before = facts(root)
    assert len(before) > 250
    remount(made, empty_cache=True)
    assert facts(root) == before
    subprocess.run(["rsync", "-aHX", "--sparse", f"{root}/snapshots/one/tree", tmp_path / "restored"], check=True)
    (tmp_path / "as it was").mkdir()
    make_everything(tmp_path / "as it was")
    assert_same(tmp_path / "as it was", tmp_path / "restored" / "tree")
    # another machine, while the first one is away: read-only, with a cache of its own
    made.umount()
    elsewhere = tmp_path / "elsewhere"
    made.mount("-o", "ro", "--cache-dir", elsewhere)
    assert facts(root) == before
    assert error_of(os.mkdir, root / "new") == "EROFS"
    made.umount()


def test_more_data_than_cache(made: Machine) -> None:
    """Everything can be read, in any order, also while more is written; the cache stays small."""
    root = made.mount("-o", "cache_size=20M,commit_interval=0.5s")
    rng = random.Random(3)
    files = {root / f"file {number}": rng.randbytes(7 * MIB) for number in range(12)}
    for path, data in files.items():
        path.write_bytes(data)
    made.cubefs("sync", root)
    wait_until(lambda: cached_bytes(made) <= 20 * MIB)
    drop_kernel_pages(*files)
    for path in rng.sample(sorted(files), len(files)):
        assert path.read_bytes() == files[path], path
        assert cached_bytes(made) <= 50 * MIB  # what is being fetched comes on top
    fields = made.status()["file_system"]
    assert fields["packs_fetched"] >= 5
    drop_kernel_pages(*files)
    for path in list(files)[:4]:
        with path.open("r+b") as file:  # overwrites of what has been evicted
            file.seek(3 * MIB)
            file.write(b"changed")
        files[path] = files[path][: 3 * MIB] + b"changed" + files[path][3 * MIB + 7 :]
    remount(made, "-o", "cache_size=1M")
    for path, data in files.items():
        assert path.read_bytes() == data, path
    assert_quiet(made)


def test_writers_wait_at_the_dirty_limit_and_memory_stays_bounded(made: Machine) -> None:
    root = made.mount("-o", "dirty_limit=4M,commit_interval=1h")
    data = os.urandom(25 * MIB)
    expected = {root / f"file {number}": data[number:] + data[:number] for number in range(4)}
    with contextlib.ExitStack() as still_open:
        files = {path: still_open.enter_context(path.open("wb", buffering=0)) for path in expected}
        for start in range(0, len(data), MIB):  # all grow together; none is closed, none is synced
            for path, file in files.items():
                file.write(expected[path][start : start + MIB])
            if start % (5 * MIB) == 0:
                assert made.status()["file_system"]["dirty_bytes"] < 6 * MIB
    for path, content in expected.items():
        assert path.read_bytes() == content
    assert made.status()["memory_peak_bytes"] < 250 * MIB
    assert_quiet(made)


def test_memory_is_bounded_for_a_large_file(made: Machine) -> None:
    """Written, and read back from an empty cache."""
    root = made.mount("-o", "dirty_limit=32M")
    digests = []
    with (root / "file").open("wb", buffering=0) as file:
        for _ in range(LARGE_BYTES // CHUNK_BYTES):
            chunk = os.urandom(CHUNK_BYTES)
            digests.append(hashlib.sha1(chunk).digest())
            file.write(chunk)
    made.cubefs("sync", root)
    writing_bytes = made.status()["memory_peak_bytes"]
    remount(made, empty_cache=True)
    with (root / "file").open("rb", buffering=0) as file:
        assert [hashlib.sha1(file.read(CHUNK_BYTES)).digest() for _ in digests] == digests
    reading_bytes = made.status()["memory_peak_bytes"]
    assert max(writing_bytes, reading_bytes) < LARGE_BYTES


def test_one_damaged_pack_damages_what_is_in_it_and_nothing_else(machine: Machine) -> None:
    """Bytes flipped in the store: EIO for the files in that pack, all others readable, the log names the object."""
    machine.mkfs()
    root = machine.mount()
    files = {root / f"{number}": os.urandom(3 * MIB) for number in range(8)}
    for path, data in files.items():
        path.write_bytes(data)
    tree = root / "tree"
    tree.mkdir()
    for number in range(50):
        (tree / str(number)).write_bytes(os.urandom(100))
    machine.umount()
    shutil.rmtree(machine.cache)
    damaged = max(packs(machine), key=lambda pack: pack.size_bytes).name

    def flip(content: bytearray) -> None:
        for offset in range(200, len(content), 4000):
            content[offset] ^= 0xFF

    damage(machine, damaged, flip)
    machine.mount()
    outcome = {path: error_of(path.read_bytes) for path in files}
    bad = {path for path, error in outcome.items() if error == "EIO"}
    assert set(outcome.values()) == {"EIO", "none"}
    assert 2 <= len(bad) <= 4  # a pack holds 8 MB
    for path in files.keys() - bad:
        assert path.read_bytes() == files[path]
    for number in range(50):
        assert len((tree / str(number)).read_bytes()) == 100
    log = Path(machine.status()["log"]).read_text()
    assert damaged.rpartition("/")[2] in log and "Traceback" not in log
    # What has been found damaged and is written again is repaired, in every file that holds it. A second round
    # finds what the first could not reach: a read ends at the first damaged block.
    for _ in range(2):
        for path in bad:
            read_every_range(path)
            (root / "again").write_bytes(files[path])
            machine.cubefs("sync", root)
        drop_kernel_pages(*files)
    for path, data in files.items():
        assert path.read_bytes() == data


def test_a_local_pack_that_was_deleted_is_fetched_again(made: Machine) -> None:
    root = made.mount()
    (root / "file").write_bytes(data := os.urandom(20 * MIB))
    made.cubefs("sync", root)
    for path in (made.cache / "packs").iterdir():
        path.unlink()
    drop_kernel_pages(root / "file")
    assert (root / "file").read_bytes() == data


def test_the_local_disk_holds_nothing_in_the_clear(made: Machine) -> None:
    """Packs are the cache: what lies on the local disk is as sealed as what is in the store. (Names are not.)"""
    root = made.mount()
    (root / "file").write_bytes(b"a very secret sentence " * 10_000)
    made.cubefs("sync", root)
    made.umount()
    cached = {str(path): path.read_bytes() for path in made.cache.rglob("*") if path.is_file()}
    store = made.objects()
    stored = {name: store.get(name) for name in made.object_names()}
    assert len(cached) + len(stored) > 5
    for name, content in [*cached.items(), *stored.items()]:
        assert b"secret sentence" not in content, name
    for name, content in stored.items():
        assert b"file" not in content[:64], name
