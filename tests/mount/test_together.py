"""Several processes at once: none disturbs, delays or sees the half of another's work."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import assert_same
from tests.support.mounting import Machine
from tests.support.sharedmount import error_of, new_directory, shared_mount
from tests.support.trees import MIB, churn, make_everything


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


def start(program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start a Python program."""
    return subprocess.Popen([sys.executable, "-c", program, *arguments])


def test_writers_in_directories_of_their_own_and_readers_of_all(here: Path, tmp_path: Path) -> None:
    """Four writers churn a tree each, two readers walk over everything, snapshots are taken meanwhile."""
    root = Path(__file__).resolve().parents[2]
    writer = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from pathlib import Path\n"
        "from tests.support.trees import churn, make_everything\n"
        "tree, seed = Path(sys.argv[1]), int(sys.argv[2])\n"
        "tree.mkdir(); make_everything(tree, seed=seed); churn(tree, seed=seed, steps=60)\n"
    )
    reader = """
import os, sys, time
count = 0
while not os.path.exists(sys.argv[2]):
    for directory, _, names in os.walk(sys.argv[1]):
        for name in names:
            path = os.path.join(directory, name)
            try:
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        while file.read(1 << 20): count += 1
            except FileNotFoundError:
                pass  # the writers rename and remove
sys.exit(0 if count > 100 else 1)
"""
    stop = tmp_path / "stop"
    readers = [start(reader, here, stop) for _ in range(2)]
    writers = [start(writer, here / f"tree {seed}", str(seed)) for seed in range(4)]
    for number in range(3):
        time.sleep(0.3)
        (here.parent / "snapshots" / f"meanwhile {number}").mkdir()
    assert [process.wait(120) for process in writers] == [0] * 4
    stop.touch()
    assert [process.wait(120) for process in readers] == [0] * 2
    for seed in range(4):
        beside = tmp_path / f"tree {seed}"
        beside.mkdir()
        make_everything(beside, seed=seed)
        churn(beside, seed=seed, steps=60)
        assert_same(beside, here / f"tree {seed}")


def test_one_file_written_at_several_places_by_several_processes(here: Path) -> None:
    program = """
import os, sys
path, number = sys.argv[1], int(sys.argv[2])
file = os.open(path, os.O_RDWR)
for block in range(number, 400, 4):
    os.pwrite(file, bytes([number + 1]) * 20_000, block * 20_000)
"""
    file = here / "file"
    file.touch()
    processes = [start(program, file, str(number)) for number in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert file.read_bytes() == b"".join(bytes([block % 4 + 1]) * 20_000 for block in range(400))


def test_making_the_same_name_only_one_wins(here: Path) -> None:
    program = """
import os, sys
won = 0
for n in range(200):
    try:
        os.close(os.open(f"{sys.argv[1]}/{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        won += 1
    except FileExistsError:
        pass
    try:
        os.mkdir(f"{sys.argv[1]}/directory {n}")
        won += 1
    except FileExistsError:
        pass
print(won)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, here], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 400
    assert here.stat().st_nlink == 202


def test_locks_hold_between_processes(here: Path) -> None:
    file = here / "file"
    file.touch()
    program = "import fcntl, sys; fcntl.{}(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with file.open("r+b") as held:
        for kind in ("flock", "lockf"):
            getattr(fcntl, kind)(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other: list[str | Path] = [sys.executable, "-c", program.format(kind), file]
            assert b"BlockingIOError" in subprocess.run(other, capture_output=True, check=False).stderr
            getattr(fcntl, kind)(held, fcntl.LOCK_UN)
            assert subprocess.run(other, capture_output=True, check=False).returncode == 0


def test_names_do_not_wait_for_data(shared: Machine, here: Path) -> None:
    """While a large file is written and stored, making and listing names stays quick."""
    writer = start(
        "import os, sys\nf = open(sys.argv[1], 'wb')\nd = os.urandom(8 << 20)\n" + "f.write(d)\n" * 25,
        here / "large",
    )
    slowest_s = 0.0
    count = 0
    while writer.poll() is None:
        started_s = time.monotonic()
        (here / f"name {count}").mkdir()
        (here / f"name {count}").rmdir()
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        count += 1
        time.sleep(0.005)
    assert writer.returncode == 0
    assert (here / "large").stat().st_size == 200 * MIB
    assert count > 5
    assert slowest_s < 2.0


def test_a_file_removed_by_one_process_while_another_writes_it(shared: Machine, here: Path) -> None:
    program = """
import os, sys
for n in range(60):
    with open(sys.argv[1], "wb") as file:
        for _ in range(5):
            file.write(os.urandom(50_000))
"""
    writers = [start(program, here / "file") for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        assert error_of(os.unlink, here / "file") in ("none", "ENOENT")
    assert [writer.returncode for writer in writers] == [0, 0]
    error_of(os.unlink, here / "file")
    assert list(here.iterdir()) == []
    shared.cubefs("sync", shared.mount_point)
    assert shared.status()["file_system"]["open_files"] == 0
