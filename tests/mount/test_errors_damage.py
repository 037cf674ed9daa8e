"""Damage in the store: what is damaged fails, everything else keeps working, and the log names the object."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from cubefs.model import MIB
from tests.support.mounting import Machine
from tests.support.sharedmount import packs, spoil_byte


@pytest.fixture
def two_packs(machine: Machine) -> tuple[Machine, str]:
    """Two files, each in a pack of its own; not mounted, the cache empty. With the name of the pack of `bad`."""
    machine.mkfs("--chunking", "fixed")  # what is cut by content need not lie in the order of the file
    target = machine.mount()
    (target / "good").write_bytes(os.urandom(2 * MIB))
    machine.cubefs("sync", target)
    before = packs(machine)
    (target / "bad").write_bytes(os.urandom(3 * MIB))
    machine.umount()
    (pack,) = set(packs(machine)) - set(before)
    shutil.rmtree(machine.cache)
    return machine, pack.name


def test_a_flipped_byte_is_an_input_error_for_that_range_only(two_packs: tuple[Machine, str]) -> None:
    machine, pack = two_packs
    spoil_byte(machine, pack, machine.objects().head(pack).size_bytes // 2)
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
    assert pack.rpartition("/")[2] in log
    assert "Traceback" not in log


def test_a_missing_pack_is_an_input_error(two_packs: tuple[Machine, str]) -> None:
    machine, pack = two_packs
    machine.remove_object(pack)
    target = machine.mount("-o", "read_timeout=3s")
    with pytest.raises(OSError) as caught:
        (target / "bad").read_bytes()
    assert caught.value.errno == errno.EIO
    assert len((target / "good").read_bytes()) == 2 * MIB
    assert pack.rpartition("/")[2] in machine.log()


def test_damaged_metadata_is_refused_at_mount(two_packs: tuple[Machine, str]) -> None:
    machine, _ = two_packs
    log_object = max(info.name for info in machine.objects().list("meta/"))
    spoil_byte(machine, log_object, -1)
    result = machine.run("cubefs", "mount", machine.url, machine.mount_point)
    assert result.code == 10
    assert log_object in result.error_line()
    assert not os.path.ismount(machine.mount_point)
    spoil_byte(machine, log_object, -1)
    target = machine.mount()
    assert len((target / "good").read_bytes()) == 2 * MIB
