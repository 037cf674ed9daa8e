"""The rules of layering and style that a program can decide, checked on the source with `ast`.

Every rule is a function (module name, source) -> list of findings, so that each can also be shown bad source.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A module may import only from lines above its own; modules of one package may import each other.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "errors model visible",
        "format",
        "chunking",
        "db",
        "store",
        "engine",
        "fs",
        "fuse",
        "mkfs fsck",
        "app",
    )
)
VOCABULARY = LAYERS[0]  # imports nothing at all from cubefs

DOORS = {  # library -> the one package (or module) that may import it
    "cryptography": "format",
    "blake3": "format",
    "zstandard": "format",
    "pyfastcdc": "chunking",
    "apsw": "db",
    "boto3": "store",
    "botocore": "store",
    "swiftclient": "store",
    "keystoneauth1": "store",
    "urllib3": "store",
    "pyfuse3": "fuse",
}
SYNCHRONOUS = frozenset({"errors", "model", "format", "chunking", "db", "store"})  # know nothing of trio
NOWHERE = frozenset({"sqlite3", "pickle", "marshal", "asyncio", "requests"})  # no module needs them
PRINTERS = frozenset({"app", "fsck"})
SQL_SPEAKERS = frozenset({"db", "fsck"})

FILE_MAX_LINES = 500
FUNCTION_MAX_LINES = 75  # "under about 60": the rest is for docstrings and signatures
VAGUE_NAMES = frozenset({"utils", "util", "common", "helpers", "manager", "misc"})

Rule = Callable[[str, str], list[str]]


def package_files() -> Iterator[tuple[str, Path]]:
    """Yield (dotted name below cubefs, path) of every module of the product."""
    for folder, prefix in (("cubefs", ""), ("mkfs", "mkfs."), ("fsck", "fsck.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "__pycache__" not in path.parts:
                relative = path.relative_to(ROOT / folder).with_suffix("")
                yield prefix + ".".join(relative.parts), path


def text_files() -> Iterator[tuple[Path, str]]:
    """Yield (path, content) of every text file of the checkout that is not made by a tool."""
    made = {".git", ".venv", "build", "__pycache__"}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in made and not f.endswith(("_cache", ".egg-info"))]
        folders[:] = [f for f in folders if f != ".hypothesis"]
        for name in names:
            content = Path(folder, name).read_bytes()
            if b"\0" not in content[:8192]:
                yield Path(folder, name).relative_to(ROOT), content.decode(errors="replace")


def package_of(module: str) -> str:
    """Return the layer's name: the first component (`__init__` stands above all layers)."""
    return module.split(".")[0]


def imported(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) for everything a module imports."""
    own = ["cubefs", *module.split(".")]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(own[: len(own) - node.level]) if node.level else ""
            base = ".".join(part for part in (start, node.module or "") if part)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def line_of(package: str) -> int:
    """Return the layer's place in the order; everything unknown stands outside it (-1)."""
    return next((place for place, line in enumerate(LAYERS) if package in line), -1)


# -- rules -------------------------------------------------------------------------------------------------


def imports_point_upwards(module: str, source: str) -> list[str]:
    """A module imports only from lines above its own, the vocabulary imports nothing."""
    findings = []
    # `python -m` is a command line, wherever it stands
    own = "app" if module.endswith("__main__") else package_of(module)
    for number, name in imported(module, source):
        parts = name.split(".")
        if parts[0] != "cubefs":
            continue
        target = parts[1] if len(parts) > 1 else ""
        if target == own and own not in VOCABULARY:
            continue
        if own == "__init__" or line_of(target) < 0 or line_of(target) >= line_of(own):
            findings.append(f"line {number}: {own} imports {name}")
    return findings


def libraries_have_one_door(module: str, source: str) -> list[str]:
    """Each library is imported in one place; some nowhere; the lower layers know nothing of trio."""
    findings = []
    own = package_of(module)
    for number, name in imported(module, source):
        library = name.split(".")[0]
        if DOORS.get(library, own) != own:
            findings.append(f"line {number}: {library} belongs into {DOORS[library]}")
        if library in NOWHERE:
            findings.append(f"line {number}: {library} is used nowhere")
        if library == "trio" and own in SYNCHRONOUS:
            findings.append(f"line {number}: {own} is synchronous, trio starts at engine")
    return findings


def only_the_command_line_prints(module: str, source: str) -> list[str]:
    """print() and sys.stdout belong to the command line and to fsck's rendering."""
    if package_of(module) in PRINTERS:
        return []
    findings = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            findings.append(f"line {node.lineno}: print")
        if isinstance(node, ast.Attribute) and node.attr == "stdout" and ast.unparse(node.value) == "sys":
            findings.append(f"line {node.lineno}: sys.stdout")
    return findings


SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|CREATE|PRAGMA|BEGIN|COMMIT|SAVEPOINT)\b.*\S")


def only_the_database_speaks_sql(module: str, source: str) -> list[str]:
    """SQL statements stand in db, and as named queries in fsck."""
    if package_of(module) in SQL_SPEAKERS:
        return []
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        f"line {node.lineno}: SQL"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
        and SQL.match(node.value)
    ]


def everything_public_has_a_docstring(module: str, source: str) -> list[str]:
    """Modules, and public classes, functions and methods; an empty __init__ needs none."""
    tree = ast.parse(source)
    if not tree.body:
        return []
    findings = [] if ast.get_docstring(tree) else ["line 1: the module has no docstring"]

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if child.name.startswith("_") or any("overload" in ast.unparse(d) for d in child.decorator_list):
                continue
            if not ast.get_docstring(child):
                findings.append(f"line {child.lineno}: {prefix}{child.name} has no docstring")
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")

    visit(tree, "")
    return findings


def files_and_functions_are_small(module: str, source: str) -> list[str]:
    """A file has at most 500 lines, a function about 60; names say what is inside."""
    findings = []
    if source.count("\n") > FILE_MAX_LINES:
        findings.append(f"{source.count(chr(10))} lines, more than {FILE_MAX_LINES}")
    if VAGUE_NAMES & set(module.split(".")):
        findings.append("the name says nothing about what is inside")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_MAX_LINES:
                findings.append(f"line {node.lineno}: {node.name} has {length} lines")
    return findings


def nothing_is_left_for_later(module: str, source: str) -> list[str]:
    """No notes to self, no stubs, no silenced exceptions of every kind."""
    findings = [
        f"line {number}: {word}"
        for number, line in enumerate(source.splitlines(), 1)
        for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
        if re.search(rf"\b{word}\b", line)
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            findings.append(f"line {node.lineno}: NotImplementedError")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            findings.append(f"line {node.lineno}: bare except")
    return findings


PRODUCT_RULES: tuple[Rule, ...] = (
    imports_point_upwards,
    libraries_have_one_door,
    only_the_command_line_prints,
    only_the_database_speaks_sql,
    everything_public_has_a_docstring,
    files_and_functions_are_small,
    nothing_is_left_for_later,
)


@pytest.mark.parametrize("rule", PRODUCT_RULES, ids=lambda rule: rule.__name__)
def test_product(rule: Rule) -> None:
    findings = [
        f"{path.relative_to(ROOT)}: {finding}"
        for module, path in package_files()
        for finding in rule(module, path.read_text())
    ]
    assert not findings, "\n" + "\n".join(findings)


def test_every_module_belongs_to_a_layer() -> None:
    known = frozenset().union(*LAYERS) | {"__init__"}
    assert {package_of(module) for module, _ in package_files()} <= known


def test_tests_are_documented_and_small() -> None:
    findings = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        source = path.read_text()
        tree = ast.parse(source)
        if tree.body and not ast.get_docstring(tree):
            findings.append(f"{path.relative_to(ROOT)}: the module has no docstring")
        if source.count("\n") > FILE_MAX_LINES:
            findings.append(f"{path.relative_to(ROOT)}: more than {FILE_MAX_LINES} lines")
        if path.name != Path(__file__).name:
            notes = nothing_is_left_for_later(path.stem, source)
            findings += [f"{path.relative_to(ROOT)}: {note}" for note in notes]
    assert not findings, "\n" + "\n".join(findings)


def test_the_reference_model_knows_nothing_of_cubefs() -> None:
    for name in ("reference_model", "sparse_bytes"):
        source = (ROOT / "tests" / "support" / f"{name}.py").read_text()
        foreign = [target for _, target in imported(name, source) if target.startswith("cubefs")]
        assert not foreign


def test_nothing_of_the_workplace_is_left_in_the_checkout() -> None:
    # spelled in pieces, or this file would find itself
    forbidden = ["/" + "work/", "/" + "tmp/spec", "../" + "shared", "pypi" + ".org", "python" + "hosted"]
    findings = []
    for path, content in text_files():
        for number, line in enumerate(content.splitlines(), 1):
            findings += [f"{path}:{number}: {word}" for word in forbidden if word in line]
    assert not findings, "\n" + "\n".join(findings)


# -- the rules themselves can fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (imports_point_upwards, "db.tree", "from cubefs.store import local"),
        (imports_point_upwards, "db.tree", "from ..engine import packs"),
        (imports_point_upwards, "format.pack", "def f():\n    from cubefs import chunking"),
        (imports_point_upwards, "model", "from cubefs import errors"),
        (imports_point_upwards, "mkfs.make", "import cubefs.fsck.audit"),
        (imports_point_upwards, "fs.files", "from cubefs.fuse.operations import Operations"),
        (imports_point_upwards, "__init__", "from cubefs.model import MIB"),
        (imports_point_upwards, "app.cli", "import cubefs.unknown"),
        (libraries_have_one_door, "engine.packs", "import blake3"),
        (libraries_have_one_door, "fs.files", "from apsw import Connection"),
        (libraries_have_one_door, "app.mount", "import pyfuse3.asyncio"),
        (libraries_have_one_door, "store.local", "import trio"),
        (libraries_have_one_door, "db.database", "import sqlite3"),
        (only_the_command_line_prints, "engine.packs", "print('x')"),
        (only_the_command_line_prints, "mkfs.make", "import sys\nsys.stdout.write('x')"),
        (only_the_database_speaks_sql, "fs.files", "q = 'SELECT * FROM inode'"),
        (only_the_database_speaks_sql, "engine.packs", "f(f'UPDATE pack SET name = {x}')"),
        (everything_public_has_a_docstring, "db.tree", "x = 1"),
        (
            everything_public_has_a_docstring,
            "db.tree",
            '"""Doc."""\nclass A:\n    """A."""\n    def b(self): ...',
        ),
        (files_and_functions_are_small, "db.tree", "x = 1\n" * (FILE_MAX_LINES + 1)),
        (files_and_functions_are_small, "db.tree", "def f():\n" + "    x = 1\n" * FUNCTION_MAX_LINES),
        (files_and_functions_are_small, "db.utils", "x = 1"),
        (nothing_is_left_for_later, "db.tree", "x = 1  # TO" + "DO: more"),
        (nothing_is_left_for_later, "db.tree", "def f():\n    raise NotImplementedError"),
        (nothing_is_left_for_later, "db.tree", "try:\n    x = 1\nexcept:\n    pass"),
    ],
)
def test_bad_source_is_found(rule: Rule, module: str, source: str) -> None:
    assert rule(module, source)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (
            imports_point_upwards,
            "db.tree",
            "from cubefs.db.database import Database\nfrom cubefs import model",
        ),
        (imports_point_upwards, "app.cli", "from cubefs.mkfs.make import make_file_system\nimport os.path"),
        (libraries_have_one_door, "format.pack", "import blake3\nfrom cryptography import x509"),
        (libraries_have_one_door, "engine.packs", "import trio"),
        (only_the_command_line_prints, "app.cli", "print('x')"),
        (only_the_database_speaks_sql, "fs.files", '"""SELECT is SQL."""\nx = "CREATED"'),
        (everything_public_has_a_docstring, "db.__init__", ""),
    ],
)
def test_good_source_is_not_found(rule: Rule, module: str, source: str) -> None:
    assert not rule(module, source)
