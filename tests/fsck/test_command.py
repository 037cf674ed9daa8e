"""`python -m cubefs.fsck`: output, exit codes of fsck(8), and no traceback whatever is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fsck.conftest import Audited
from tests.support.driver import PASSPHRASE


def _fsck(
    used: Audited, *arguments: str, passphrase: str = PASSPHRASE, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run fsck on the store of `used`, or in `directory`, as a user would."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CUBEFS_")}
    environment |= {"CUBEFS_PASSPHRASE": passphrase, "CUBEFS_CACHE_DIR": str(used.place.cache_dir)}
    url = f"local://{directory or used.place.store_dir}"
    result = subprocess.run(
        [sys.executable, "-m", "cubefs.fsck", *arguments, url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result


def test_clean(used: Audited) -> None:
    result = _fsck(used, "--data")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "clean"
    assert result.stderr == ""  # no progress bar where there is no terminal


def test_errors_found(used: Audited) -> None:
    pack = used.packs()[0]
    pack.unlink()
    result = _fsck(used)
    assert result.returncode == 4
    assert used.name(pack) in result.stdout
    assert "docs/b.txt" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 error"


def test_json(used: Audited) -> None:
    used.packs()[1].unlink()
    result = _fsck(used, "--json")
    assert result.returncode == 4
    told = json.loads(result.stdout)
    assert (told["clean"], told["errors"]) == (False, 1)
    paths = {path["path"] for path in told["findings"][0]["affects"]["paths"]}
    assert paths == {"long.bin", "caf\\xe9"}


@pytest.mark.parametrize("case", ["passphrase", "no store", "no file system", "damaged superblock"])
def test_what_keeps_fsck_from_its_verdict(used: Audited, tmp_path: Path, case: str) -> None:
    directory = tmp_path / "elsewhere"
    if case != "no store":
        directory.mkdir()
    if case == "damaged superblock":
        (used.place.store_dir / "cubefs").write_bytes(b"cubefs\nversion 1\nuuid 0\n")
    result = _fsck(
        used,
        passphrase="wrong" if case == "passphrase" else PASSPHRASE,
        directory=directory if case.startswith("no ") else None,
    )
    assert result.returncode == 8
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_wrong_usage(used: Audited) -> None:
    assert _fsck(used, "--no-such-option").returncode == 16
