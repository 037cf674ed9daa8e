"""A pytest plugin: counts passed, skipped and failed tests per directory and prints that last of all."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest

COLUMNS = ("passed", "skipped", "failed")


class DirectorySummary:
    """Collects one outcome per test; printed when pytest has printed everything of its own."""

    def __init__(self) -> None:
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
        table: dict[str, Counter[str]] = {}
        for node, column in self._outcomes.items():
            table.setdefault(directory_of(node), Counter())[column] += 1
        for directory, count in self._collection_errors.items():
            table.setdefault(directory, Counter())["failed"] += count
        if not table:
            return []
        rows = sorted(table.items())
        rows.append(("all", sum((counts for _, counts in rows), Counter())))
        width = max(len(directory) for directory, _ in rows)
        return [
            f"{directory:<{width}}  " + "  ".join(f"{counts[column]:>5} {column}" for column in COLUMNS)
            for directory, counts in rows
        ]

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Print the table: this hook runs after pytest's own summary line."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not config.option.collectonly:
            for line in self.lines():
                reporter.write_line(line)


def directory_of(node: str) -> str:
    """Return the directory of a node id (`tests/fs/test_x.py::test_y` -> `tests/fs`)."""
    path = PurePosixPath(node.split("::")[0])
    return str(path.parent) if path.suffix == ".py" else str(path)


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector."""
    config.pluginmanager.register(DirectorySummary(), "directory-summary")
