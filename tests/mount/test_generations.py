"""Years of use in seconds: a tree of everything, changed at random, with a snapshot of each generation.

The same changes are made to a tree on the local disk; what a snapshot must hold is a copy of that.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.compare import assert_same, facts
from tests.support.sharedmount import assert_quiet, audit, machine_at, remount
from tests.support.trees import churn, make_everything


@pytest.mark.parametrize(("chunking", "generations"), [("content", 5), ("fixed", 3)])
def test_every_snapshot_is_its_generation_whatever_happens_to_the_others(
    tmp_path: Path, chunking: str, generations: int
) -> None:
    with machine_at(tmp_path) as machine:
        machine.mkfs("--chunking", chunking)
        live = machine.mount("-o", "commit_interval=0.5s") / "tree"
        beside = tmp_path / "beside"
        copies: dict[str, Path] = {}
        for tree in (live, beside):
            tree.mkdir()
            make_everything(tree)
        for generation in range(generations):
            if generation:
                for tree in (live, beside):
                    churn(tree, seed=generation)
            name = f"generation {generation}"
            copies[name] = tmp_path / name
            subprocess.run(["cp", "-a", beside, copies[name]], check=True)
            if generation % 2:
                (machine.mount_point / "snapshots" / name).mkdir()
            else:
                machine.cubefs("snapshot", "create", machine.mount_point, name)
            if generation == 2:
                remount(machine)
            if generation == 3:  # a snapshot between two others
                machine.cubefs("snapshot", "rm", machine.mount_point, "generation 1")
                del copies["generation 1"]
        assert_same(beside, live)
        snapshots = machine.mount_point / "snapshots"
        for name, copy in copies.items():
            assert_same(copy, snapshots / name / "tree")
        before = facts(machine.mount_point)
        remount(machine, empty_cache=True)
        assert facts(machine.mount_point) == before
        assert_same(beside, live)
        for name, copy in copies.items():
            assert_same(copy, snapshots / name / "tree")
        machine.umount()
        assert_quiet(machine)
        audit(machine)
