"""Owns where the programs of Ceph are: in a tree that its packages were unpacked into, nothing being installed.

Must never: start a daemon.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.servers.process import ROOT

TREE = ROOT / "build" / "servers" / "ceph"
TOOL_LIMIT_S = 60.0


class CephError(Exception):
    """A program of Ceph failed."""


class CephPrograms:
    """The programs below a directory, with their libraries and plugins."""

    def __init__(self, tree: Path = TREE) -> None:
        self._tree = tree
        found = sorted((tree / "usr" / "lib").glob("*-linux-gnu*"))
        self.libraries = found[0] if found else tree / "usr" / "lib"

    @property
    def are_there(self) -> bool:
        """Whether the packages are unpacked."""
        return (self._tree / ".installed").exists()

    @property
    def environment(self) -> dict[str, str]:
        """What the programs, and who loads librados, need in the environment."""
        places = [
            self.libraries,
            self.libraries / "ceph",
            self._tree / "lib" / self.libraries.name,
            self._tree / "usr" / "lib" / "ceph",
        ]
        return {"LD_LIBRARY_PATH": ":".join(map(str, places)), "CEPH_ARGS": ""}

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return the command line of a program."""
        return [str(self._tree / "usr" / "bin" / name), *arguments]

    def run(self, name: str, *arguments: str) -> str:
        """Run a program, return what it prints. Raises CephError."""
        done = subprocess.run(
            self.command(name, *arguments),
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TOOL_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise CephError(f"{name} failed (status {done.returncode}): {done.stderr[-3000:]}")
        return done.stdout
