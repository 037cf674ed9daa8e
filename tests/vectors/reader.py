"""Restores a tree from a cubefs store: a second implementation, written from docs/FORMAT.md alone.

    CUBEFS_PASSPHRASE=... python tests/vectors/reader.py STORE_DIR OUT_DIR [--snapshot NAME]

It does not import cubefs and shares no code with it: what it can read, anybody can who has the document. It
authenticates everything it uses, and refuses what the document says a reader refuses. It needs blake3,
zstandard and cryptography; changesets are applied with the sqlite3 of the standard library. One file, so that it
can be kept beside a backup.

Exit status: 0 restored; 1 restored, but something could not be set here (each said on stderr); 2 refused.
"""

# file names are bytes, which pathlib does not take
# ruff: noqa: PTH101, PTH102, PTH103, PTH118, PTH208, PTH211

from __future__ import annotations

import argparse
import base64
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

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIB = 1 << 20
FRAME_MAX, BLOCK_MAX, PACK_MAX, BODY_MAX = MIB, 8 * MIB, 16 * MIB, 256 * MIB
LOG_OBJECT, BASE_CHUNK, BASE_MANIFEST = 1, 2, 3


class Refused(Exception):
    """Not what it must be. `verdict` is damaged, newer, not cubefs or wrong passphrase."""

    def __init__(self, verdict: str, why: str) -> None:
        super().__init__(f"{verdict}: {why}")
        self.verdict = verdict


def check(condition: object, why: str) -> None:
    if not condition:
        raise Refused("damaged", why)


def check_version(data: bytes, what: str) -> None:
    check(len(data) >= 12, f"{what} is truncated")
    version, suite = struct.unpack_from(">HH", data, 8)
    check(version and suite, f"{what} has version {version}, suite {suite}")
    if version > 1 or suite != 1:
        raise Refused("newer", f"{what} has version {version}, suite {suite}")


def hkdf(key: bytes, salt: bytes | None, info: bytes, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated: bytes, what: str) -> bytes:
    check(len(sealed) >= 16, f"{what} is truncated")
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Refused("damaged", f"{what} is not authentic") from None


def unzstd(data: bytes, most: int) -> bytes:
    """Exactly one zstd frame, its size declared and looked at before anything is allocated."""
    try:
        declared = zstandard.frame_content_size(data)
        check(0 < declared <= most, f"zstd frame declares {declared} bytes")
        plain = zstandard.ZstdDecompressor(max_window_size=8 * MIB).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused("damaged", f"zstd: {error}") from None
    check(len(plain) == declared, "zstd frame is not as long as it declares")
    return plain


# -- section 3 and 4: superblock and keys ---------------------------------------------------------------------


def read_superblock(data: bytes) -> bytes:
    """Return the uuid."""
    start = re.match(rb"cubefs\nversion ([1-9][0-9]*)\n", data)
    if start and start[1] != b"1":
        raise Refused("newer", f"superblock of version {start[1].decode()}")
    match = re.fullmatch(rb"cubefs\nversion 1\nuuid ([0-9a-f]{32})\n", data)
    if match is None:
        raise Refused("not cubefs", "no superblock")
    return bytes.fromhex(match[1].decode())


class Keys(NamedTuple):
    block: bytes
    pack: bytes
    log: bytes
    chunk_seed: int


def derive_keys(master: bytes) -> Keys:
    seed = int.from_bytes(hkdf(master, None, b"cubefs v1 chunk seed", 8), "big") & (1 << 63) - 1
    return Keys(
        block=hkdf(master, None, b"cubefs v1 block id"),
        pack=hkdf(master, None, b"cubefs v1 packs"),
        log=hkdf(master, None, b"cubefs v1 metadata"),
        chunk_seed=seed,
    )


def parse_recovery_key(text: str) -> bytes | None:
    characters = re.sub(r"[\s\-\u2010-\u2015]", "", text).upper().replace("0", "O").replace("1", "I")
    if not re.fullmatch(r"[A-Z2-7]{56}", characters, re.ASCII):
        return None
    decoded = base64.b32decode(characters)
    secret, mark = decoded[:32], decoded[32:]
    return secret if blake3(b"cubefs v1 recovery key" + secret).digest()[:3] == mark else None


def open_slot(data: bytes, *, secret: bytes, kind: int, uuid: bytes) -> bytes | None:
    """Return the master key, or None if the slot is of the other kind."""
    check(data[:8] == b"CUBEFSKS", "not a key slot")
    check_version(data, "key slot")
    check(len(data) == 136, "key slot of the wrong length")
    slot_kind, zeros, slot_uuid, memory, iterations, lanes, salt = struct.unpack_from(">B3s16sIII32s", data, 12)
    check(slot_kind in (1, 2) and zeros == bytes(3), "key slot of no known kind")
    check(slot_uuid == uuid, "key slot of another file system")
    check(
        1 <= lanes <= 16 and 1 <= iterations <= 32 and 8 * lanes <= memory <= 1 << 20,
        f"Argon2id parameters {memory}, {iterations}, {lanes}",
    )
    if slot_kind != kind:
        return None
    kdf = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
    try:
        return AESGCM(kdf.derive(secret)).decrypt(data[76:88], data[88:], data[:76])
    except InvalidTag:
        raise Refused("wrong passphrase", "no key slot opens") from None


def unlock(slots: list[bytes], text: str, uuid: bytes) -> bytes:
    check(0 < len(slots) <= 64, f"{len(slots)} key slots")
    recovery = parse_recovery_key(text)
    secret = os.fsencode(text) if recovery is None else recovery
    refusal = Refused("wrong passphrase", "no key slot of this kind")
    for data in slots:
        try:
            master = open_slot(data, secret=secret, kind=1 if recovery is None else 2, uuid=uuid)
        except Refused as error:
            refusal = error
        else:
            if master is not None:
                return master
    raise refusal


# -- section 5: packs -----------------------------------------------------------------------------------------


class Frame(NamedTuple):
    pack_offset: int
    stored_bytes: int
    plain_bytes: int


class Place(NamedTuple):
    block_hash: bytes
    length: int
    frame: int
    frame_offset: int


class Pack:
    """One pack: header, footer and index authenticated on opening, each frame when it is asked for."""

    def __init__(self, data: bytes, *, pack_key: bytes, uuid: bytes) -> None:
        check(len(data) <= PACK_MAX, "pack is too long")
        check(data[:8] == b"CUBEPACK", "not a pack")
        check_version(data, "pack")
        check(len(data) >= 64 + 32, "pack is truncated")
        zero, pack_uuid, self.salt = struct.unpack_from(">I16s32s", data, 12)
        check(zero == 0 and pack_uuid == uuid, "pack of another file system")
        self._data, self._header = data, data[:64]
        self._key = hkdf(pack_key, self.salt, b"cubefs v1 pack")
        footer = self._part(2, 0, data[-32:], b"", "footer")
        index_offset, index_bytes, frame_count = struct.unpack(">QII", footer)
        check(index_offset >= 64 and index_offset + index_bytes == len(data) - 32, "index is elsewhere")
        self._read_index(self._part(1, 0, data[index_offset:-32], b"", "index"))
        last = self.frames[-1]
        check(len(self.frames) == frame_count, "footer and index disagree")
        check(last.pack_offset + last.stored_bytes == index_offset, "gap before the index")

    def _part(self, kind: int, number: int, sealed: bytes, tail: bytes, what: str) -> bytes:
        nonce = struct.pack(">B3xQ", kind, number)
        return unseal(self._key, nonce, sealed, self._header + struct.pack(">BQ", kind, number) + tail, what)

    def _read_index(self, index: bytes) -> None:
        check(len(index) >= 8, "index is truncated")
        frame_count, block_count = struct.unpack_from(">II", index)
        check(frame_count and len(index) == 8 + 12 * frame_count + 44 * block_count, "index has wrong counts")
        self.frames = [Frame(*row) for row in struct.iter_unpack(">III", index[8 : 8 + 12 * frame_count])]
        self.places = [Place(*row) for row in struct.iter_unpack(">32sIII", index[8 + 12 * frame_count :])]
        offset = 64
        for frame in self.frames:
            check(frame.pack_offset == offset, "gap between frames")
            check(1 <= frame.plain_bytes <= FRAME_MAX, "frame of a wrong size")
            check(18 <= frame.stored_bytes <= 17 + frame.plain_bytes, "frame of a wrong stored size")
            offset += frame.stored_bytes
        for place in self.places:
            self.span(place)

    def span(self, place: Place) -> range:
        """Return the numbers of the frames that a block lies in; refused where no block can be."""
        check(1 <= place.length <= BLOCK_MAX, "block of a wrong length")
        span = range(place.frame, place.frame + -(-place.length // FRAME_MAX))
        check(span.start >= 0 and span.stop <= len(self.frames), "block in a frame that is not there")
        sizes = [self.frames[number].plain_bytes for number in span]
        if len(span) == 1:
            check(0 <= place.frame_offset <= sizes[0] - place.length, "block outside of its frame")
        else:
            check(place.frame_offset == 0 and sum(sizes) == place.length, "frames of no long block")
            check(set(sizes[:-1]) == {FRAME_MAX}, "frames of no long block")
        return span

    def frame(self, number: int) -> bytes:
        """Return the plaintext of one frame."""
        offset, stored_bytes, plain_bytes = self.frames[number]
        stored = self._data[offset : offset + stored_bytes]
        codec = stored[0]
        payload = self._part(0, number, stored[1:], bytes([codec]), f"frame {number}")
        check(codec in (0, 1), f"frame {number} has codec {codec}")
        plain = unzstd(payload, plain_bytes) if codec else payload
        check(len(plain) == plain_bytes, f"frame {number} has a wrong length")
        return plain

    def block(self, place: Place, *, block_key: bytes) -> bytes:
        """Return the plaintext of one block."""
        plain = b"".join(self.frame(number) for number in self.span(place))
        plain = plain[place.frame_offset : place.frame_offset + place.length]
        check(blake3(plain, key=block_key).digest() == place.block_hash, "block has another hash")
        return plain


# -- section 6: sealed log objects ----------------------------------------------------------------------------


def open_object(
    data: bytes, *, log_key: bytes, uuid: bytes, kind: int, seq: int, number: int
) -> tuple[bytes, bytes]:
    """Return (body, previous)."""
    check(data[:8] == b"CUBEFLOG", "not a sealed object")
    check_version(data, "sealed object")
    check(len(data) > 112 + 16, "sealed object is truncated")
    is_kind, zeros, is_uuid, is_seq, is_number, previous, salt = struct.unpack_from(">B3s16sQQ32s32s", data, 12)
    check(is_uuid == uuid, "sealed object of another file system")
    is_place = (is_kind, zeros, is_seq, is_number)
    check(is_place == (kind, bytes(3), seq, number), "sealed object in the wrong place")
    key = hkdf(log_key, salt, b"cubefs v1 log")
    return unzstd(unseal(key, bytes(12), data[112:], data[:112], "sealed object"), BODY_MAX), previous


def read_records(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, time_ns, payload)."""
    check(len(body) >= 4, "log body is truncated")
    at = 4
    for _ in range(int.from_bytes(body[:4], "big")):
        check(len(body) >= at + 13, "log record is truncated")
        record_type, time_ns, length = struct.unpack_from(">BQI", body, at)
        at += 13
        check(len(body) >= at + length, "log record is truncated")
        payload = body[at : at + length]
        at += length
        check(record_type in (1, 2, 3), f"log record of type {record_type}")
        check(record_type == 3 or 16 <= length <= 16 + 255, "log record names no writer")
        if record_type != 3:
            try:
                payload[16:].decode()
            except UnicodeDecodeError:
                raise Refused("damaged", "host name is not UTF-8") from None
        yield record_type, time_ns, payload
    check(at == len(body), "something behind the last log record")


class Manifest(NamedTuple):
    seq: int
    chain_hash: bytes
    plain_bytes: int
    chunks: list[tuple[bytes, int]]


def read_manifest(body: bytes) -> Manifest:
    check(len(body) >= 52, "manifest is truncated")
    seq, chain_hash, plain_bytes, count = struct.unpack_from(">Q32sQI", body)
    check(count and len(body) == 52 + 36 * count, "manifest has a wrong count")
    chunks = list(struct.iter_unpack(">32sI", body[52:]))
    check(all(1 <= size <= 8 * MIB for _, size in chunks), "manifest has a chunk of a wrong size")
    check(sum(size for _, size in chunks) == plain_bytes, "manifest does not add up")
    return Manifest(seq, chain_hash, plain_bytes, chunks)


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
