"""The main job on real files, start to end: back up, snapshot, lose data, restore, prove it, audit the store.

Run by `make demo`. STORE=s3 or STORE=swift stores the objects in a real OpenStack Swift that runs for the demo,
STORE=local, the default, in a directory. Works as root and as a user; leaves nothing behind. Exit status 0 only
when every comparison found no difference.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from contrib.demo.compare import compare_trees, shown
from contrib.demo.report import Report, mb
from contrib.demo.scratch import (
    Interrupted,
    Outcome,
    Scratch,
    StepError,
    last_line,
    mounts_below,
    peak_rss_bytes,
    venv_command,
)
from contrib.demo.stores import (
    LOCAL,
    SERVED,
    DemoStore,
    Directory,
    check_name,
    forget_credentials,
    install_server,
    open_served,
)
from contrib.demo.tree import change_tree, count, make_source

SHOWN_DIFFERENCES = 10
SHOWN_LOG_LINES = 20
STEP_TIMEOUT_S = 180.0  # a step takes seconds; rsync may wait for itself for ever when the mount below it dies
NEEDED_COMMANDS = ("rsync", "cp", "du", "fusermount3")
NEEDED_BYTES = 2_000_000_000  # the tree, its changed twin, two restores, the store, two caches


class Demo:
    """One run in one scratch place."""

    def __init__(self, scratch: Scratch, base: Path, *, store_name: str) -> None:
        self.scratch = scratch
        self.report = Report()
        self.base = base
        self.source = self._make("source")
        self.changed = self._make("changed")  # the source after the same changes, on a plain file system
        self.mount_point = self._make("mount")
        self.store = self._open_store(store_name)
        self.url = self.store.url
        self.environment = {"CUBEFS_PASSPHRASE": secrets.token_urlsafe(16), **self.store.environment}
        self.compared_entries = 0
        self.peak_bytes = 0
        self.status: dict[str, int] = {}  # what the file system says of itself before it is unmounted

    def run(self) -> None:
        """Do all steps; raise StepError at the first thing that is not as it must be."""
        step, report = self.report.step, self.report
        with step("make a source tree of this machine's own files"):
            made = make_source(self.source)
            report.note(_totals(made.files, made.directories, made.content_bytes))
            report.note("with " + ", ".join(made.oddities))
            if made.missing:
                report.note("not possible here: " + ", ".join(made.missing))
            self._command("cp", "-a", f"{self.source}/.", self.changed)
        self._back_up()
        self._change()
        self._restore()
        self._mount_from_nothing()
        self._audit()
        self._print_figures()

    def _open_store(self, name: str) -> DemoStore:
        if name == LOCAL:
            return Directory(self.base / "store")
        with self.report.step(SERVED[name].title):
            install_server(self.scratch)
            return open_served(self.scratch, name)

    def _back_up(self) -> None:
        with self.report.step(f"mkfs.cubefs {self._short(self.url)}"):
            for line in self._cubefs("mkfs.cubefs", self.url).stderr.splitlines():
                self.report.note(line)
        self._mount(self.base / "cache", "cubefs mount")
        with self.report.step("rsync -aHXS source/ mount/data/"):
            self._command("rsync", "-aHXS", f"{self.source}/", f"{self.mount_point}/data/")
        with self.report.step("compare mount/data with the source"):
            self._compare(self.source, self.mount_point / "data")
        with self.report.step("cubefs snapshot create mount first"):
            self._cubefs("cubefs", "snapshot", "create", self.mount_point, "first")

    def _change(self) -> None:
        with self.report.step("change and delete files in mount/data"):
            self.report.note(change_tree(self.mount_point / "data"))
            change_tree(self.changed)
            now = count(self.changed)
            self.report.note("now " + _totals(now.files, now.directories, now.content_bytes))
        with self.report.step("mkdir mount/snapshots/second"):
            (self.mount_point / "snapshots" / "second").mkdir()
        with self.report.step("compare mount/snapshots/second with a twin changed outside of cubefs"):
            self._compare(self.changed, self.mount_point / "snapshots" / "second" / "data")
        with self.report.step("cubefs snapshot list mount --json"):
            listed = self._cubefs("cubefs", "snapshot", "list", self.mount_point, "--json").stdout
            for name in ("first", "second"):
                if f'"{name}"' not in listed:
                    raise StepError(f"snapshot {name} is not listed: {listed.strip()}")

    def _restore(self) -> None:
        first = self.mount_point / "snapshots" / "first" / "data"
        for name, command in (("cp", ["cp", "-a"]), ("rsync", ["rsync", "-aHXS"])):
            target = self._make(f"restored-by-{name}")
            with self.report.step(f"{' '.join(command)} mount/snapshots/first/data/. {target.name}/"):
                self._command(*command, f"{first}/.", target)
            with self.report.step(f"compare {target.name} with the source"):
                self._compare(self.source, target)
            shutil.rmtree(target)

    def _mount_from_nothing(self) -> None:
        with self.report.step("cubefs sync mount"):
            self._cubefs("cubefs", "sync", self.mount_point)
        status = self._cubefs("cubefs", "status", self.mount_point, "--json").stdout
        self.status = json.loads(status)["file_system"]
        self._unmount("cubefs umount mount")
        shutil.rmtree(self.base / "cache")
        self._mount(self.base / "empty-cache", "cubefs mount, with an empty cache directory")
        for name, expected in (("first", self.source), ("second", self.changed)):
            with self.report.step(f"compare mount/snapshots/{name}, read from the store"):
                self._compare(expected, self.mount_point / "snapshots" / name / "data")
        self._unmount("cubefs umount mount, again")

    def _audit(self) -> None:
        with self.report.step(f"cubefs.fsck {self._short(self.url)} --data"):
            said = self._cubefs("cubefs.fsck", self.url, "--data").stdout
            for line in said.splitlines():
                self.report.note(line)
            if "clean" not in last_line(said):
                raise StepError(f"the audit says: {last_line(said)}")

    def _print_figures(self) -> None:
        first, second = count(self.source), count(self.changed)
        in_bytes = first.content_bytes + second.content_bytes
        unique_bytes, packed_bytes = self.status["plain_bytes"], self.status["stored_bytes"]
        seconds = self.report.seconds
        print("\n      Every comparison found the trees identical, and the audit found no fault.\n")
        self.report.figures(
            [
                ("files", f"{first.files:,} in the first snapshot, {second.files:,} in the second"),
                ("bytes in", f"{mb(in_bytes)} in both (holes not counted, hard links once)"),
                ("after deduplication", f"{mb(unique_bytes)}: {in_bytes / unique_bytes:.2f} to 1"),
                ("after compression", f"{mb(packed_bytes)}: {unique_bytes / packed_bytes:.2f} to 1"),
                ("bytes stored", self.store.stored()),
                ("entries compared", f"{self.compared_entries:,}"),
                ("peak memory of the daemon", mb(self.peak_bytes)),
                ("all steps", f"{sum(seconds.values()):.1f} s"),
            ]
        )

    def last_log_lines(self) -> list[str]:
        """Return the end of the daemon's newest log: where to look when something failed."""
        logs = sorted(self.base.glob("*cache/cubefs.log"), key=lambda path: path.stat().st_mtime)
        return logs[-1].read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:] if logs else []

    # -- the commands ------------------------------------------------------------------------------------------

    def _mount(self, cache: Path, title: str) -> None:
        with self.report.step(title):
            if cache.exists():
                raise StepError(f"{cache} is not empty")
            self._cubefs("cubefs", "mount", self.url, self.mount_point, "--cache-dir", cache)
            if not mounts_below(self.mount_point):
                raise StepError("cubefs mount returned, but nothing is mounted")

    def _unmount(self, title: str) -> None:
        self.peak_bytes = max([self.peak_bytes, *map(peak_rss_bytes, self.scratch.processes())])
        with self.report.step(title):
            self._cubefs("cubefs", "umount", self.mount_point)
            if mounts_below(self.mount_point):
                raise StepError("cubefs umount returned, but it is still mounted")
            if not self.scratch.wait_no_processes():
                raise StepError("unmounted, but the daemon is still running")

    def _cubefs(self, name: str, *arguments: str | Path) -> Outcome:
        command = [venv_command(name), *arguments]
        return self.scratch.run(
            command, environment=self.environment, directory=self.base, timeout_s=STEP_TIMEOUT_S
        )

    def _command(self, *command: str | Path) -> None:
        self.scratch.run(command, directory=self.base, timeout_s=STEP_TIMEOUT_S)

    def _compare(self, expected: Path, actual: Path) -> None:
        found = compare_trees(expected, actual)
        self.compared_entries += found.entries
        if found.differences:
            for line in found.differences[:SHOWN_DIFFERENCES]:
                self.report.note(f"different: {line}")
            raise StepError(f"{len(found.differences)} differences")
        self.report.note(f"identical: {found.entries:,} entries, {mb(found.content_bytes)}")

    def _make(self, name: str) -> Path:
        path = self.base / name
        path.mkdir()
        return path

    def _short(self, url: str) -> str:
        return url.replace(str(self.base), "/…")


def _totals(files: int, directories: int, content_bytes: int) -> str:
    return f"{files:,} files in {directories:,} directories, {mb(content_bytes)}"


def check_machine(parent: Path) -> None:
    """Raise StepError with what is missing."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise StepError(
            "/dev/fuse is missing or not accessible: load the module fuse, or allow it to the container"
        )
    if absent := [name for name in NEEDED_COMMANDS if shutil.which(name) is None]:
        raise StepError(f"not installed: {', '.join(absent)} (run `make setup`)")
    if absent := [name for name in ("cubefs", "mkfs.cubefs", "cubefs.fsck") if not venv_command(name).exists()]:
        raise StepError(f"not installed: {', '.join(absent)} (run `make setup`)")
    if shutil.disk_usage(parent).free < NEEDED_BYTES:
        raise StepError(f"less than {mb(NEEDED_BYTES)} free in {parent}: set TMPDIR to a roomier directory")


def main() -> int:
    """Run the demo; return the exit status."""
    parent = Path(tempfile.gettempdir())
    print("\n      cubefs demo: back up, snapshot, lose data, restore, prove it, audit the store\n")
    status = 0
    with Scratch("cubefs-demo-") as scratch:
        demo = None
        try:
            store_name = os.environ.get("STORE") or LOCAL
            check_name(store_name)
            check_machine(parent)
            forget_credentials()
            demo = Demo(scratch, scratch.directory(parent), store_name=store_name)
            demo.run()
        except (StepError, OSError, ValueError) as error:
            print(f"\n      The demo failed: {shown(str(error))}", file=sys.stderr)
            for line in demo.last_log_lines() if demo else []:
                print(f"      daemon: {shown(line)}", file=sys.stderr)
            status = 1
        except Interrupted as signal:
            print("\n      Interrupted: unmounting and removing what was made.", file=sys.stderr)
            status = signal.status
    for problem in scratch.problems:
        print(f"      left behind: {problem}", file=sys.stderr)
        status = status or 1
    if not scratch.problems:
        print("\n      Nothing is left mounted, running or lying around.\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
