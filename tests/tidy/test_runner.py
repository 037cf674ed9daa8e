"""The test runner tells the truth: counts per directory come last, and a failure is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = {
    "tests/good/test_a.py": "def test_1(): pass\ndef test_2(): pass\n",
    "tests/mixed/test_b.py": """
import pytest
def test_pass(): pass
def test_fail(): assert False
def test_skip(): pytest.skip("because")
@pytest.fixture
def broken(): raise RuntimeError
def test_error(broken): pass
@pytest.fixture
def leaking():
    yield
    raise RuntimeError
def test_passes_and_fails_at_teardown(leaking): pass
@pytest.mark.xfail(strict=True)
def test_expected_failure(): assert False
""",
    "tests/skipped/test_c.py": "import pytest\npytest.skip('all', allow_module_level=True)\n",
    "tests/unreadable/test_d.py": "import no_such_module\n",
}


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin alone."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.pytest_summary", "--rootdir", str(directory)]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--continue-on-collection-errors", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Return a checkout with tests of every outcome."""
    for name, source in SAMPLE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
    return tmp_path


def test_counts_per_directory_come_last(sample: Path) -> None:
    done = run(sample, "tests")
    assert done.returncode == 1
    last = [line.split() for line in done.stdout.splitlines()[-5:]]
    assert last == [
        ["tests/good", "2", "passed", "0", "skipped", "0", "failed"],
        ["tests/mixed", "2", "passed", "1", "skipped", "3", "failed"],
        ["tests/skipped", "0", "passed", "1", "skipped", "0", "failed"],
        ["tests/unreadable", "0", "passed", "0", "skipped", "1", "failed"],
        ["all", "4", "passed", "2", "skipped", "4", "failed"],
    ]
    assert " passed" in done.stdout.splitlines()[-6] and " failed" in done.stdout.splitlines()[-6]


def test_runs_that_belong_together_have_one_table(sample: Path, tmp_path: Path) -> None:
    handed_on = str(tmp_path / "summary")
    first = run(sample, "tests/good", "tests/mixed", CUBEFS_TEST_SUMMARY=handed_on)
    assert first.returncode == 1
    second = run(sample, "tests/good", CUBEFS_TEST_SUMMARY=handed_on, CUBEFS_TEST_STORE="s3-prefix")
    assert second.returncode == 0
    assert [line.split("  ")[0] for line in second.stdout.splitlines()[-4:]] == [
        "tests/good",
        "tests/good on s3-prefix",
        "tests/mixed",
        "all",
    ]
    last = second.stdout.splitlines()[-1].split()
    assert last == ["all", "6", "passed", "1", "skipped", "3", "failed"]


def test_success_is_zero(sample: Path) -> None:
    done = run(sample, "tests/good")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split() == ["all", "2", "passed", "0", "skipped", "0", "failed"]


def test_the_gate_runs_the_tests_and_nothing_else() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert [line for line in gate.splitlines() if line.startswith("make ")] == ["make test"]
    for script in (ROOT / ".ci" / "run", ROOT / "tests" / "support" / "run-tests"):
        assert os.access(script, os.X_OK)
        assert "set -euo pipefail" in script.read_text()


def test_run_tests_returns_pytests_status() -> None:
    done = subprocess.run(
        [ROOT / "tests" / "support" / "run-tests", "tests/tidy", "-k", "nothing_is_called_this", "--no-header"],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stdout + done.stderr  # pytest's "no tests were collected"
