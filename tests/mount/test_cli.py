"""The commands as programs: their help, their output for people and for programs, what they make of arguments."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cubefs import visible
from cubefs.app import display, options
from cubefs.errors import UsageError
from cubefs.model import MIB
from tests.support.mounting import PROGRAMS, Machine

COMMANDS = [
    ("cubefs",),
    ("cubefs", "mkfs"),
    ("cubefs", "mount"),
    ("cubefs", "umount"),
    ("cubefs", "snapshot"),
    ("cubefs", "snapshot", "create"),
    ("cubefs", "snapshot", "list"),
    ("cubefs", "snapshot", "rm"),
    ("cubefs", "sync"),
    ("cubefs", "status"),
    ("cubefs", "fsck"),
    ("mkfs.cubefs",),
    ("mount.cubefs",),
    ("fsck.cubefs",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_on_stdout(machine: Machine, command: tuple[str, ...]) -> None:
    result = machine.run(*command, "--help")
    assert result.code == 0
    assert result.err == ""
    assert result.out.startswith(f"usage: {' '.join(command)} ")
    assert len(result.out.splitlines()) > 5


def test_help_documents_exit_codes_and_options(machine: Machine) -> None:
    assert "exit codes:" in machine.cubefs("--help").out
    assert "exit codes, as of fsck(8):" in machine.cubefs("fsck", "--help").out
    assert "snapdir=" in machine.cubefs("mount", "--help").out
    assert "snapdir=" in machine.run("mount.cubefs", "--help").out


def test_version(machine: Machine) -> None:
    assert machine.cubefs("--version").out.startswith("cubefs ")
    assert machine.run("mkfs.cubefs", "--version").out == machine.cubefs("--version").out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("cubefs",), "COMMAND"),
        (("cubefs", "frobnicate"), "frobnicate"),
        (("cubefs", "mount"), "URL"),
        (("cubefs", "mkfs", "local:///x", "--chunking", "odd"), "odd"),
        (("cubefs", "umount", "--forse", "x"), "--forse"),
        (("mkfs.cubefs",), "URL"),
        (("mkfs.cubefs", "/no/scheme"), "local:///"),
        (("mkfs.cubefs", "gopher://hole"), "gopher"),
        (("mkfs.cubefs", "local://relative"), "three slashes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(machine: Machine, command: tuple[str, ...], said: str) -> None:
    result = machine.run(*command)
    assert result.code == 2
    assert said in result.error_line()
    assert result.out == ""


def test_fsck_has_the_exit_code_of_fsck_for_wrong_usage(machine: Machine) -> None:
    for command in (("fsck.cubefs",), ("cubefs.fsck",), ("cubefs", "fsck")):
        result = machine.run(*command)
        assert result.code == 16
        assert "URL" in result.error_line()


def test_mkfs_shows_the_recovery_key_once_and_says_what_for(machine: Machine) -> None:
    result = machine.cubefs("mkfs", machine.url)
    assert result.err == ""
    key = result.out.split("Recovery key:")[1].split()[0]
    assert len(key) > 50
    assert "never shown again" in result.out
    assert machine.environment["CUBEFS_PASSPHRASE"] not in result.out
    # the key opens the file system in place of the passphrase
    machine.mount_point.mkdir()
    machine.cubefs("mount", machine.url, machine.mount_point, environment={"CUBEFS_PASSPHRASE": key.lower()})
    (machine.mount_point / "file").write_text("x")
    machine.umount()


def test_mkfs_json(machine: Machine) -> None:
    made = machine.run("mkfs.cubefs", machine.url, "--json", "--chunking", "fixed").json()
    assert made["url"] == machine.url
    assert made["chunking"] == "fixed"
    assert len(bytes.fromhex(made["uuid"])) == 16
    machine.mount()
    assert machine.status()["uuid"] == made["uuid"]


def test_passphrase_from_a_file_is_its_first_line(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes("pässword with spaces \r\nsecond line\n".encode())
    file.chmod(0o600)
    nothing = {"CUBEFS_PASSPHRASE": None}
    made = machine.run("mkfs.cubefs", machine.url, "--passphrase-file", file, environment=nothing)
    assert made.code == 0 and made.err == ""
    machine.mount_point.mkdir()
    variable = {"CUBEFS_PASSPHRASE": "pässword with spaces "}
    machine.cubefs("mount", machine.url, machine.mount_point, environment=variable)
    machine.umount()
    given = f"passphrase_file={file}"
    machine.cubefs("mount", machine.url, machine.mount_point, "-o", given, environment=nothing)


def test_a_passphrase_file_that_all_can_read_is_warned_about(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("secret\n")
    file.chmod(0o644)
    result = machine.run("mkfs.cubefs", machine.url, "--passphrase-file", file)
    assert result.code == 0
    assert result.error_line().startswith("warning: every user can read")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot read"), (b"", "no passphrase"), (b"\nx\n", "no passphrase"), (b"\xff\n", "not UTF-8")],
)
def test_unusable_passphrase_files(machine: Machine, tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    result = machine.run("mkfs.cubefs", machine.url, "--passphrase-file", file)
    assert result.code == 2
    assert said in result.error_line()


def test_no_passphrase_and_no_terminal(machine: Machine) -> None:
    result = machine.run("mkfs.cubefs", machine.url, environment={"CUBEFS_PASSPHRASE": None})
    assert result.code == 2
    assert "--passphrase-file" in result.error_line()
    assert "cubefs" not in machine.object_names()


def test_snapshots(machine: Machine, mounted: Path) -> None:
    (mounted / "file").write_text("one")
    default = machine.cubefs("snapshot", "create", mounted).out.strip()
    assert (mounted / "snapshots" / default / "file").read_text() == "one"
    assert machine.cubefs("snapshot", "create", mounted, "second").out == "second\n"
    (mounted / "snapshots" / "third").mkdir()
    listed = machine.cubefs("snapshot", "list", mounted, "--json").json()
    assert [each["name"] for each in listed] == [default, "second", "third"]
    assert machine.cubefs("snapshot", "list", mounted).out.splitlines()[0].split() == ["NAME", "CREATED"]
    machine.cubefs("snapshot", "rm", mounted, "second")
    assert {path.name for path in (mounted / "snapshots").iterdir()} == {default, "third"}


def test_snapshot_names_that_cannot_be(machine: Machine, mounted: Path) -> None:
    machine.cubefs("snapshot", "create", mounted, "taken")
    for name, code, said in (
        ("taken", 6, "already"),
        ("a/b", 2, "cannot be the name"),
        ("..", 2, "cannot be the name"),
        ("x" * 256, 2, "255"),
    ):
        result = machine.run("cubefs", "snapshot", "create", mounted, name)
        assert (result.code, said in result.error_line()) == (code, True), result.err
    result = machine.run("cubefs", "snapshot", "rm", mounted, "nowhere")
    assert result.code == 1
    assert "no snapshot named nowhere" in result.error_line()


def test_names_that_are_not_utf8_or_dangerous_are_shown_safely(machine: Machine, mounted: Path) -> None:
    evil = b"a\xff\x1b[31m\n"
    machine.cubefs("snapshot", "create", mounted, evil)
    assert (os.fsencode(mounted) + b"/snapshots/" + evil) in [
        entry.path for entry in os.scandir(os.fsencode(mounted) + b"/snapshots")
    ]
    shown = machine.cubefs("snapshot", "list", mounted).out
    assert "a\\xff\\x1b[31m\\n" in shown and "\x1b" not in shown
    (row,) = machine.cubefs("snapshot", "list", mounted, "--json").json()
    assert row["name_b64"] == "Yf8bWzMxbQo="
    again = machine.run("cubefs", "snapshot", "create", mounted, evil)
    assert again.code == 6 and "a\\xff\\x1b[31m\\n" in again.error_line()
    machine.cubefs("snapshot", "rm", mounted, evil)


def test_status_names_what_one_needs_to_know(machine: Machine, mounted: Path) -> None:
    (mounted / "file").write_bytes(os.urandom(3 * MIB))
    machine.cubefs("sync", mounted)
    text = machine.cubefs("status", mounted).out
    for expected in (str(mounted), machine.url, str(machine.cache), "cubefs.log", "mounted", "3.00 MiB"):
        assert expected in text
    fields = machine.status()
    assert Path(fields["log"]).read_text()
    assert Path(f"/proc/{fields['pid']}").exists()
    assert fields["file_system"]["unstored_bytes"] == 0
    assert 0 < fields["memory_bytes"] <= fields["memory_peak_bytes"] < 500 * MIB


def test_output_into_a_closed_pipe_is_no_error(machine: Machine, mounted: Path) -> None:
    shell = f"'{PROGRAMS}/cubefs' status '{mounted}' --json | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", shell], env=machine.environment, capture_output=True, text=True)
    assert result.returncode in (0, 141)
    assert result.stderr == ""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_any_locale_will_do(machine: Machine, locale: str) -> None:
    result = machine.run("cubefs", "mkfs", "local:///nö/" + "x" * 300, environment={"LC_ALL": locale})
    assert result.code != 0
    result.error_line()


# -- options -----------------------------------------------------------------------------------------------


def test_mount_options_are_understood() -> None:
    parsed = options.parse(
        ["defaults,_netdev,noauto,x-systemd.automount,ro,nofail", "cache_size=2G,dirty_limit=64M"]
    )
    assert parsed.read_only and parsed.cache_limit_bytes == 2048 * MIB and parsed.dirty_limit_bytes == 64 * MIB
    parsed = options.parse(["ro,rw,snapdir=hidden,read_timeout=2m,commit_interval=0.5,recovery_point=1h,nodev"])
    assert not parsed.read_only and parsed.snapdir_hidden and parsed.kernel == {"nodev"}
    assert (parsed.read_timeout_s, parsed.commit_interval_s, parsed.recovery_point_s) == (120, 0.5, 3600)
    parsed = options.parse([r"cache_dir=/a\,b,passphrase_file=/c\\d", "allow_other,nonempty"])
    assert (parsed.cache_dir, parsed.passphrase_file) == (Path("/a,b"), Path("/c\\d"))
    assert parsed.allow_other and parsed.nonempty and options.parse(["no_allow_other"]).allow_other is False


@pytest.mark.parametrize(
    "word",
    [
        "snapdirr=hidden",
        "snapdir=maybe",
        "snapdir",
        "cache_size=much",
        "cache_size=0",
        "read_timeout=1y",
        "fsname=x",
        "cache_dir=",
        "ro=1",
        "defaults=1",
    ],
)
def test_misspelt_mount_options_are_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError, match=word.partition("=")[0]):
        options.parse([f"defaults,{word}"])


def test_sloppy_passes_by_unknown_options() -> None:
    assert options.parse(["whatever,ro"], sloppy=True).read_only


# -- display -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain.txt", "plain.txt"),
        ("grüße und 日本".encode(), "grüße und 日本"),
        (b"\xff\x80", "\\xff\\x80"),
        (b"a\nb\x1b[1m\x7f", "a\\nb\\x1b[1m\\x7f"),
        (b"back\\slash", "back\\\\slash"),
        (b"\\xff", "\\\\xff"),
        ("\u202egpj.exe\u200b".encode(), "\\u202egpj.exe\\u200b"),
        ("\U000e0001".encode(), "\\U000e0001"),
    ],
)
def test_names_are_made_safe(name: bytes, shown: str) -> None:
    assert visible.safe(name) == shown
    assert visible.one_line(visible.safe(name)) == shown
    json.dumps(display.json_name(name)).encode("ascii")


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (MIB - 1, "1.00 MiB"),
        (15 * MIB, "15.0 MiB"),
        (150 * MIB, "150 MiB"),
        (5 << 40, "5.00 TiB"),
        (9 << 60, "9216 PiB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    assert display.format_bytes(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (42.4, "42 s"), (3599.7, "1 h 0 min"), (90, "1 min 30 s"), (90000, "1 d 1 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert display.format_duration(seconds) == shown
