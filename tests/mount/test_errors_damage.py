"""Damage in the store: what is damaged fails, everything else keeps working, and the log names the object."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from cubefs.model import MIB
from tests.support.mounting import Machine


def pack_of(machine: Machine, before: set[Path]) -> Path:
    """Return the one pack that was added since `before`."""
    (new,) = packs(machine) - before
    return new


def packs(machine: Machine) -> set[Path]:
    """Return all packs in the store."""
    return {path for path in (machine.store / "packs").rglob("*") if path.is_file()}


@pytest.fixture
def two_packs(machine: Machine) -> tuple[Machine, Path]:
    """Two files, each in a pack of its own; not mounted, the cache empty. With the pack of `bad`."""
    machine.mkfs()
    target = machine.mount()
    (target / "good").write_bytes(os.urandom(2 * MIB))
    machine.cubefs("sync", target)
    before = packs(machine)
    (target / "bad").write_bytes(os.urandom(3 * MIB))
    machine.umount()
    pack = pack_of(machine, before)
    shutil.rmtree(machine.cache)
    return machine, pack


def test_a_flipped_byte_is_an_input_error_for_that_range_only(two_packs: tuple[Machine, Path]) -> None:
    machine, pack = two_packs
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    pack.write_bytes(damaged)
    target = machine.mount()
    with pytest.raises(OSError) as caught:
        (target / "bad").read_bytes()
    assert caught.value.errno == errno.EIO
    with (target / "bad").open("rb", buffering=0) as file:
        assert len(file.read(64 * 1024)) == 64 * 1024  # its first frame is as good as ever
    assert len((target / "good").read_bytes()) == 2 * MIB
    (target / "new").write_text("still writable")
    machine.cubefs("sync", target)
    log = machine.log()
    assert pack.name in log
    assert "Traceback" not in log


def test_a_missing_pack_is_an_input_error(two_packs: tuple[Machine, Path]) -> None:
    machine, pack = two_packs
    pack.unlink()
    target = machine.mount("-o", "read_timeout=3s")
    with pytest.raises(OSError) as caught:
        (target / "bad").read_bytes()
    assert caught.value.errno == errno.EIO
    assert len((target / "good").read_bytes()) == 2 * MIB
    assert pack.name in machine.log()


def test_damaged_metadata_is_refused_at_mount(two_packs: tuple[Machine, Path]) -> None:
    machine, _ = two_packs
    log_object = max((machine.store / "meta").iterdir())
    original = log_object.read_bytes()
    log_object.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    result = machine.run("cubefs", "mount", machine.url, machine.mount_point)
    assert result.code == 10
    assert f"meta/{log_object.name}" in result.error_line()
    assert not os.path.ismount(machine.mount_point)
    log_object.write_bytes(original)
    target = machine.mount()
    assert len((target / "good").read_bytes()) == 2 * MIB
