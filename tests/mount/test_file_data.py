"""What programs write into files is what they read: sparse, overwritten, truncated, mapped, unlinked."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Machine, wait_until
from tests.support.sharedmount import error_of, new_directory, remount, shared_mount
from tests.support.trees import KIB, MIB


@pytest.fixture(scope="module", params=["content", "fixed"])
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory, chunking=request.param) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


def blocks_bytes(path: Path) -> int:
    """Return what a file takes, by stat(2)."""
    return path.stat().st_blocks * 512


def drop_kernel_pages(path: Path) -> None:
    """Let the next read of a file be one from the file system, not from the kernel's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# -- sparse ----------


def test_holes_take_no_blocks(here: Path) -> None:
    file = here / "sparse"
    island = os.urandom(64 * KIB)
    with file.open("wb") as output:
        for offset in (10 * MIB, 300 * MIB, (1 << 40) - 64 * KIB):
            output.seek(offset)
            output.write(island)
    for _ in range(2):
        assert file.stat().st_size == 1 << 40
        assert blocks_bytes(file) == 3 * 64 * KIB
        drop_kernel_pages(file)
    du = subprocess.run(["du", "-k", file], capture_output=True, text=True, check=True)
    assert du.stdout.split()[0] == "192"
    with file.open("rb") as source:
        source.seek(10 * MIB - 5)
        assert source.read(64 * KIB + 10) == bytes(5) + island + bytes(5)
        source.seek(-(64 * KIB) - 100, os.SEEK_END)
        assert source.read() == bytes(100) + island


def test_cp_makes_files_sparse(here: Path, tmp_path: Path) -> None:
    source = tmp_path / "zeros"
    data = bytes(20 * MIB) + os.urandom(MIB) + bytes(20 * MIB)
    source.write_bytes(data)
    for how, expected in (("always", MIB), ("never", len(data))):
        copy = here / how
        subprocess.run(["cp", f"--sparse={how}", source, copy], check=True)
        assert blocks_bytes(copy) == expected
        drop_kernel_pages(copy)
        assert copy.read_bytes() == data
    back = tmp_path / "back"
    subprocess.run(["cp", "--sparse=always", here / "always", back], check=True)
    assert back.read_bytes() == data
    assert blocks_bytes(back) < 2 * MIB


def test_posix_fallocate_makes_room_and_what_fallocate_cannot_do_it_refuses(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"abc")
    descriptor = os.open(file, os.O_RDWR)
    os.posix_fallocate(descriptor, 0, 100_000)
    os.close(descriptor)
    punch: list[str | Path] = ["fallocate", "--punch-hole", "--offset", "0", "--length", "4096", file]
    assert subprocess.run(punch, capture_output=True, check=False).returncode != 0
    assert file.read_bytes() == b"abc" + bytes(99_997)


def test_direct_io(here: Path, tmp_path: Path) -> None:
    """As dd oflag=direct and databases do it: past the kernel's memory."""
    source = tmp_path / "source"
    source.write_bytes(data := os.urandom(5 * MIB))
    subprocess.run(["dd", f"if={source}", f"of={here / 'a'}", "bs=512K", "oflag=direct", "status=none"], check=True)
    subprocess.run(
        ["dd", f"if={here / 'a'}", f"of={tmp_path / 'b'}", "bs=1M", "iflag=direct", "status=none"], check=True
    )
    assert (here / "a").read_bytes() == (tmp_path / "b").read_bytes() == data


# -- size ----------


def test_truncate_down_and_up_again_reads_zeros(here: Path) -> None:
    file = here / "file"
    data = os.urandom(3 * MIB)
    for settled in (False, True):
        file.write_bytes(data)
        if settled:
            drop_kernel_pages(file)
        os.truncate(file, MIB + 3)
        os.truncate(file, 2 * MIB)
        assert file.stat().st_size == 2 * MIB
        drop_kernel_pages(file)
        assert file.read_bytes() == data[: MIB + 3] + bytes(MIB - 3)
        assert blocks_bytes(file) <= MIB + 512


def test_truncate_with_the_file_open_and_unsealed(here: Path) -> None:
    with (here / "file").open("w+b", buffering=0) as file:
        file.write(b"a" * 10_000)
        file.truncate(100)
        file.seek(5000)
        file.write(b"b" * 10)
        file.truncate(5005)
        file.seek(0)
        assert file.read() == b"a" * 100 + bytes(4900) + b"b" * 5
    drop_kernel_pages(here / "file")
    assert (here / "file").read_bytes() == b"a" * 100 + bytes(4900) + b"b" * 5


def test_opening_with_o_trunc_and_o_excl(here: Path) -> None:
    file = here / "file"
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert error_of(os.open, file, os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "EEXIST"
    (here / "link").symlink_to("nowhere")
    assert error_of(os.open, here / "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "EEXIST"
    file.write_bytes(os.urandom(MIB))
    drop_kernel_pages(file)
    os.close(os.open(file, os.O_TRUNC | os.O_WRONLY))
    assert (file.stat().st_size, file.stat().st_blocks, file.read_bytes()) == (0, 0, b"")
    assert error_of(os.open, here, os.O_WRONLY) == "EISDIR"


def test_the_largest_file(shared: Machine, here: Path) -> None:
    file = here / "file"
    file.touch()
    largest = 2**63 - 1 - 4096
    os.truncate(file, largest)
    assert file.stat().st_size == largest and file.stat().st_blocks == 0
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.pwrite(descriptor, b"end", largest - 3)
        assert os.pread(descriptor, 10, largest - 5) == b"\0\0end"
        assert error_of(os.pwrite, descriptor, b"x", 2**63 - 1) in ("EFBIG", "EINVAL")
        (here / "another").touch()
        os.truncate(here / "another", largest)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert shared.status()["file_system"]["logical_bytes"] >= 2 * largest  # more than 63 bits


# -- overwriting ----------


def test_overwrites_in_place_at_random(here: Path) -> None:
    """Also across commits, reopened files and the borders of blocks; compared with the same done in memory."""
    rng = random.Random(5)
    file = here / "file"
    model = bytearray(rng.randbytes(20 * MIB))
    file.write_bytes(model)
    for _ in range(6):
        with file.open("r+b", buffering=0) as output:
            for _ in range(25):
                offset = rng.choice((rng.randrange(len(model)), rng.randrange(3) * 8 * MIB - 2 + rng.randrange(4)))
                offset = max(0, offset)
                data = rng.randbytes(rng.choice((1, 4096, 100_000)))[: len(model) - offset]
                output.seek(offset)
                output.write(data)
                model[offset : offset + len(data)] = data
        drop_kernel_pages(file)
    assert file.read_bytes() == model
    assert blocks_bytes(file) == len(model)


def test_what_one_process_writes_another_reads_at_once(here: Path) -> None:
    file = here / "file"
    with file.open("wb", buffering=0) as output, file.open("rb", buffering=0) as source:
        for number in range(50):
            line = b"line %d\n" % number * (1 + number % 7)
            output.write(line)
            assert source.read() == line


def test_appends(here: Path) -> None:
    file = here / "log"
    for number in range(40):
        with file.open("ab") as output:
            output.write(b"%030d\n" % number * 300)
        if number % 10 == 0:
            drop_kernel_pages(file)
    expected = b"".join(b"%030d\n" % number * 300 for number in range(40))
    drop_kernel_pages(file)
    assert file.read_bytes() == expected


def test_o_append_of_several_processes_loses_nothing(here: Path) -> None:
    file = here / "log"
    program = (
        "import os,sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for n in range(300): os.write(fd, b'%s %04d\\n' % (sys.argv[2].encode(), n))\n"
    )
    children = [subprocess.Popen(["python3", "-c", program, file, name]) for name in "abcd"]
    assert [child.wait(60) for child in children] == [0] * 4
    lines = file.read_text().splitlines()
    assert len(lines) == 1200
    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name} {number:04}" for number in range(300)]


# -- unlinking ----------


def test_an_unlinked_file_lives_until_it_is_closed(shared: Machine, here: Path) -> None:
    def inodes() -> int:
        shared.cubefs("sync", shared.mount_point)  # what is counted is the last commit
        return int(shared.status()["file_system"]["inodes"])

    file = here / "file"
    data = os.urandom(2 * MIB)
    before = inodes()
    with file.open("w+b", buffering=0) as opened:
        opened.write(data[:MIB])
        file.unlink()
        assert inodes() == before + 1
        opened.write(data[MIB:])
        assert os.fstat(opened.fileno()).st_nlink == 0
        assert not file.exists()
        opened.seek(0)
        assert opened.read() == data
        opened.truncate(5)
        assert os.fstat(opened.fileno()).st_size == 5
        os.fchmod(opened.fileno(), 0o600)
    with (here / "other").open("w+b"):
        (here / "other").unlink()
    wait_until(lambda: inodes() == before)  # close(2) does not wait for the file system to hear of it


def test_replacing_an_open_file_leaves_its_reader_the_old_one(here: Path) -> None:
    (here / "file").write_text("old")
    with (here / "file").open() as reader:
        (here / "new").write_text("new")
        (here / "new").replace(here / "file")
        assert reader.read() == "old"
    assert (here / "file").read_text() == "new"


# -- mapped memory ----------


def test_shared_mapping_writes_into_the_file(here: Path) -> None:
    file = here / "mapped"
    file.write_bytes(bytes(MIB))
    descriptor = os.open(file, os.O_RDWR)
    with mmap.mmap(descriptor, MIB) as mapped:
        os.close(descriptor)  # the mapping alone keeps the file open
        mapped[5:10] = b"hello"
        mapped[-3:] = b"end"
        mapped.flush()
        with file.open("rb") as other:
            assert other.read(10) == bytes(5) + b"hello"
        mapped[5:10] = b"later"
    drop_kernel_pages(file)
    assert file.read_bytes() == bytes(5) + b"later" + bytes(MIB - 13) + b"end"


@pytest.mark.parametrize("by", ["mkdir", "command"])
def test_a_snapshot_contains_what_was_stored_through_a_mapping(shared: Machine, here: Path, by: str) -> None:
    file = here / "mapped"
    file.write_bytes(bytes(MIB))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), MIB) as mapped:
        mapped[100:105] = b"hello"  # and no msync
        name = f"{here.name} {by}"
        if by == "mkdir":
            (shared.mount_point / "snapshots" / name).mkdir()
        else:
            shared.cubefs("snapshot", "create", shared.mount_point, name)
        mapped[100:105] = b"after"
    taken = shared.mount_point / "snapshots" / name / here.name / "mapped"
    assert taken.read_bytes() == bytes(100) + b"hello" + bytes(MIB - 105)


# -- all of it ----------


def test_every_file_is_the_same_from_an_empty_cache(shared: Machine, here: Path) -> None:
    root = shared.mount_point
    files = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size < 100 * MIB]
    assert len(files) > 10
    before = {path: (path.stat(), path.read_bytes()) for path in files}
    remount(shared, empty_cache=True)
    for path, (status, data) in before.items():
        assert path.read_bytes() == data, path
        after = path.stat()
        assert (after.st_ino, after.st_blocks, after.st_mtime_ns) == (
            status.st_ino,
            status.st_blocks,
            status.st_mtime_ns,
        )
