"""What takes space and what does not: deduplication, `df`, `du`, the directory of snapshots."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.mounting import Machine, wait_until
from tests.support.sharedmount import new_directory, packs, shared_mount, stored_bytes
from tests.support.trees import KIB, MIB


@pytest.fixture(scope="module", params=["content", "fixed"])
def either(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Each way of cutting files into blocks."""
    # commits far apart: one in the middle of a file cuts a block short
    with shared_mount(tmp_path_factory, chunking=request.param, commits="1h") as machine:
        yield machine


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The default way."""
    with shared_mount(tmp_path_factory, commits="1h") as machine:
        yield machine


def grown(machine: Machine, before: int) -> int:
    """Return how much the store has grown since `before`, with everything stored."""
    machine.cubefs("sync", machine.mount_point)
    return stored_bytes(machine) - before


def test_the_same_data_is_stored_once(either: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(either, request)
    either.cubefs("sync", either.mount_point)
    empty = stored_bytes(either)
    data = os.urandom(20 * MIB)
    (here / "first").write_bytes(data)
    once = grown(either, empty)
    assert 20 * MIB < once < 20 * MIB * 1.01
    (here / "second").write_bytes(data)
    (here / "third").write_bytes(data)
    subprocess.run(["cp", here / "first", here / "fourth"], check=True)
    assert grown(either, empty) < once + 100 * KIB  # metadata
    for name in ("second", "third", "fourth"):
        assert (here / name).read_bytes() == data


def test_data_in_a_snapshot_is_found_again(either: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(either, request)
    data = os.urandom(5 * MIB)
    (here / "file").write_bytes(data)
    (either.mount_point / "snapshots" / here.name).mkdir()
    (here / "file").unlink()
    either.cubefs("sync", either.mount_point)
    before = stored_bytes(either)
    (here / "again").write_bytes(data)
    assert grown(either, before) < 100 * KIB


def test_small_changes_cost_little(either: Machine, request: pytest.FixtureRequest) -> None:
    """An overwritten block, an appended line; no file is stored anew."""
    here = new_directory(either, request)
    file = here / "file"
    file.write_bytes(os.urandom(30 * MIB))
    either.cubefs("sync", either.mount_point)
    before = stored_bytes(either)
    with file.open("r+b") as output:
        output.seek(11 * MIB)
        output.write(os.urandom(4 * KIB))
    assert grown(either, before) < 100 * KIB
    with file.open("ab") as output:
        output.write(os.urandom(10 * KIB))
    assert grown(either, before) < 1.5 * MIB  # at most the last block once more


def test_an_insertion_moves_only_its_neighbourhood(content: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(content, request)
    data = os.urandom(40 * MIB)
    (here / "before").write_bytes(data)
    content.cubefs("sync", content.mount_point)
    before = stored_bytes(content)
    (here / "after").write_bytes(data[: 9 * MIB] + b"inserted" + data[9 * MIB :])
    assert grown(content, before) < 10 * MIB


def test_text_is_compressed(content: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(content, request)
    content.cubefs("sync", content.mount_point)
    before = stored_bytes(content)
    (here / "log").write_bytes(b"".join(b"%d a line as logs have them\n" % number for number in range(200_000)))
    assert grown(content, before) < (here / "log").stat().st_size / 4


def test_many_small_files_share_packs(content: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(content, request)
    content.cubefs("sync", content.mount_point)
    before = len(packs(content))
    for number in range(500):
        (here / str(number)).write_bytes(os.urandom(2000))
    content.cubefs("sync", content.mount_point)
    assert len(packs(content)) - before <= 2


def test_df_counts_what_the_store_holds(content: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(content, request)

    def look() -> os.statvfs_result:
        return os.statvfs(content.mount_point)

    content.cubefs("sync", content.mount_point)
    before = look()
    assert before.f_namemax == 255
    assert 0 < before.f_bavail <= before.f_bfree < before.f_blocks
    assert 0 < before.f_ffree < before.f_files
    (here / "file").write_bytes(os.urandom(20 * MIB))

    def used(status: os.statvfs_result) -> int:
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    content.cubefs("sync", content.mount_point)
    wait_until(lambda: used(look()) > used(before))
    assert 19 * MIB < used(look()) - used(before) < 22 * MIB
    if content.remote is None:  # others say nothing about what they have room for
        underlying = os.statvfs(content.store)
        assert abs(look().f_bavail * look().f_frsize - underlying.f_bavail * underlying.f_frsize) < 500 * MIB
    out = subprocess.run(["df", "-k", here], capture_output=True, text=True, check=True).stdout.split("\n")[1]
    assert out.split()[0] == content.url and out.split()[5] == str(content.mount_point)
    (here / "file").unlink()
    assert used(look()) - used(before) > 19 * MIB  # until space is reclaimed, as the documentation says


def test_du_counts_files_by_what_they_hold(content: Machine, request: pytest.FixtureRequest) -> None:
    here = new_directory(content, request)
    (here / "data").write_bytes(os.urandom(3 * MIB))
    (here / "linked").hardlink_to(here / "data")
    os.truncate(here / "data", 100 * MIB)
    (here / "directory").mkdir()
    (here / "directory" / "small").write_bytes(b"x" * 700)

    def du(*options: str) -> int:
        out = subprocess.run(["du", "-s", "-B1", *options, here], capture_output=True, text=True, check=True)
        return int(out.stdout.split()[0])

    assert du() == 3 * MIB + 1024
    assert du("--apparent-size") == 100 * MIB + 700
    assert du("-l") == 6 * MIB + 1024
