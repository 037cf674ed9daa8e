"""What is particular to the local driver: the disk beneath it, the order of its steps, and its URLs."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubefs.errors import (
    NotCubefsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    UsageError,
)
from cubefs.store import open_store
from cubefs.store.local import TEMPORARY_AGE_NS, LocalStore

HOUR_NS = 3600 * 10**9


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=1m", "cubefs-test", str(path))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount here: {error.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    root = tmp_path / "store"
    root.mkdir()
    return LocalStore(root)


def files(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


# -- URLs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/var/backup", "local:///"),
        ("", "local:///"),
        ("local:/var/backup", "local:///"),
        ("local://var/backup", "not absolute.*local:///"),
        ("local://", "not absolute"),
        ("local://../x", "not absolute"),
        ("gopher://host/x", "gopher.*local://"),
        ("LOCAL:///x", "LOCAL.*local://"),
        ("local:///", "root directory"),
        ("local:///x/..", "root directory"),
        ("local:///a\0b", "zero byte"),
    ],
)
def test_wrong_urls_are_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_one_directory_has_one_url(tmp_path: Path) -> None:
    url = f"local://{tmp_path}/a/../store/./x//"
    assert open_store(url, create=True).describe() == f"local://{tmp_path}/store/x"
    assert (tmp_path / "store" / "x").is_dir()


def test_opening_what_is_not_there_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotCubefsError, match=r"does not exist; make a file system with mkfs\.cubefs"):
        open_store(f"local://{tmp_path}/none")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="store directory does not exist"):
        LocalStore(tmp_path / "none")


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    for url in (f"local://{tmp_path}/file", f"local://{tmp_path}/file/below"):
        with pytest.raises((NotCubefsError, StoreError)) as caught:
            open_store(url, create=create)
        assert "directory" in str(caught.value)


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    store = open_store(f"local://{tmp_path}/a b%20#?ä", create=True)
    store.put("x", b"1")
    assert files(tmp_path) == ["a b%20#?ä/x"]


# -- the disk beneath -----------------------------------------------------------------------------------------


def test_a_full_disk(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    store.put("small", b"x" * 1000)
    for verb in (store.put, store.put_new):
        with pytest.raises(StoreFullError, match=f"big.*local://{small_disk}.*No space left") as caught:
            verb("packs/big", b"y" * 2_000_000)
        assert caught.value.retryable
    assert files(small_disk) == ["small"]  # nothing half-written stays and takes room
    store.put("packs/next", b"z" * 500_000)
    assert store.get("small") == b"x" * 1000


def test_a_disk_full_of_names(small_disk: Path) -> None:
    mount("-o", "remount,nr_inodes=6", str(small_disk))
    store = LocalStore(small_disk)
    with pytest.raises(StoreFullError):
        for number in range(10):
            store.put(f"directory{number}/object", b"")
    assert all(name.endswith("/object") for name in files(small_disk))


def test_a_read_only_disk(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    store.put("a", b"1")
    mount("-o", "remount,ro", str(small_disk))
    for call in (
        lambda: store.put("a", b"2"),
        lambda: store.put_new("b", b"2"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreDeniedError, match="Read-only") as caught:
            call()
        assert not caught.value.retryable
    assert store.get("a") == b"1"
    assert [info.name for info in LocalStore(small_disk).list("")] == ["a"]


def test_a_directory_without_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; test_a_read_only_disk does it as root")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreDeniedError, match="Permission denied"):
            LocalStore(tmp_path).put("a", b"")
        with pytest.raises(StoreDeniedError, match="Permission denied"):
            open_store(f"local://{tmp_path}/new", create=True)
    finally:
        tmp_path.chmod(0o700)


def test_the_directory_disappears(store: LocalStore, tmp_path: Path) -> None:
    store.put("packs/a", b"1")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for call in (
        lambda: store.put("packs/b", b""),
        lambda: store.put_new("packs/b", b""),
        lambda: store.get("packs/a"),
        lambda: store.head("packs/a"),
        lambda: list(store.list("")),
        lambda: store.delete("packs/a"),
    ):
        with pytest.raises(StoreUnavailableError, match="store directory does not exist any more"):
            call()
    assert not (tmp_path / "store").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    assert store.get("packs/a") == b"1"
    store.put("packs/b", b"")


def test_an_unmounted_disk_is_not_taken_for_an_empty_store(small_disk: Path) -> None:
    """Writing into the mount point below would look like success, and reading like lost data."""
    store = LocalStore(small_disk)
    store.put("a", b"1")
    subprocess.run(["umount", str(small_disk)], check=True)
    try:
        for call in (lambda: store.put("b", b""), lambda: store.get("a"), lambda: list(store.list(""))):
            with pytest.raises(StoreUnavailableError, match="unmounted"):
                call()
        assert files(small_disk) == []
    finally:
        mount("-t", "tmpfs", "cubefs-test", str(small_disk))


def test_directories_removed_from_outside_are_made_again(store: LocalStore, tmp_path: Path) -> None:
    store.put("packs/6e/fa/one", b"1")
    subprocess.run(["rm", "-r", str(tmp_path / "store" / "packs")], check=True)
    store.put("packs/6e/fa/one", b"2")
    subprocess.run(["rm", "-r", str(tmp_path / "store" / "packs")], check=True)
    store.put_new("packs/6e/fa/one", b"3")
    assert store.get("packs/6e/fa/one") == b"3"


def test_a_name_below_an_object_is_refused(store: LocalStore) -> None:
    store.put("a", b"1")
    store.put("d/e", b"1")
    for call in (
        lambda: store.put("a/b", b""),
        lambda: store.put_new("a/b", b""),
        lambda: store.put("d", b""),
        lambda: store.put_new("d", b""),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert not isinstance(caught.value, ObjectMissingError)
    assert [info.name for info in store.list("")] == ["a", "d/e"]


def test_foreign_files_are_passed_over(store: LocalStore, tmp_path: Path) -> None:
    root = tmp_path / "store"
    store.put("packs/a", b"")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_bytes(b"")
    (root / ".tmp-0123").write_bytes(b"")
    (root / "packs" / ".hidden").write_bytes(b"")
    os.mkfifo(root / "packs" / "fifo")
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    (root / "loop").symlink_to(root)
    assert [info.name for info in store.list("")] == ["packs/a"]


def test_an_object_longer_than_any_of_ours_is_not_read(store: LocalStore, tmp_path: Path) -> None:
    with (tmp_path / "store" / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StoreError, match="huge"):
        store.get("huge")
    assert store.get_range("huge", start=2**39, length=3) == b"\0\0\0"


def test_objects_are_private(store: LocalStore, tmp_path: Path) -> None:
    store.put("packs/a", b"")
    assert (tmp_path / "store" / "packs" / "a").stat().st_mode & 0o077 == 0
    assert (tmp_path / "store" / "packs").stat().st_mode & 0o077 == 0


# -- steps ----------------------------------------------------------------------------------------------------


def test_temporary_files_of_a_crash_are_removed_a_day_later(tmp_path: Path) -> None:
    for age_ns in (TEMPORARY_AGE_NS + HOUR_NS, TEMPORARY_AGE_NS - HOUR_NS):
        path = tmp_path / f".tmp-{age_ns}"
        path.write_bytes(b"half an object")
        os.utime(path, ns=(0, 10**18 - age_ns))
    store = LocalStore(tmp_path, clock=lambda: 10**18)
    assert store.now_ns() == 10**18
    list(store.list(""))
    assert len(files(tmp_path)) == 2  # a reader removes nothing
    store.put("a", b"")
    assert files(tmp_path) == [f".tmp-{TEMPORARY_AGE_NS - HOUR_NS}", "a"]


@pytest.mark.parametrize("verb", ["put", "put_new"])
def test_the_order_of_the_steps(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Everything that leads to an object is on disk before the object has its name, and the name before return."""
    root = str(tmp_path / "store")
    steps: list[str] = []
    real = {"fsync": os.fsync, "link": os.link, "rename": os.rename, "mkdir": os.mkdir}

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(root) or "/"
        steps.append("fsync file" if path.startswith("/.tmp-") else f"fsync {path}")
        real["fsync"](descriptor)

    def place(how: str):  # type: ignore[no-untyped-def]
        def act(source: Path, target: Path, **rest: object) -> None:
            steps.append(f"place {str(target).removeprefix(root)}")
            real[how](source, target, **rest)

        return act

    def mkdir(path: Path, *rest: object, **more: object) -> None:
        steps.append(f"mkdir {str(path).removeprefix(root)}")
        real["mkdir"](path, *rest, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", place("link"))
    monkeypatch.setattr(os, "rename", place("rename"))
    monkeypatch.setattr(os, "mkdir", mkdir)
    put = getattr(store, verb)
    put("packs/6e/one", b"1")
    made = ["mkdir /packs", "fsync /", "mkdir /packs/6e", "fsync /packs"]
    assert steps == ["fsync file", *made, "place /packs/6e/one", "fsync /packs/6e"]
    steps.clear()
    put("packs/6e/two", b"2")
    assert steps == ["fsync file", "place /packs/6e/two", "fsync /packs/6e"]
    # directories that another process made, perhaps without having synced them yet
    steps.clear()
    getattr(LocalStore(tmp_path / "store"), verb)("packs/6e/three", b"3")
    assert steps == ["fsync file", *made, "place /packs/6e/three", "fsync /packs/6e"]


def test_concurrent_first_puts_into_one_directory(store: LocalStore) -> None:
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def put(number: int) -> None:
        try:
            barrier.wait()
            for turn in range(20):
                store.put(f"d{turn}/e/{number}", b"")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(store.list(""))) == 160
