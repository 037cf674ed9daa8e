"""Owns the stage of the fault tests: a file system on a real server behind the fault proxy, and its machines.

Also the data that is written, and the two judges at the end of every test: a machine that has never seen the file
system reads what was written, and `cubefs.fsck --data` finds nothing. Both go past the proxy.
Must never: know what goes wrong in a test.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cubefs.app import client
from tests.support.mounting import Machine, Remote, tree_of, wait_until
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.swift import TESTER, SwiftServer, SwiftUser

MIB = 1024 * 1024
PLACE = "faults"  # the bucket or container; each file system has a prefix of its own in it
FAULT_S = float(os.environ.get("CUBEFS_FAULT_SECONDS", "10"))  # how long a store is gone; 60 for a soak
LIMIT_S = 60.0 + 2 * FAULT_S  # for a command that waits until the store is back: a bound, not a measure
DATA_BYTES = 9 * MIB  # some packs, which are uploaded at the same time

_BAD_WORDS = (" ERROR ", " CRITICAL ", "Traceback")

Entry = Mapping[str, Any]  # of the proxy's log


@dataclass(frozen=True)
class Cast:
    """Who is there: one per worker."""

    server: SwiftServer
    proxy: FaultProxy
    template: Path  # a local store with an empty file system

    def environment(self, driver: str, user: SwiftUser, *, direct: bool) -> dict[str, str]:
        """Return what reaches the server by a driver's protocol, through the proxy or past it."""
        access = self.server.s3_as(user) if driver == "s3" else self.server.swift_as(user)
        return access.environment(None if direct else self.proxy.url)


class Scene:
    """One file system on the server and the machines that use it; `close` leaves nothing mounted or running."""

    def __init__(self, cast: Cast, driver: str, root: Path, *, user: SwiftUser = TESTER) -> None:
        """Make the file system: objects are copied past the proxy, which notices nothing."""
        self.proxy = cast.proxy
        self.driver = driver
        self.prefix = secrets.token_hex(6)
        self.url = f"{driver}://{PLACE}/{self.prefix}"
        self._cast = cast
        self._user = user
        self._root = root
        self._machines: dict[str, Machine] = {}
        self._children: list[subprocess.Popen[Any]] = []
        self.machine("maker", direct=True).adopt(cast.template)

    def machine(self, name: str = "first", *, direct: bool = False) -> Machine:
        """Return the computer `name`; its requests go through the proxy, or past it."""
        if name not in self._machines:
            root = self._root / self.prefix / name
            root.mkdir(parents=True)
            environment = self._cast.environment(self.driver, self._user, direct=direct)
            self._machines[name] = Machine(root, remote=Remote(self.url, environment))
        return self._machines[name]

    def mounted(self, *options: str) -> Machine:
        """Return the first machine, mounted with these options of `-o`; the proxy's record begins behind that."""
        machine = self.machine()
        machine.mount(*(["-o", ",".join(options)] if options else []))
        self.proxy.settled_stats()
        self.proxy.reset()
        return machine

    def spawn(self, command: Sequence[str | Path]) -> subprocess.Popen[str]:
        """Start a program that may hang when something is wrong; `close` ends it."""
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._children.append(child)
        return child

    def log(self, methods: str | None = None, part: str = "") -> list[Entry]:
        """Return the requests of this file system that the proxy has seen: of a method, with `part` in the path."""
        return [
            entry
            for entry in self.proxy.log()
            if self.prefix in entry["target"]
            and part in entry["target"]
            and (methods is None or entry["method"] == methods)
        ]

    def close(self) -> None:
        """End everything, with the store in order."""
        self.proxy.clear()
        self.proxy.start()
        for machine in self._machines.values():
            machine.close()
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()

    # -- the judges ----------

    def judge(self, machine: Machine, expected: Mapping[str, bytes]) -> None:
        """Fail unless everything is stored, is what it must be, and nobody has cried wolf."""
        self.compare(expected)
        self.audit(machine)
        assert_calm(machine)

    def compare(self, expected: Mapping[str, bytes], *, direct: bool = True) -> None:
        """Read everything on a machine that has never seen it, past the proxy or through its faults."""
        second = self.machine(f"reader-{secrets.token_hex(3)}", direct=direct)
        root = second.mount("-o", "ro")
        assert_same_data(root, expected)
        assert_calm(second)

    def audit(self, machine: Machine) -> None:
        """Run `cubefs.fsck --data`, which also looks at what the machine's cache says of the store."""
        by = self.machine("auditor", direct=True)
        result = by.run("cubefs.fsck", self.url, "--data", "--cache-dir", machine.cache)
        assert result.code == 0, f"fsck ended with {result.code}:\n{result.out}{result.err}"


def assert_same_data(root: Path, expected: Mapping[str, bytes]) -> None:
    """Fail, naming files only, unless exactly these files are there with these contents."""
    found = tree_of(root, skip=["snapshots"])
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def assert_calm(machine: Machine) -> None:
    """Fail if the daemon has reported damage or failed, or has stopped to accept."""
    bad = [line for line in machine.log().splitlines() if any(word in line for word in _BAD_WORDS)]
    assert not bad, "in the daemon's log:\n" + "\n".join(bad)
    if os.path.ismount(machine.mount_point):
        assert state(machine)["failure"] is None


def state(machine: Machine) -> dict[str, Any]:
    """Return what `cubefs status --json` says of the file system, without a process for each look."""
    with client.connected(machine.mount_point) as connection:
        fields = connection.ask("status")["file_system"]
    assert isinstance(fields, dict)
    return fields


def traffic(machine: Machine) -> Mapping[str, int]:
    """Return the counters of requests."""
    counters = state(machine)["store_traffic"]
    assert isinstance(counters, dict)
    return counters


# -- data ----------


class Data:
    """Writes files that do not compress, large and small ones, and knows what must be there."""

    def __init__(self, root: Path) -> None:
        """Write below `root`, the mount point."""
        self.root = root
        self.expected: dict[str, bytes] = {}

    def write(self, name: str, *, size: int = DATA_BYTES, small_count: int = 30) -> None:
        """Write the directory `name`: large files of `size` bytes together, and small ones."""
        write_tree(self.root / name, self.plan(name, size=size, small_count=small_count))

    def plan(self, name: str, *, size: int = DATA_BYTES, small_count: int = 30) -> dict[str, bytes]:
        """Return what is to be written below the directory `name`; it is expected from now on."""
        rng = random.Random(name)
        large = [size // 2, size // 3, size - size // 2 - size // 3] if size else []
        files = {f"large {number}": rng.randbytes(length) for number, length in enumerate(large)}
        files |= {f"small/{number:03}": rng.randbytes(rng.randrange(6000)) for number in range(small_count)}
        self.expected |= {f"{name}/{path}": content for path, content in files.items()}
        return files

    def file(self, name: str, content: bytes) -> Path:
        """Write one file."""
        path = self.root / name
        path.write_bytes(content)
        self.expected[name] = content
        return path


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files below the new directory `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# -- waiting ----------


@contextlib.contextmanager
def running(call: Callable[[], object], *, timeout_s: float = LIMIT_S) -> Iterator[threading.Thread]:
    """Run `call` in a thread beside the block; afterwards wait for its end and raise what it raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread
    thread.join(timeout_s)
    assert not thread.is_alive(), f"still running after {timeout_s:.0f} s"
    if failures:
        raise failures[0]


def wait_for_store_error(machine: Machine, text: str) -> None:
    """Wait until `cubefs status` says what is wrong with the store, and uses these words."""
    wait_until(lambda: text in str(state(machine)["store_error"]), timeout_s=LIMIT_S)
