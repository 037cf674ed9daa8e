"""Prompts on a real pseudo-terminal: asking twice, asking again, Ctrl-C, Ctrl-D, and the echo afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.mounting import PASSPHRASE, PROGRAMS, Machine
from tests.support.terminal import Terminal

Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(machine: Machine) -> Iterator[Open]:
    """Run a command on a terminal, without a passphrase in the environment."""
    opened: list[Terminal] = []
    environment = {key: value for key, value in machine.environment.items() if key != "CUBEFS_PASSPHRASE"}

    def start(program: str, *arguments: str) -> Terminal:
        opened.append(Terminal([PROGRAMS / program, *arguments], environment=environment))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_mkfs_asks_twice_without_echo(machine: Machine, open_terminal: Open) -> None:
    terminal = open_terminal("mkfs.cubefs", machine.url)
    terminal.read_until("New passphrase for ")
    assert not terminal.is_echoing()
    terminal.type(f"{PASSPHRASE}\n")
    terminal.read_until("The same again: ")
    terminal.type(f"{PASSPHRASE}\n")
    assert terminal.wait() == 0
    assert terminal.is_echoing()
    assert PASSPHRASE not in terminal.screen
    assert "Recovery key" in terminal.screen
    machine.mount()


def test_mkfs_asks_again_after_a_mismatch_and_an_empty_one(machine: Machine, open_terminal: Open) -> None:
    terminal = open_terminal("mkfs.cubefs", machine.url)
    terminal.read_until("New passphrase for ")
    terminal.type("\n")
    terminal.read_until("New passphrase for ", count=2)
    terminal.type("one\n")
    terminal.read_until("The same again: ")
    terminal.type("two\n")
    terminal.read_until("The two differ")
    terminal.read_until("New passphrase for ", count=3)
    terminal.type(f"{PASSPHRASE}\n")
    terminal.read_until("The same again: ", count=2)
    terminal.type(f"{PASSPHRASE}\n")
    assert terminal.wait() == 0
    machine.mount()


def test_mount_asks_once(machine: Machine, open_terminal: Open) -> None:
    machine.mkfs()
    machine.mount_point.mkdir()
    terminal = open_terminal("cubefs", "mount", machine.url, str(machine.mount_point))
    terminal.read_until(f"Passphrase for {machine.url}: ")
    terminal.type(f"{PASSPHRASE}\n")
    assert terminal.wait() == 0
    assert os.path.ismount(machine.mount_point)


@pytest.mark.parametrize("prompt", ["first", "second", "mount"])
@pytest.mark.parametrize("key", ["\x03", "\x04", "\x1c"], ids=["Ctrl-C", "Ctrl-D", "Ctrl-backslash"])
def test_giving_up_at_any_prompt(machine: Machine, open_terminal: Open, prompt: str, key: str) -> None:
    if prompt == "mount":
        machine.mkfs()
        machine.mount_point.mkdir()
        terminal = open_terminal("cubefs", "mount", machine.url, str(machine.mount_point))
        terminal.read_until("Passphrase for ")
    else:
        terminal = open_terminal("mkfs.cubefs", machine.url)
        terminal.read_until("New passphrase for ")
        if prompt == "second":
            terminal.type("something\n")
            terminal.read_until("The same again: ")
    terminal.type(key)
    code = terminal.wait()
    last = terminal.screen.replace("\r", "").strip().split("\n")[-1]
    assert "Traceback" not in terminal.screen
    assert terminal.is_echoing()
    if key == "\x04":
        assert (code, last) == (2, "cubefs: no passphrase was given")
    else:
        assert (code, last) == (130, "cubefs: interrupted: nothing was done")
    if prompt == "mount":
        assert not os.path.ismount(machine.mount_point)
        machine.mount()  # the lock is free again
    else:
        assert "cubefs" not in machine.object_names()


def test_a_wrong_passphrase_typed(machine: Machine, open_terminal: Open) -> None:
    machine.mkfs()
    machine.mount_point.mkdir()
    terminal = open_terminal("cubefs", "mount", machine.url, str(machine.mount_point))
    terminal.read_until("Passphrase for ")
    terminal.type("wrong\n")
    assert terminal.wait() == 3
    assert "wrong passphrase" in terminal.screen
    assert terminal.is_echoing()
