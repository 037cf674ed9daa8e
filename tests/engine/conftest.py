"""Fixtures of the tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubefs.model import Chunking
from tests.support.driver import Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a new file system with content-defined chunking."""
    return make_place(tmp_path)


@pytest.fixture
def fixed_place(tmp_path: Path) -> Place:
    """Return a new file system with blocks of exactly 8 MiB."""
    return make_place(tmp_path, Chunking.FIXED)
