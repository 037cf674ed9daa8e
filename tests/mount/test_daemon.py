"""The life of the background process: starting, private files, unmounting in every way, waiting for one another."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubefs.model import MIB
from tests.support.mounting import PASSPHRASE, Machine, is_running, small_disk, wait_until
from tests.support.sharedmount import machine_at


def pid_of(machine: Machine) -> int:
    """Return the daemon's pid."""
    return int(machine.status()["pid"])


# -- starting ----------------------------------------------------------------------------------------------


def test_the_command_returns_when_the_mount_answers(machine: Machine, mounted: Path) -> None:
    assert mounted.stat().st_ino == 1
    assert mounted.stat().st_dev != machine.root.stat().st_dev
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mounted} " in line]
    fields, _, rest = line.partition(" - ")
    kind, source, options = rest.split(" ")
    assert (kind, source) == ("fuse.cubefs", machine.url)
    assert "default_permissions" in options
    assert "nosuid" in fields and "nodev" in fields
    assert ("allow_other" in options) == (os.geteuid() == 0)


def test_the_process_is_detached_and_keeps_no_secrets_around(machine: Machine, mounted: Path) -> None:
    process = Path(f"/proc/{pid_of(machine)}")
    assert process.joinpath("cwd").readlink() == Path("/")
    fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    assert fields[3] == process.name and fields[4] == "0"  # its own session, no controlling terminal
    for number in (1, 2):
        assert process.joinpath("fd", str(number)).readlink() == machine.cache / "cubefs.log"
    limits = process.joinpath("limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
    (soft, hard) = next(line.split()[3:5] for line in limits.splitlines() if "open files" in line)
    assert soft == hard or int(soft) >= 1 << 20
    for file in ("cmdline", "environ"):
        assert PASSPHRASE.encode() not in process.joinpath(file).read_bytes()
    assert PASSPHRASE not in machine.log()


def test_the_files_in_the_cache_directory_are_private(machine: Machine, mounted: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in machine.cache.iterdir()}
    assert stat.S_IMODE(machine.cache.stat().st_mode) == 0o700
    assert {"lock", "owner", "cubefs.log", "control"} <= modes.keys()
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    holder = json.loads((machine.cache / "lock").read_text())
    assert holder == {
        "pid": pid_of(machine),
        "mount_point": str(mounted),
        "state": "mounted",
        "host": socket.gethostname(),
    }
    assert (machine.cache / "owner").read_text().strip() == machine.status()["uuid"]


def test_the_usual_cache_directory(filled: Machine) -> None:
    environment = {"CUBEFS_CACHE_DIR": None}
    filled.cubefs("mount", filled.url, filled.mount_point, environment=environment)
    uuid = filled.status()["uuid"]
    assert filled.status()["cache_dir"] == str(filled.root / "xdg" / "cubefs" / uuid)


def test_a_cache_path_longer_than_socket_addresses(filled: Machine) -> None:
    long = filled.root / ("d" * 100) / ("e" * 100)
    target = filled.mount("--cache-dir", long)
    assert filled.status()["cache_dir"] == str(long)
    filled.cubefs("snapshot", "create", target, "one")
    filled.umount()


def test_the_helper_of_mount_8(filled: Machine) -> None:
    words = "rw,noexec,_netdev,x-systemd.automount,snapdir=hidden,cache_size=1G"
    filled.run("mount.cubefs", filled.url, filled.mount_point, "-n", "-o", words)
    assert "snapshots" not in [path.name for path in filled.mount_point.iterdir()]
    assert (filled.mount_point / "snapshots").is_dir()
    assert filled.status()["file_system"]["cache_limit_bytes"] == 1024 * MIB
    (line,) = [line for line in Path("/proc/mounts").read_text().splitlines() if str(filled.mount_point) in line]
    assert "noexec" in line


def test_read_only(filled: Machine) -> None:
    target = filled.mount("-o", "ro")
    assert (target / "precious").read_text() == "data"
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_text("x")
    assert filled.run("cubefs", "snapshot", "create", target).error_line() == "the file system is mounted read-only"
    filled.umount()


@pytest.mark.usefixtures("as_root")
def test_the_kernel_is_told_to_read_ahead(machine: Machine, mounted: Path) -> None:
    device = mounted.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if not os.access(setting, os.W_OK):
        pytest.skip("/sys cannot be written here")
    assert setting.read_text() == "1024\n"


def test_a_large_log_is_rotated(filled: Machine) -> None:
    filled.cache.mkdir()
    (filled.cache / "cubefs.log").write_bytes(b"x" * 5 * MIB)
    filled.mount()
    assert (filled.cache / "cubefs.log.1").stat().st_size == 5 * MIB
    assert 0 < (filled.cache / "cubefs.log").stat().st_size < MIB
    os.write(os.open(f"/proc/{pid_of(filled)}/fd/2", os.O_WRONLY | os.O_APPEND), b"from a library\n")
    assert "from a library" in filled.log()


def test_an_interrupted_mount_leaves_nothing(filled: Machine) -> None:
    """The store is made to hang where the background process first reads from it."""
    chunk = filled.store / "base" / f"{0:016}" / f"{0:06}"
    original = chunk.read_bytes()
    chunk.unlink()
    os.mkfifo(chunk)
    child = filled.start("cubefs", "mount", filled.url, filled.mount_point)
    writing = os.open(chunk, os.O_WRONLY)  # waits until it is read
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (130, "", "cubefs: interrupted\n")
    assert not os.path.ismount(filled.mount_point)
    os.close(writing)
    chunk.unlink()
    chunk.write_bytes(original)
    assert (filled.mount() / "precious").read_text() == "data"


# -- unmounting --------------------------------------------------------------------------------------------


def test_umount_returns_when_all_is_stored_and_the_process_is_gone(machine: Machine, mounted: Path) -> None:
    content = os.urandom(20 * MIB)
    (mounted / "file").write_bytes(content)
    process = pid_of(machine)
    machine.umount()
    assert not is_running(process)
    assert "everything is stored" in machine.log()
    shutil.rmtree(machine.cache)
    assert (machine.mount() / "file").read_bytes() == content


def test_umount_of_a_mount_in_use_leaves_it_mounted(machine: Machine, mounted: Path) -> None:
    with (mounted / "file").open("w") as file:
        result = machine.run("cubefs", "umount", mounted)
        assert result.code == 7
        assert "is in use by" in result.error_line() and f"({os.getpid()})" in result.err
        file.write("still works")
    assert (mounted / "file").read_text() == "still works"
    machine.umount()


def test_plain_umount_drains_in_the_background(machine: Machine, mounted: Path) -> None:
    content = os.urandom(20 * MIB)
    (mounted / "file").write_bytes(content)
    process = pid_of(machine)
    unmount_plainly(mounted)
    wait_until(lambda: not is_running(process))
    assert "everything is stored" in machine.log()
    shutil.rmtree(machine.cache)
    assert (machine.mount() / "file").read_bytes() == content


def test_sigterm_unmounts_and_drains(machine: Machine, mounted: Path) -> None:
    content = os.urandom(5 * MIB)
    (mounted / "file").write_bytes(content)
    process = pid_of(machine)
    os.kill(process, signal.SIGTERM)
    wait_until(lambda: not is_running(process))
    assert not os.path.ismount(mounted)
    assert "everything is stored" in machine.log()
    shutil.rmtree(machine.cache)
    assert (machine.mount() / "file").read_bytes() == content


def test_sigterm_with_a_file_open_detaches_and_loses_nothing(machine: Machine, mounted: Path) -> None:
    process = pid_of(machine)
    with (mounted / "file").open("w") as file:
        file.write("written")
        file.flush()
        os.kill(process, signal.SIGTERM)
        wait_until(lambda: not os.path.ismount(mounted))
    wait_until(lambda: not is_running(process))
    assert "is in use by" in machine.log()
    assert (machine.mount() / "file").read_text() == "written"


def test_after_kill_9_the_next_mount_tidies_up(machine: Machine, mounted: Path) -> None:
    (mounted / "file").write_text("synced")
    descriptor = os.open(mounted / "file", os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    machine.kill()
    for command in ("status", "umount", "sync"):
        result = machine.run("cubefs", command, mounted)
        assert result.code == 7
        assert "is dead" in result.error_line() and "mount it again" in result.err
    result = machine.cubefs("mount", machine.url, mounted)
    assert result.error_line().startswith("removing the dead mount")
    assert (mounted / "file").read_text() == "synced"


# -- waiting for a drain -----------------------------------------------------------------------------------


@pytest.fixture
def stuck(machine: Machine, empty_store: Path, as_root: None) -> Machine:
    """A mount whose store is full, with 6 MiB that wait; `unstick` lets them through."""
    small_disk(machine.store, size="4M")
    shutil.copytree(empty_store, machine.store, dirs_exist_ok=True)
    (machine.mount() / "file").write_bytes(bytes(range(256)) * 1024 + os.urandom(6 * MIB))
    return machine


def unstick(machine: Machine) -> None:
    """Make room in the store."""
    subprocess.run(["mount", "-o", "remount,size=64M", machine.store], check=True)


def unmount_plainly(target: Path) -> None:
    """What everybody does."""
    command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    subprocess.run([*command, target], check=True)


def test_interrupting_umount_leaves_it_mounted(stuck: Machine) -> None:
    child = stuck.start("cubefs", "umount", stuck.mount_point)
    assert child.stderr is not None and "the store fails" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    expected = f"cubefs: interrupted: {stuck.mount_point} is still mounted, and goes on storing\n"
    assert child.stderr.read() == expected
    assert (stuck.mount_point / "file").stat().st_size > 6 * MIB
    unstick(stuck)
    stuck.umount()


def test_the_next_mount_and_umount_wait_for_the_drain(stuck: Machine) -> None:
    first = pid_of(stuck)
    unmount_plainly(stuck.mount_point)
    wait_until(lambda: json.loads((stuck.cache / "lock").read_text())["state"] == "draining")
    waiting = stuck.start("cubefs", "umount", stuck.mount_point)
    assert waiting.stderr is not None
    assert f"waiting for process {first}" in waiting.stderr.readline()
    child = stuck.start("cubefs", "mount", stuck.url, stuck.mount_point)
    assert child.stderr is not None
    assert f"waiting for process {first}" in child.stderr.readline()
    assert waiting.poll() is None and child.poll() is None and is_running(first)
    unstick(stuck)
    assert child.wait(60) == 0
    assert waiting.wait(20) == 0
    assert not is_running(first)
    assert (stuck.mount_point / "file").stat().st_size > 6 * MIB


def test_a_second_signal_ends_the_drain_and_the_next_mount_goes_on(stuck: Machine) -> None:
    process = pid_of(stuck)
    content = (stuck.mount_point / "file").read_bytes()
    unmount_plainly(stuck.mount_point)
    os.kill(process, signal.SIGTERM)
    wait_until(lambda: "once more ends at once" in stuck.log())
    assert is_running(process)
    os.kill(process, signal.SIGTERM)
    wait_until(lambda: not is_running(process))
    unstick(stuck)
    assert (stuck.mount() / "file").read_bytes() == content
    stuck.umount()
    shutil.rmtree(stuck.cache)
    assert (stuck.mount() / "file").read_bytes() == content


# -- in the foreground -------------------------------------------------------------------------------------


def test_foreground_notifies_logs_and_ends_cleanly(filled: Machine) -> None:
    address = filled.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(30)
        filled.environment["NOTIFY_SOCKET"] = str(address)
        child = filled.start("cubefs", "mount", filled.url, filled.mount_point, "--foreground")
        assert f"READY=1\nMAINPID={child.pid}\n" in manager.recv(4096).decode()
        assert (filled.mount_point / "precious").read_text() == "data"
        (filled.mount_point / "new").write_text("new")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        assert "STOPPING=1" in manager.recv(4096).decode()
    assert child.returncode == 0
    assert out == "" and "is mounted on" in err and "everything is stored" in err
    assert "Traceback" not in err
    assert filled.log() in err or err in filled.log()
    shutil.rmtree(filled.cache)
    assert (filled.mount() / "new").read_text() == "new"


# -- the control socket ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes", [b"", b"\n", b"[]\n", b"nonsense\n", b'{"command": "format"}\n', b"x" * 70000]
)
def test_nonsense_on_the_control_socket(machine: Machine, mounted: Path, request_bytes: bytes) -> None:
    path = Path(os.fsdecode(os.getxattr(mounted, "user.cubefs.control")))
    directory = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(f"/proc/self/fd/{directory}/control")
        client.settimeout(10)
        client.sendall(request_bytes)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(4096)
    os.close(directory)
    assert answer == b"" or json.loads(answer)["error"]["exit_code"] == 2
    assert machine.status()["state"] == "mounted"
    assert "Traceback" not in machine.log()


def test_the_control_attribute_is_not_listed(mounted: Path) -> None:
    assert os.listxattr(mounted) == []


# -- without root ------------------------------------------------------------------------------------------

NOBODY = 65534
# may read what the interpreter needs wherever it is installed, and has no other privilege
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)


@pytest.fixture
def fuse_for_all() -> None:
    """Skip where users are not let near FUSE."""
    if Path("/dev/fuse").stat().st_mode & 0o006 != 0o006:
        pytest.skip("only root may use /dev/fuse here")


@pytest.fixture
def nobodys(machine: Machine, empty_store: Path, as_root: None) -> Iterator[Machine]:
    """A machine whose files belong to a user without privileges, in a place that they can reach."""
    place = tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True)
    with place, machine_at(Path(place.name)) as made:
        made.adopt(empty_store)
        made.mount_point.mkdir()
        for path in (made.root, *made.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield made


@pytest.mark.usefixtures("fuse_for_all")
def test_a_user_who_is_not_root(nobodys: Machine) -> None:
    target = nobodys.mount_point
    nobodys.cubefs("mount", nobodys.url, target, prefix=AS_NOBODY)
    with pytest.raises(PermissionError):
        target.stat()  # nobody else gets in, not even root
    nobodys.cubefs("snapshot", "create", target, "one", prefix=AS_NOBODY)
    fields = nobodys.cubefs("status", target, "--json", prefix=AS_NOBODY).json()
    assert Path(f"/proc/{fields['pid']}/environ").stat().st_uid == 0  # not dumpable: its memory is root's to see
    nobodys.cubefs("umount", target, prefix=AS_NOBODY)
    assert not os.path.ismount(target)


@pytest.mark.usefixtures("fuse_for_all")
def test_a_user_who_may_not_let_others_in(nobodys: Machine) -> None:
    if "user_allow_other" in re.sub(r"#.*", "", Path("/etc/fuse.conf").read_text()):
        pytest.skip("user_allow_other is set in /etc/fuse.conf")
    command = ("mount", nobodys.url, nobodys.mount_point, "-o", "allow_other")
    refused = nobodys.run("cubefs", *command, prefix=AS_NOBODY)
    assert refused.code == 7
    assert "user_allow_other" in refused.error_line()


def test_a_mount_of_another_user(nobodys: Machine) -> None:
    nobodys.mount()  # root's, with allow_other
    for command in ("status", "umount", "sync"):
        refused = nobodys.run("cubefs", command, nobodys.mount_point, prefix=AS_NOBODY)
        assert refused.code == 1
        assert "mounted by another user" in refused.error_line()
    assert nobodys.status()["state"] == "mounted"
