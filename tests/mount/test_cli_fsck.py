"""fsck as a program: all its names, the exit codes of fsck(8), text and JSON. What it finds is tested elsewhere."""

from __future__ import annotations

import pytest

from tests.support.mounting import PROGRAMS, Machine
from tests.support.sharedmount import packs, spoil_byte
from tests.support.terminal import Terminal

COMMANDS = [("cubefs", "fsck"), ("cubefs.fsck",), ("fsck.cubefs",), ("python", "-m", "cubefs.fsck")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_clean_file_system(filled: Machine, command: tuple[str, ...]) -> None:
    result = filled.run(*command, filled.url)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "clean"
    for option in ("--json", "--data"):
        assert filled.run(*command, filled.url, option).code == 0


def test_json(filled: Machine) -> None:
    report = filled.cubefs("fsck", filled.url, "--json", "--data").json()
    assert report["clean"] is True and report["has_checked_data"] is True
    assert report["findings"] == [] and report["url"] == filled.url


def test_damage_is_found_with_what_it_affects(filled: Machine) -> None:
    (pack,) = [info.name for info in packs(filled)]
    spoil_byte(filled, pack, 66)  # in the first frame
    result = filled.run("cubefs.fsck", filled.url, "--data")
    assert (result.code, result.err) == (4, "")
    assert pack in result.out and "precious" in result.out
    filled.remove_object(pack)
    result = filled.run("cubefs.fsck", filled.url)
    assert result.code == 4
    assert pack in result.out and "precious" in result.out


def test_it_could_not_look(filled: Machine) -> None:
    result = filled.run("cubefs.fsck", filled.url, environment={"CUBEFS_PASSPHRASE": "wrong"})
    assert result.code == 8
    assert "wrong passphrase" in result.error_line()
    result = filled.run("cubefs", "fsck", f"{filled.url}-nowhere")
    assert result.code == 8
    result.error_line()


def test_what_fsck_8_passes_on_is_accepted(filled: Machine) -> None:
    for option in ("-a", "-p", "-y", "-n", "-f"):
        assert filled.run("fsck.cubefs", option, filled.url).code == 0


def test_interrupted_at_the_prompt(filled: Machine) -> None:
    environment = {key: value for key, value in filled.environment.items() if key != "CUBEFS_PASSPHRASE"}
    terminal = Terminal([PROGRAMS / "cubefs.fsck", filled.url], environment=environment)
    try:
        terminal.read_until("Passphrase for ")
        terminal.type("\x03")
        assert terminal.wait() == 32
        assert terminal.is_echoing()
        assert terminal.screen.rstrip().endswith("cubefs: interrupted: nothing was done")
    finally:
        terminal.close()
