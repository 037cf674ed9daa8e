"""docs/FORMAT.md against the code: what it says of sizes, labels, names and tables is what is written."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from cubefs.db.schema import LOCAL, SCHEMA_VERSION, SHIPPED
from cubefs.format import envelope, keys, log, names, pack
from cubefs.format.superblock import Superblock
from cubefs.model import FRAME_MAX_BYTES, MIB, PACK_MAX_BYTES

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "FORMAT.md").read_text(encoding="utf-8")
TABLES = {
    match[1]: (match[2], match[3])
    for match in re.finditer(r"^\| `(\w+)` \(([\w, ]+)\) \| (.*) \|$", DOCUMENT, re.MULTILINE)
}


def columns(definition: str) -> list[str]:
    """Return the columns of a table's definition, in order."""
    return re.findall(r"\b(\w+) (?:INTEGER|BLOB|TEXT)\b", definition)


def primary_key(definition: str) -> list[str]:
    """Return the primary key's columns."""
    match = re.search(r"PRIMARY KEY \(([\w, ]+)\)", definition)
    if match:
        return match[1].split(", ")
    return re.findall(r"\b(\w+) (?:INTEGER|BLOB|TEXT) PRIMARY KEY", definition)


def test_every_shipped_table_is_described() -> None:
    assert set(TABLES) == set(SHIPPED)
    assert all(name.startswith("local_") for name in LOCAL)
    assert f"`PRAGMA user_version` {SCHEMA_VERSION}" in DOCUMENT
    assert all("STRICT" in definition for definition in SHIPPED.values())


@pytest.mark.parametrize("table", sorted(SHIPPED))
def test_every_column_is_described(table: str) -> None:
    key, text = TABLES[table]
    assert key.split(", ") == primary_key(SHIPPED[table])
    if text == "the same":  # as the row above it
        text = TABLES[table.removesuffix("_history")][1]
    if table == "pack" or table == "frame":
        text = text.replace("stored_bytes; plain_bytes", "stored_bytes plain_bytes")
    for column in columns(SHIPPED[table]):
        assert column in key.split(", ") or re.search(rf"\b{column}\b", text), f"{table}.{column}"


def test_sizes_and_magics() -> None:
    superblock = Superblock(version=1, uuid=bytes(range(16))).encode()
    assert f"({len(superblock)} bytes)" in DOCUMENT
    assert superblock.decode() in DOCUMENT
    assert f"### Key slot ({keys._SLOT_BYTES} bytes)" in DOCUMENT
    for magic in (keys._SLOT_MAGIC, pack.MAGIC, envelope.MAGIC):
        assert f"magic `{magic.decode()}`" in DOCUMENT
    assert f"| {envelope.HEADER_BYTES} | … |" in DOCUMENT
    assert envelope.BODY_MAX_BYTES == 256 * MIB and "256 MiB" in DOCUMENT
    assert PACK_MAX_BYTES == 16 * MIB and "at most 16 MiB" in DOCUMENT
    assert FRAME_MAX_BYTES == MIB
    assert log.BASE_CHUNK_MAX_BYTES == 8 * MIB
    assert f"more than {keys.SLOTS_MAX_COUNT} slots" in DOCUMENT


def test_labels() -> None:
    sources = "".join(inspect.getsource(module) for module in (keys, pack, envelope))
    labels = set(re.findall(r'b"(cubefs v1 [a-z ]+)"', sources))
    assert len(labels) == 7
    assert labels == set(re.findall(r'"(cubefs v1 [a-z ]+)"', DOCUMENT))


def test_default_and_bounds_of_the_key_derivation() -> None:
    memory_kib, iterations, lanes = keys.DEFAULT_KDF
    assert f"Default: {memory_kib:,} KiB, {iterations} iterations, {lanes} lanes." in DOCUMENT
    bounds = f"1 ≤ lanes ≤ {keys._LANES_MAX}, 1 ≤ iterations ≤ {keys._ITERATIONS_MAX}"
    assert f"{bounds}, 8 × lanes ≤ memory ≤ {keys._MEMORY_KIB_MAX:,} KiB" in DOCUMENT.replace("\n", " ")


def test_object_names() -> None:
    for prefix in (names.KEYS, names.PACKS, names.META, names.BASE):
        assert f"| `{prefix}" in DOCUMENT
    assert len(names.meta(1)) == len("meta/") + 16 and "16 decimal digits" in DOCUMENT
    assert names.base_chunk(1, 0).endswith("/000000") and "6 digits, from 000000" in DOCUMENT
