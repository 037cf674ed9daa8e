"""Restores a tree from a cubefs store: a second implementation, written from docs/FORMAT.md alone.

    CUBEFS_PASSPHRASE=... python tests/vectors/reader.py STORE_DIR OUT_DIR [--snapshot NAME]

It does not import cubefs and shares no code with it: what it can read, anybody can who has the document. It
authenticates everything it uses, and refuses what the document says a reader refuses. It needs blake3,
zstandard and cryptography; changesets are applied with the sqlite3 of the standard library. This file and
reader_objects.py beside it are all of it: they can be kept with a backup.

Exit status: 0 restored; 1 restored, but something could not be set here (each said on stderr); 2 refused.
"""

# file names are bytes, which pathlib does not take
# ruff: noqa: PTH101, PTH102, PTH103, PTH118, PTH208, PTH211

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sqlite3
import stat
import struct
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

sys.path.insert(0, str(Path(__file__).resolve().parent))  # from wherever this is run, also with python -I
from reader_objects import (
    BASE_CHUNK,
    BASE_MANIFEST,
    LOG_OBJECT,
    Keys,
    Pack,
    Place,
    Refused,
    check,
    derive_keys,
    open_object,
    read_manifest,
    read_records,
    read_superblock,
    unlock,
)

# -- section 7: the database ----------------------------------------------------------------------------------


class Changeset:
    """Applies one changeset of SQLite's session extension; whatever does not fit is refused."""

    def __init__(self, data: bytes, database: sqlite3.Connection) -> None:
        self._data, self._at, self._database = data, 0, database

    def apply(self) -> None:
        columns: list[str] = []
        table, is_key = "", b""
        while self._at < len(self._data):
            operation = self._take(1)[0]
            if operation == 0x54:
                is_key = self._take(self._varint())
                stop = self._data.find(b"\0", self._at)
                check(stop >= 0, "changeset is truncated")
                table = self._take(stop - self._at).decode()
                self._take(1)
                columns = [row[1] for row in self._database.execute("SELECT * FROM pragma_table_info(?)", (table,))]
                check(re.fullmatch("[a-z_]+", table) and not table.startswith("local_"), f"table {table!r}")
                check(len(columns) == len(is_key) > 0, f"table {table} has other columns")
                continue
            check(columns and operation in (0x12, 0x17, 0x09), "changeset is malformed")
            self._take(1)
            old = self._row(columns) if operation != 0x12 else {}
            new = self._row(columns) if operation != 0x09 else {}
            keys = {column for column, flag in zip(columns, is_key, strict=True) if flag}
            check(keys <= (new if operation == 0x12 else old).keys(), "change without its key")
            self._change(table, operation, old, new)

    def _change(self, table: str, operation: int, old: dict[str, Any], new: dict[str, Any]) -> None:
        where = " AND ".join(f"{column} IS ?" for column in old)
        if operation == 0x12:
            marks = ", ".join("?" for _ in new)
            sql, values = f"INSERT INTO {table} ({', '.join(new)}) VALUES ({marks})", [*new.values()]
        elif operation == 0x09:
            sql, values = f"DELETE FROM {table} WHERE {where}", [*old.values()]
        else:
            changes = ", ".join(f"{column} = ?" for column in new)
            sql, values = f"UPDATE {table} SET {changes} WHERE {where}", [*new.values(), *old.values()]
        try:
            count = self._database.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise Refused("damaged", f"changeset does not fit table {table}: {error}") from None
        check(count == 1, f"changeset does not fit table {table}")

    def _row(self, columns: list[str]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for column in columns:
            value_type = self._take(1)[0]
            check(value_type <= 5, "changeset has a value of no known type")
            if value_type == 1:
                row[column] = int.from_bytes(self._take(8), "big", signed=True)
            elif value_type == 2:
                row[column] = struct.unpack(">d", self._take(8))[0]
            elif value_type == 3:
                row[column] = self._take(self._varint()).decode()
            elif value_type == 4:
                row[column] = self._take(self._varint())
            elif value_type == 5:
                row[column] = None
        return row

    def _varint(self) -> int:
        value = 0
        for place in range(9):
            byte = self._take(1)[0]
            if place == 8:
                return value << 8 | byte
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                break
        return value

    def _take(self, count: int) -> bytes:
        check(len(self._data) - self._at >= count, "changeset is truncated")
        self._at += count
        return self._data[self._at - count : self._at]


class Store:
    """A `local://` store: objects are files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, name: str) -> bytes:
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            raise Refused("damaged", f"{name} is missing") from None

    def list(self, folder: str, pattern: str) -> list[str]:
        """Return what in one folder matches, sorted."""
        path = self.directory / folder
        found = os.listdir(path) if path.is_dir() else []
        return sorted(name for name in found if re.fullmatch(pattern, name, re.ASCII))


class FileSystem(NamedTuple):
    store: Store
    uuid: bytes
    keys: Keys
    superblock: bytes


def open_store(directory: Path, passphrase: str) -> FileSystem:
    store = Store(directory)
    if not (directory / "cubefs").is_file():
        raise Refused("not cubefs", f"no superblock in {directory}")
    superblock = store.get("cubefs")
    uuid = read_superblock(superblock)
    slots = [store.get(f"keys/{slot}") for slot in store.list("keys", "[A-Za-z0-9_-]{1,64}")]
    return FileSystem(store, uuid, derive_keys(unlock(slots, passphrase, uuid)), superblock)


def open_named(fs: FileSystem, name: str, *, kind: int, seq: int, number: int = 0) -> tuple[bytes, bytes, bytes]:
    """Return (body, previous, BLAKE3 of the object)."""
    data = fs.store.get(name)
    try:
        opened = open_object(data, log_key=fs.keys.log, uuid=fs.uuid, kind=kind, seq=seq, number=number)
    except Refused as refused:
        raise Refused(refused.verdict, f"{name}: {refused}") from None
    return *opened, blake3(data).digest()


def rebuild(fs: FileSystem, target: Path) -> sqlite3.Connection:
    """Rebuild the database at `target` and return it, opened."""
    bases = fs.store.list("base", "[0-9]{16}")
    seqs = [int(base) for base in bases if fs.store.list(f"base/{base}", "manifest")]
    check(seqs, "no complete base")
    seq = max(seqs)
    base = f"base/{seq:016d}"
    body, chain_hash, _ = open_named(fs, f"{base}/manifest", kind=BASE_MANIFEST, seq=seq)
    manifest = read_manifest(body)
    check((manifest.seq, manifest.chain_hash) == (seq, chain_hash), "manifest contradicts its header")
    check(seq or chain_hash == blake3(fs.superblock).digest(), "base 0 is not of this superblock")
    with target.open("xb") as file:
        for number, (object_hash, size) in enumerate(manifest.chunks):
            name = f"{base}/{number:06d}"
            body, previous, is_hash = open_named(fs, name, kind=BASE_CHUNK, seq=seq, number=number)
            check(is_hash == object_hash and previous == chain_hash and len(body) == size, f"{name} is another")
            file.write(body)
    database = sqlite3.connect(target, isolation_level=None)
    database.executescript("PRAGMA trusted_schema = OFF; PRAGMA synchronous = OFF; BEGIN")
    check(database.execute("PRAGMA user_version").fetchone() == (1,), "database of another schema version")
    for log_seq in log_numbers(fs.store, seq):
        name = f"meta/{log_seq:016d}"
        body, previous, object_hash = open_named(fs, name, kind=LOG_OBJECT, seq=log_seq)
        check(previous == chain_hash, f"{name} does not continue the chain")
        for record_type, _, payload in read_records(body):
            if record_type == 3:
                Changeset(payload, database).apply()
        chain_hash = object_hash
    database.execute("COMMIT")
    uuid = database.execute("SELECT value FROM meta WHERE key = 'uuid'").fetchone()
    check(uuid == (fs.uuid,), "database of another file system")
    return database


def log_numbers(store: Store, after: int) -> list[int]:
    """Return the numbers of the log objects behind `after`; refused if one is missing."""
    numbers = [int(name) for name in store.list("meta", "[0-9]{16}")]
    numbers = [number for number in numbers if number > after]
    check(numbers == list(range(after + 1, after + 1 + len(numbers))), "a log object is missing")
    return numbers


# -- sections 8 and 9: the tree -------------------------------------------------------------------------------

COLUMNS = {
    "inode": "id, body, mode, uid, gid, size_bytes, rdev, mtime_ns",
    "dentry": "parent, id, name, inode",
    "extent": "body, file_offset, length, block, block_offset",
    "xattr": "inode, name, value",
    "symlink": "inode, target",
}


class Inode(NamedTuple):
    id: int
    body: int
    mode: int
    uid: int
    gid: int
    size_bytes: int
    rdev: int
    mtime_ns: int


class View:
    """The tables as one epoch sees them (None: the present), behind the names `seen_<table>`."""

    def __init__(self, database: sqlite3.Connection, epoch: int | None) -> None:
        self.database = database
        for table, columns in COLUMNS.items():
            select = f"SELECT {columns} FROM {table}"
            if epoch is not None:
                select += f" WHERE since <= {epoch} UNION ALL SELECT {columns} FROM {table}_history"
                select += f" WHERE since <= {epoch} AND until > {epoch}"
            database.execute(f"CREATE TEMP VIEW seen_{table} AS {select}")

    def inode(self, number: int) -> Inode:
        rows = self.database.execute("SELECT * FROM seen_inode WHERE id = ?", (number,)).fetchall()
        check(len(rows) == 1, f"inode {number} has {len(rows)} versions")
        return Inode(*rows[0])

    def entries(self, directory: int) -> list[tuple[bytes, int]]:
        sql = "SELECT name, inode FROM seen_dentry WHERE parent = ? ORDER BY id"
        return self.database.execute(sql, (directory,)).fetchall()

    def target(self, inode: int) -> bytes:
        rows = self.database.execute("SELECT target FROM seen_symlink WHERE inode = ?", (inode,)).fetchall()
        check(len(rows) == 1, f"symlink {inode} has {len(rows)} targets")
        return bytes(rows[0][0])

    def xattrs(self, inode: int) -> list[tuple[bytes, bytes]]:
        return self.database.execute("SELECT name, value FROM seen_xattr WHERE inode = ?", (inode,)).fetchall()

    def extents(self, body: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (file_offset, length, block, block_offset) in order."""
        columns = "file_offset, length, block, block_offset"
        sql = f"SELECT {columns} FROM seen_extent WHERE body = ? ORDER BY file_offset"
        stop = 0
        for row in self.database.execute(sql, (body,)):
            check(row[0] >= stop and row[1] > 0, f"extents of body {body} overlap")
            stop = row[0] + row[1]
            yield row


def find_epoch(database: sqlite3.Connection, name: bytes | None) -> int | None:
    if name is None:
        return None
    row = database.execute("SELECT number FROM snapshot WHERE name = ? AND state = 1", (name,)).fetchone()
    if row is None:
        names = [os.fsdecode(row[0]) for row in database.execute("SELECT name FROM snapshot WHERE state = 1")]
        raise SystemExit(f"no snapshot {os.fsdecode(name)!r}; there are: {', '.join(map(repr, names)) or 'none'}")
    number: int = row[0]
    return number


class Blocks:
    """Plaintexts of blocks, with a few packs and blocks kept in memory."""

    PACKS, BLOCKS = 4, 32

    def __init__(self, fs: FileSystem, database: sqlite3.Connection) -> None:
        self._fs, self._database = fs, database
        self._packs: OrderedDict[int, Pack] = OrderedDict()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def get(self, block: int) -> bytes:
        plain: bytes = _cached(self._blocks, block, self.BLOCKS, self._read)
        return plain

    def _read(self, block: int) -> bytes:
        sql = "SELECT pack, hash, length, frame, frame_offset FROM block WHERE id = ?"
        row = self._database.execute(sql, (block,)).fetchone()
        check(row, f"block {block} is not there")
        pack: Pack = _cached(self._packs, row[0], self.PACKS, self._open_pack)
        try:
            return pack.block(Place(*row[1:]), block_key=self._fs.keys.block)
        except Refused as refused:
            raise Refused(refused.verdict, f"block {block} in pack {row[0]}: {refused}") from None

    def _open_pack(self, number: int) -> Pack:
        row = self._database.execute("SELECT salt, name FROM pack WHERE id = ?", (number,)).fetchone()
        check(row and row[1], f"pack {number} has no name")
        digits = row[1].hex()
        name = f"packs/{digits[:2]}/{digits[2:4]}/{digits}"
        data = self._fs.store.get(name)
        check(blake3(data).digest() == row[1], f"{name} is damaged")
        pack = Pack(data, pack_key=self._fs.keys.pack, uuid=self._fs.uuid)
        check(pack.salt == row[0], f"{name} has another salt")
        return pack


def _cached(cache: OrderedDict[int, Any], key: int, size: int, make: Callable[[int], Any]) -> Any:
    if key not in cache:
        cache[key] = make(key)
        if len(cache) > size:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


# -- restoring ------------------------------------------------------------------------------------------------


class Restorer:
    """Writes the tree below a new directory."""

    def __init__(self, view: View, blocks: Blocks) -> None:
        self._view, self._blocks = view, blocks
        self._paths: dict[int, bytes] = {}  # inode → where it was restored first, for hard links
        self.warnings = 0

    def restore(self, out: bytes) -> None:
        root = self._view.inode(1)
        check(stat.S_ISDIR(root.mode), "the root is no directory")
        os.makedirs(out, exist_ok=True)
        if os.listdir(out):
            raise SystemExit(f"{os.fsdecode(out)} is not empty")
        directories = [(out, root)]
        done = []
        while directories:
            path, directory = directories.pop()
            done.append((path, directory))
            for name, number in self._view.entries(directory.id):
                check(name not in (b".", b"..") and not set(name) & {0, 47}, f"entry {name!r}")
                child = os.path.join(path, name)
                inode = self._view.inode(number)
                if stat.S_ISDIR(inode.mode):
                    check(number not in self._paths and number != 1, f"directory {number} has two names")
                    self._paths[number] = child
                    os.mkdir(child, 0o700)
                    directories.append((child, inode))
                else:
                    self._restore_other(child, inode)
        for path, directory in reversed(done):  # children first: they change the times, and may need the mode
            self._set_attributes(path, directory)

    def _restore_other(self, path: bytes, inode: Inode) -> None:
        first = self._paths.setdefault(inode.id, path)
        if first is not path:
            with self._warning(path):
                os.link(first, path, follow_symlinks=False)
            return
        kind = stat.S_IFMT(inode.mode)
        with self._warning(path):
            if kind == stat.S_IFREG:
                self._write_file(path, inode)
            elif kind == stat.S_IFLNK:
                os.symlink(self._view.target(inode.id), path)
            else:
                check(kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK), f"mode {inode.mode:o}")
                os.mknod(path, kind | 0o600, inode.rdev)
            self._set_attributes(path, inode)

    def _write_file(self, path: bytes, inode: Inode) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, inode.size_bytes)
            for file_offset, length, block, block_offset in self._view.extents(inode.body):
                length = min(length, inode.size_bytes - file_offset)
                if length <= 0:
                    break
                plain = self._blocks.get(block)
                check(block_offset + length <= len(plain), f"extent reaches beyond block {block}")
                part = memoryview(plain)[block_offset : block_offset + length]
                while part:
                    written = os.pwrite(descriptor, part, file_offset)
                    part, file_offset = part[written:], file_offset + written
        finally:
            os.close(descriptor)

    def _set_attributes(self, path: bytes, inode: Inode) -> None:
        """Owner first (it clears set-id bits and capabilities), then xattrs (may need write permission)."""
        if os.geteuid() == 0:
            with self._warning(path):
                os.chown(path, inode.uid, inode.gid, follow_symlinks=False)
        for name, value in self._view.xattrs(inode.id):
            with self._warning(path, name):
                os.setxattr(path, name, value, follow_symlinks=False)
        with self._warning(path):
            if not stat.S_ISLNK(inode.mode):
                os.chmod(path, stat.S_IMODE(inode.mode))
            os.utime(path, ns=(inode.mtime_ns, inode.mtime_ns), follow_symlinks=False)

    @contextlib.contextmanager
    def _warning(self, path: bytes, what: bytes = b"") -> Iterator[None]:
        """Say what this machine or user cannot do, and go on."""
        try:
            yield
        except OSError as error:
            self.warnings += 1
            print(f"{os.fsdecode(path)!r}: {os.fsdecode(what)} {error.strerror}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Restore a tree from a cubefs store in a local directory.")
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=os.fsencode)
    parser.add_argument("--snapshot", type=os.fsencode, help="name of a snapshot; default: the present")
    arguments = parser.parse_args()
    passphrase = os.environ.get("CUBEFS_PASSPHRASE")
    if passphrase is None:
        parser.error("set CUBEFS_PASSPHRASE to the passphrase or the recovery key")
    try:
        fs = open_store(arguments.store, passphrase)
        with (
            tempfile.TemporaryDirectory(prefix="cubefs-reader-") as scratch,
            contextlib.closing(rebuild(fs, Path(scratch, "metadata"))) as database,
        ):
            view = View(database, find_epoch(database, arguments.snapshot))
            restorer = Restorer(view, Blocks(fs, database))
            restorer.restore(arguments.out)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 2
    return 1 if restorer.warnings else 0


if __name__ == "__main__":
    sys.exit(main())
