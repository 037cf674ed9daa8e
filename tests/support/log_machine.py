"""A machine that keeps a database and ships its changes: the least that a metadata log needs around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw

from cubefs.db import image, schema
from cubefs.engine import logend, metalog, unlock
from cubefs.engine.metalog import Head
from cubefs.format.keys import KdfParams
from cubefs.format.log import Changes, Record, WriterOpened
from cubefs.mkfs.make import make_file_system
from cubefs.model import Chunking
from cubefs.store import Store

CHEAP_KDF = KdfParams(memory_kib=8, iterations=1, lanes=1)
PASSPHRASE = "correct horse"
NOW_NS = 1_700_000_000 * 10**9


def make(store: Store, *, passphrase: str = PASSPHRASE) -> None:
    """Make a file system, with a key derivation that takes no time."""
    make_file_system(store, passphrase=passphrase, chunking=Chunking.CONTENT, kdf=CHEAP_KDF, now_ns=NOW_NS)


def dump(path: Path, tables: tuple[str, ...] = tuple(schema.SHIPPED)) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of a database, by table."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    finally:
        connection.close()


def record_changes(connection: apsw.Connection, edit: Callable[[apsw.Connection], object]) -> bytes:
    """Return the changeset of what `edit` does to the shipped tables."""
    session = apsw.Session(connection, "main")
    try:
        for table in schema.SHIPPED:
            session.attach(table)
        with connection:
            edit(connection)
        return session.changeset()
    finally:
        session.close()


class LogMachine:
    """Mounts the file system in `store`, in the sense that it has its database and extends its log."""

    def __init__(self, store: Store, directory: Path, *, passphrase: str = PASSPHRASE) -> None:
        self.store = store
        self.directory = directory
        self.superblock, self.superblock_bytes, self.keyring = unlock.unlock(store, passphrase)
        self.database = directory / "database"
        self.head = self.rebuild(self.database)
        self.connection = apsw.Connection(str(self.database))
        self.connection.pragma("journal_mode", "WAL")

    @property
    def uuid(self) -> bytes:
        return self.superblock.uuid

    @property
    def log_key(self) -> bytes:
        return self.keyring.log_key

    def rebuild(self, target: Path, progress: metalog.Progress | None = None) -> Head:
        """Rebuild the database elsewhere, from the store alone."""
        return metalog.rebuild(
            self.store,
            keyring=self.keyring,
            superblock_bytes=self.superblock_bytes,
            uuid=self.uuid,
            target=target,
            progress=progress,
        )

    def seal(self, *records: Record) -> bytes:
        return metalog.seal_next(self.head, records, log_key=self.log_key, uuid=self.uuid)

    def ship(self, *records: Record) -> bytes:
        """Seal and ship a log object; return its bytes."""
        body = self.seal(*records)
        logend.ship(self.store, seq=self.head.seq + 1, body=body, log_key=self.log_key, uuid=self.uuid)
        self.head = metalog.after(self.head, body)
        return body

    def commit(self, *edits: Callable[[apsw.Connection], object]) -> bytes:
        """Ship each edit as a changeset of its own, all in one log object."""
        return self.ship(*(Changes(NOW_NS, record_changes(self.connection, edit)) for edit in edits))

    def add_file(self, number: int) -> bytes:
        """Commit a dentry with this number; return the log object."""
        sql = "INSERT INTO dentry (id, since, parent, name, inode) VALUES (?1, 1, 1, ?2, ?1 + 100)"
        return self.commit(lambda connection: connection.execute(sql, (number, b"file %d" % number)))

    def open(self, host: str = "here") -> bytes:
        return self.ship(WriterOpened(NOW_NS, b"w" * 16, host))

    def write_base(self) -> int:
        """Write a base of the present state."""
        taken = self.directory / "base"
        image.take_image(self.database, taken)
        stored_bytes = metalog.write_base(
            self.store,
            log_key=self.log_key,
            uuid=self.uuid,
            seq=self.head.seq,
            chain_hash=self.head.chain_hash,
            image=taken,
        )
        self.head = self.head._replace(log_bytes=0, base_bytes=stored_bytes)
        return stored_bytes

    def close(self) -> None:
        self.connection.close()
