"""The file system without FUSE behaves as the reference model, in long random histories.

Bounded here and the same in every run. A failure prints the history as a program; `make shrink-model` makes it
short, which takes minutes. `make soak-model` goes on for long with new seeds.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase, settings

from tests.fs.machine import FileSystemMachine

# a small cache is evicted while its packs are being read: they are fetched again
pytestmark = pytest.mark.log_warnings("local copy of pack")

PHASES = [Phase.generate, *([Phase.shrink] if os.environ.get("CUBEFS_MODEL_SHRINK") else [])]

TestModel = FileSystemMachine.TestCase
TestModel.settings = settings(
    max_examples=int(os.environ.get("CUBEFS_MODEL_EXAMPLES", "45")),
    stateful_step_count=int(os.environ.get("CUBEFS_MODEL_STEPS", "80")),
    phases=PHASES,
)
