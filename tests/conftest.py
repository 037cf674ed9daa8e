"""What all tests share: the import path of their helpers, hypothesis profiles, and a watch over the log.

Puts the checkout's root on the path, so that tests import their helpers as `tests.support.x`.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

pytest.register_assert_rewrite("tests.fs", "tests.support")
pytest_plugins = ["tests.support.pytest_summary", "tests.support.server_fixtures"]

TEST_LIMIT_S = int(os.environ.get("CUBEFS_TEST_LIMIT_S", "120"))

# A time limit per example would make a busy machine look like a bug.
settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "soak",
    settings.get_profile("ci"),
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Declare our markers; let programs under test have Ctrl-C even where a script in the background has not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "log_warnings(*texts): this test may cause warnings that contain one of `texts`, or any"
    )


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def no_unexpected_log_warnings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test during which cubefs logged a warning or worse, unless it is marked `log_warnings`."""
    handler = _Warnings()
    logger = logging.getLogger("cubefs")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    marker = request.node.get_closest_marker("log_warnings")
    texts = ("",) if marker and not marker.args else marker.args if marker else ()
    unexpected = [line for line in handler.lines if not any(text in line for text in texts)]
    if unexpected:
        pytest.fail("unexpected warnings in cubefs's log:\n" + "\n".join(unexpected))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """End a test that hangs, and show where all its threads are."""

    def give_up(number: int, frame: object) -> None:
        faulthandler.dump_traceback()
        raise TimeoutError(f"the test still runs after {TEST_LIMIT_S} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TEST_LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
