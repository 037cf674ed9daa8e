"""A pytest plugin: counts passed, skipped and failed tests per directory and prints that last of all.

Several runs that belong together have one table: CUBEFS_TEST_SUMMARY names a file that hands it on. A run with
CUBEFS_TEST_STORE has lines of its own.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

HANDED_ON = "CUBEFS_TEST_SUMMARY"
STORE = "CUBEFS_TEST_STORE"
COLUMNS = ("passed", "skipped", "failed")


class DirectorySummary:
    """Collects one outcome per test; printed when pytest has printed everything of its own."""

    def __init__(self, *, store: str = "", handed_on: str = "") -> None:
        """store: where the tests keep their stores, if it is worth mentioning. handed_on: the file, if any."""
        self._suffix = f" on {store}" if store else ""
        self._handed_on = Path(handed_on) if handed_on else None
        self._outcomes: dict[str, str] = {}  # node id -> column
        self._collection_errors: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the worst of set-up, call and teardown; an expected failure counts as passed."""
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped and not hasattr(report, "wasxfail"):
            self._outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported is a failure of its directory; a skipped one is a skip."""
        if report.failed:
            self._collection_errors[directory_of(report.nodeid)] += 1
        elif report.skipped:
            self._outcomes[report.nodeid] = "skipped"

    def lines(self) -> list[str]:
        """Return the table, a line per directory and one for all."""
        table = self._table()
        if not table:
            return []
        rows = sorted(table.items())
        rows.append(("all", sum((counts for _, counts in rows), Counter())))
        width = max(len(directory) for directory, _ in rows)
        return [
            f"{directory:<{width}}  " + "  ".join(f"{counts[column]:>5} {column}" for column in COLUMNS)
            for directory, counts in rows
        ]

    def _table(self) -> dict[str, Counter[str]]:
        """Count this run, on top of what earlier ones have handed on."""
        table: dict[str, Counter[str]] = {}
        if self._handed_on is not None and self._handed_on.exists() and (text := self._handed_on.read_text()):
            table = {directory: Counter(counts) for directory, counts in json.loads(text).items()}
        for node, column in self._outcomes.items():
            table.setdefault(directory_of(node) + self._suffix, Counter())[column] += 1
        for directory, count in self._collection_errors.items():
            table.setdefault(directory + self._suffix, Counter())["failed"] += count
        return table

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Print the table: this hook runs after pytest's own summary line."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not config.option.collectonly:
            for line in self.lines():
                reporter.write_line(line)
            if self._handed_on is not None:
                self._handed_on.write_text(json.dumps(self._table()))


def directory_of(node: str) -> str:
    """Return the directory of a node id (`tests/fs/test_x.py::test_y` -> `tests/fs`)."""
    path = PurePosixPath(node.split("::")[0])
    return str(path.parent) if path.suffix == ".py" else str(path)


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector. Processes that tests start must not find the file: its variable goes."""
    store = os.environ.get(STORE, "")
    collector = DirectorySummary(store="" if store == "local" else store, handed_on=os.environ.pop(HANDED_ON, ""))
    config.pluginmanager.register(collector, "directory-summary")
