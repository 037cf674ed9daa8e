"""The file system without FUSE behaves as the reference model, in long random histories.

Bounded here and the same in every run; `make soak-model` goes on for long with new seeds. A failure prints the
history as a program, and a line `@reproduce_failure(...)` to put over `TestModel`.
"""

from __future__ import annotations

import os

from hypothesis import settings

from tests.fs.machine import FileSystemMachine

TestModel = FileSystemMachine.TestCase
TestModel.settings = settings(
    max_examples=int(os.environ.get("CUBEFS_MODEL_EXAMPLES", "25")),
    stateful_step_count=int(os.environ.get("CUBEFS_MODEL_STEPS", "40")),
)
