"""A scratch place: directories, processes, mounts and servers that are gone at the end, however it ends.

Never removes a directory while something is still mounted below it, and never ends a server while a mount may
still have something to store in it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, NamedTuple, Self, TypeVar

Service = TypeVar("Service")

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TERMINAL_SIGNALS = frozenset({signal.SIGINT, signal.SIGHUP})  # go to all processes of the terminal at once
POLL_S = 0.005  # between two looks at something that has no event to wait for
PATIENCE_S = 10.0  # for a process to end after a polite request
MOUNT_PATIENCE_S = 60.0  # for a mount to answer


class StepError(Exception):
    """A step did not do what it must. The message is for a person."""


class Interrupted(BaseException):
    """A signal asks for the end: unwinds like an error, but is none of those that a step may expect."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.status = 128 + number  # the exit status that says so


class Outcome(NamedTuple):
    """A child process that has ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak_rss_bytes: int  # of the largest process among it and the children it waited for


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def _in_one_line(text: str) -> str:
    """Return the first line, which says what, with the last one, which says why."""
    first, *more = text.strip().splitlines() or ["no message"]
    return f"{first.rstrip(':')}: {last_line(chr(10).join(more))}" if more else first


class Scratch:
    """Owns one temporary directory per parent asked for, and all that is started or mounted in them.

    A context manager; leaving it undoes mounts, ends processes, then servers, and removes the directories, in that
    order. `problems` says what could not be undone.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._directories: list[Path] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._services = contextlib.ExitStack()
        self._old_handlers: dict[signal.Signals, object] = {}
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        for number in ENDING_SIGNALS:
            self._old_handlers[number] = signal.signal(number, _raise_interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in ENDING_SIGNALS:  # a second Ctrl-C must not leave a mount behind
            signal.signal(number, signal.SIG_IGN)
        try:
            self._clean_up()
        finally:
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    def directory(self, parent: Path) -> Path:
        """Make a new directory of our own below `parent`. Its name is unique on this machine."""
        path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=parent)).resolve()
        self._directories.append(path)
        return path

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        timeout_s: float = 900,
        may_fail: bool = False,
    ) -> Outcome:
        """Run a command to its end; raise StepError when it fails (unless it `may_fail`) or takes too long.

        Output goes to files, not pipes: a daemon that the command leaves behind may keep them open.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = time.monotonic()
            child = self._spawn(command, environment=environment, directory=directory, out=out, err=err)
            try:
                usage = _wait(child, timeout_s)
                seconds = time.monotonic() - started
            finally:
                self._end_child(child)
            if usage is None:
                raise StepError(f"{_shown(command)}: still running after {timeout_s:.0f} s")
            out.seek(0)
            err.seek(0)
            outcome = Outcome(
                child.returncode,
                out.read().decode(errors="replace"),
                err.read().decode(errors="replace"),
                seconds,
                usage.ru_maxrss * 1024,
            )
        if outcome.status != 0 and not may_fail:
            said = last_line(outcome.stderr or outcome.stdout)
            raise StepError(f"{_shown(command)}: exit status {outcome.status}: {said}")
        return outcome

    def start(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command that goes on running; its output is appended to `log`."""
        with log.open("ab") as out:
            return self._spawn(command, environment=environment, directory=None, out=out, err=out)

    def serve(self, service: AbstractContextManager[Service]) -> Service:
        """Start a server that mounts rely on: it is left when they are gone. Raises StepError."""
        try:
            with _terminal_blocked():  # a Ctrl-C is ours to handle: the server is needed for unmounting
                return self._services.enter_context(service)
        except RuntimeError as error:
            raise StepError(_in_one_line(str(error))) from None

    def end_services(self) -> None:
        """End all servers, the last one first; raise StepError when one had ended by itself."""
        try:
            self._services.close()
        except RuntimeError as error:
            raise StepError(_in_one_line(str(error))) from None

    def wait_mounted(self, mount_point: Path, child: subprocess.Popen[bytes], *, log: Path) -> None:
        """Return once the mount answers; raise StepError with the log's last line when `child` ends first."""
        deadline = time.monotonic() + MOUNT_PATIENCE_S
        while mount_point not in mounts_below(mount_point):
            if child.poll() is not None:
                said = last_line(log.read_text(errors="replace"))
                raise StepError(f"{_shown(child.args)}: exit status {child.returncode}: {said}")
            if time.monotonic() > deadline:
                raise StepError(f"{_shown(child.args)}: not mounted after {MOUNT_PATIENCE_S:.0f} s")
            time.sleep(POLL_S)
        mount_point.stat()  # the kernel answers only after the daemon did

    def wait_ended(self, child: subprocess.Popen[bytes], *, timeout_s: float = 300) -> None:
        """Return when a started command has ended by itself; raise StepError when it does not."""
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise StepError(f"{_shown(child.args)}: still running after {timeout_s:.0f} s") from None

    def processes(self) -> list[int]:
        """Return the ids of living cubefs processes, children or not, that work in our directories."""
        marks = [os.fsencode(path) for path in self._directories]
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if _is_cubefs(line) and any(mark in line for mark in marks):
                        found.append(int(entry.name))
        return found

    def wait_no_processes(self, timeout_s: float = PATIENCE_S) -> bool:
        """Return whether every process that works in our directories has ended within the time."""
        deadline = time.monotonic() + timeout_s
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _spawn(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str] | None,
        directory: Path | None,
        out: IO[bytes],
        err: IO[bytes],
    ) -> subprocess.Popen[bytes]:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # a Ctrl-C is ours to handle; ending one ends all its children
            )
        except OSError as error:
            raise StepError(f"{_shown(command)}: {error.strerror}") from None
        self._children.append(child)
        return child

    def _end_child(self, child: subprocess.Popen[bytes]) -> None:
        """End a child and what it started in its session; harmless when it has ended already."""
        if child.poll() is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(PATIENCE_S)
                    break
        if child in self._children:
            self._children.remove(child)

    def undo_mounts(self, base: Path) -> None:
        """Unmount what is mounted below `base`, and end the started commands that served it."""
        for mount_point in sorted(mounts_below(base), reverse=True):
            unmount(mount_point)
        for child in [child for child in self._children if str(base) in _whole(child.args)]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE_S)
            self._end_child(child)

    def _clean_up(self) -> None:
        for base in self._directories:
            self.undo_mounts(base)
        self.wait_no_processes()
        for child in list(self._children):
            self._end_child(child)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            if self.wait_no_processes():
                break
        self.problems += [f"process {pid} is still running" for pid in self.processes()]
        try:
            self.end_services()
        except StepError as error:
            self.problems.append(str(error))
        for base in self._directories:
            if left := mounts_below(base):
                self.problems += [f"{path} is still mounted" for path in left]
            else:
                remove_tree(base)
            if base.exists():
                self.problems.append(f"{base} could not be removed")


@contextlib.contextmanager
def _terminal_blocked() -> Iterator[None]:
    """Keep the signals of a terminal from us for a moment, and from children that are started in it for good."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def mounts_below(base: Path) -> list[Path]:
    """Return the mount points at or below `base`, from the kernel's list: touches no mount."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        path = Path(os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1")))
        if path == base or base in path.parents:
            found.append(path)
    return found


def unmount(mount_point: Path) -> None:
    """Unmount, lazily when it is busy; says nothing when it fails: the caller looks at the kernel's list."""
    polite, lazy = (["umount"], ["umount", "-l"])
    if os.geteuid() != 0:
        polite, lazy = (["fusermount3", "-u"], ["fusermount3", "-uz"])
    for command in (polite, lazy):
        done = subprocess.run([*command, mount_point], stderr=subprocess.DEVNULL, check=False)
        if done.returncode == 0:
            return


def remove_tree(base: Path) -> None:
    """Remove a directory tree, also where its modes forbid it."""
    for directory, _, _ in os.walk(base):
        with contextlib.suppress(OSError):
            if stat.S_IMODE(os.lstat(directory).st_mode) & 0o700 != 0o700:
                Path(directory).chmod(0o700)
    shutil.rmtree(base, ignore_errors=True)


def disk_use_bytes(path: Path) -> int:
    """Return what `du` says: the bytes that a tree occupies on its disk."""
    done = subprocess.run(["du", "-s", "-B1", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def peak_rss_bytes(pid: int) -> int:
    """Return the highest resident memory of a living process so far, 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    return sizes[0] * 1024 if sizes else 0


def venv_command(name: str) -> Path:
    """Return the path of a command installed beside the Python that runs us."""
    return Path(sys.executable).parent / name


def _is_cubefs(command_line: bytes) -> bool:
    """Return whether /proc/PID/cmdline is a cubefs command, run directly or by an interpreter."""
    names = [Path(os.fsdecode(word)).name for word in command_line.split(b"\0")[:3]]
    return any(name in ("cubefs", "mount.cubefs") or name.startswith("cubefs.") for name in names)


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> resource.struct_rusage | None:
    """Wait for a child; return its resource usage, None after the time. Exact: no polling interval."""
    descriptor = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return None
    finally:
        os.close(descriptor)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _whole(command: object) -> str:
    return " ".join(map(str, command)) if isinstance(command, list | tuple) else str(command)


def _shown(command: object) -> str:
    """Return a command's name with the words that say what it is to do: no options, no paths."""
    first, *rest = command if isinstance(command, list | tuple) else [command]
    words = [str(word) for word in rest if not str(word).startswith("-") and "/" not in str(word)]
    return " ".join([Path(str(first)).name, *words[:2]])
