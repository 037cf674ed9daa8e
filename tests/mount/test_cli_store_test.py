"""`cubefs store-test` as a program, and how mkfs treats a store that lies. What is examined is tested elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import remotes
from tests.support.mounting import PROGRAMS, Finished, Machine, wait_until
from tests.support.terminal import Terminal

QUICKLY = ("--seconds", "0.05", "--size", "1")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A computer with cubefs on it; nothing here mounts, so it needs no FUSE."""
    if remotes.kind() != "local":
        pytest.skip("examines stores that are changed for the purpose, which local ones are")
    made = Machine(tmp_path)
    made.store.mkdir()
    yield made
    made.close()


def run_on(machine: Machine, store: str, entry: str, *arguments: str) -> Finished:
    """Run an entry point of the command line in a process of its own, where every local store is a `store`.

    store: the body of a class derived from LocalStore.
    """
    program = f"""
import sys
import cubefs.store
from cubefs.app import cli
from cubefs.errors import StoreDeniedError
from cubefs.store.local import LocalStore

class Changed(LocalStore):
    {store}

cubefs.store.LocalStore = Changed
sys.argv = {["cubefs", *arguments]!r}
cli.{entry}()
"""
    return machine.run("python", "-c", program)


IGNORES_CONDITION = "put_new = LocalStore.put"
FLIPS = "get = lambda self, name, *, newest=False: bytes(b ^ 1 for b in LocalStore.get(self, name))"
APPEND_ONLY = """
    def delete(self, name):
        raise StoreDeniedError(f"no permission to delete {name}")
"""
READ_ONLY = """
    def put(self, name, data):
        raise StoreDeniedError(f"no permission to put {name}")
    put_new = put
"""


def assert_empty(machine: Machine) -> None:
    assert list(machine.store.iterdir()) == []


def test_a_good_store_on_a_terminal(machine: Machine) -> None:
    terminal = Terminal([PROGRAMS / "cubefs", "store-test", machine.url, *QUICKLY], environment=machine.environment)
    try:
        assert terminal.wait() == 0
    finally:
        terminal.close()
    progress, _, report = terminal.screen.rpartition("\r\x1b[K")
    assert "\r\x1b[Kreading what was put, request " in progress
    lines = report.splitlines()
    assert lines[0].startswith(f"{machine.url}, examined in ")
    assert {line.split()[0] for line in lines[2 : lines.index("", 2)]} == {"ok"}
    assert any(line.startswith("put of 1 KiB") for line in lines)
    assert any(line.startswith("16 at once") for line in lines)
    assert lines[-1] == "Verdict: suitable"
    assert_empty(machine)


def test_without_a_terminal_there_is_only_the_report(machine: Machine) -> None:
    result = machine.cubefs("store-test", machine.url, "--short")
    assert (result.err, result.out.splitlines()[-1]) == ("", "Verdict: suitable")
    assert "\x1b" not in result.out and "THROUGHPUT" not in result.out
    assert_empty(machine)


def test_json(machine: Machine) -> None:
    report = machine.cubefs("store-test", machine.url, "--json", "--large", *QUICKLY).json()
    assert (report["suitable"], report["verdict"], report["url"]) == (True, "suitable", machine.url)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["contents"]["figures"] == {"largest_bytes": 64 << 20}
    assert checks["throughput"]["figures"]["up_16_bytes_per_s"] > 0
    assert checks["latency"]["figures"]["put_median_s"] > 0


def test_a_bad_store_has_a_report_and_exit_code_8(machine: Machine) -> None:
    result = run_on(machine, IGNORES_CONDITION, "main", "store-test", machine.url, "--short")
    assert (result.code, result.err) == (8, "")
    last = result.out.splitlines()[-1]
    assert last.startswith("Verdict: NOT suitable: conditional put cannot be relied on")
    assert "\nBAD  conditional put " in result.out
    result = run_on(machine, FLIPS, "main", "store-test", machine.url, "--short", "--json")
    assert (result.code, result.err, result.json()["suitable"]) == (8, "", False)
    assert_empty(machine)


def test_an_append_only_key(machine: Machine) -> None:
    result = run_on(machine, APPEND_ONLY, "main", "store-test", machine.url, *QUICKLY)
    assert (result.code, result.err) == (0, "")
    left = [path for path in machine.store.rglob("*") if path.is_file()]
    assert f"{len(left)} small test objects stay in {machine.url}, store-test-" in result.out
    assert sum(path.stat().st_size for path in left) < 100 * 1024
    assert result.out.splitlines()[-1] == "Verdict: suitable"


def test_no_verdict_is_one_line(machine: Machine) -> None:
    result = run_on(machine, READ_ONLY, "main", "store-test", machine.url)
    assert result.code == 8
    assert "may read but not write" in result.error_line()
    result = machine.run("cubefs", "store-test", f"{machine.url}-nowhere")
    assert result.code == 4
    assert "does not exist" in result.error_line()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "17"), "from 1 to 16"),
        (("--size", "8M"), "8M"),
        (("--seconds", "0"), "from 0 to 60"),
        (("--seconds", "nan"), "from 0 to 60"),
        (("--short", "--large"), "--short"),
    ],
    ids=" ".join,
)
def test_wrong_usage(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    result = machine.run("cubefs", "store-test", machine.url, *arguments)
    assert result.code == 2
    assert said in result.error_line()


def test_help(machine: Machine) -> None:
    result = machine.cubefs("store-test", "--help")
    assert result.out.startswith("usage: cubefs store-test ") and result.err == ""
    assert "store-test" in machine.cubefs("--help").out


def test_interrupted_it_removes_what_it_put(machine: Machine) -> None:
    child = machine.start("cubefs", "store-test", machine.url, "--seconds", "60", "--size", "1")
    wait_until(lambda: any(machine.store.glob("store-test-*/latency-*")))
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "cubefs: interrupted\n")
    assert_empty(machine)


# -- mkfs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [IGNORES_CONDITION, FLIPS], ids=["condition", "contents"])
def test_mkfs_refuses_a_store_that_lies(machine: Machine, store: str) -> None:
    result = run_on(machine, store, "main", "mkfs", machine.url)
    assert (result.code, result.out) == (8, "")
    line = result.error_line()
    assert line.startswith(f"{machine.url} is NOT suitable: ") and "cubefs store-test" in line
    assert_empty(machine)


def test_mkfs_says_nothing_about_a_good_store(machine: Machine) -> None:
    result = machine.run("mkfs.cubefs", machine.url)
    assert (result.code, result.err) == (0, "")
    assert sorted(path.name for path in machine.store.iterdir()) == ["base", "cubefs", "keys"]


def test_mkfs_with_an_append_only_key(machine: Machine) -> None:
    result = run_on(machine, APPEND_ONLY, "main_mkfs", machine.url)
    assert result.code == 0 and "Recovery key" in result.out
    lines = result.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("cubefs: warning: ") for line in lines)
    assert "deleting is refused" in lines[0]
    assert "small test objects stay in" in lines[1]
    assert machine.run("cubefs", "fsck", machine.url).code == 0


def test_mkfs_over_a_file_system_does_not_examine(machine: Machine) -> None:
    machine.mkfs()
    before = sorted(machine.store.rglob("*"))
    result = run_on(machine, IGNORES_CONDITION, "main", "mkfs", machine.url)
    assert result.code == 6 and "holds the cubefs file system" in result.error_line()
    assert sorted(machine.store.rglob("*")) == before
