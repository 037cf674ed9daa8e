"""Blocks, packs and frames: the deduplication index and the reference counts.

The only module that changes `block.refs` and `frame.live_bytes`. Must never: touch extents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cubefs.db.database import Database
from cubefs.errors import IntegrityError
from cubefs.model import FRAME_MAX_BYTES, FrameInfo, PackState


class PackRow(NamedTuple):
    """One row of `pack`."""

    id: int
    salt: bytes
    name: bytes | None
    size_bytes: int
    verified_how: str | None  # None until it is closed


class LocalPack(NamedTuple):
    """A pack that has a local file."""

    id: int
    salt: bytes
    name: bytes | None
    size_bytes: int
    state: PackState


class BlockRow(NamedTuple):
    """Where one block is."""

    id: int
    block_hash: bytes
    length: int
    pack: int
    frame: int
    frame_offset: int


class Blocks:
    """Reads and changes of blocks, packs and frames. Changes belong inside `Database.operation()`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._execute = database.execute

    # -- deduplication ----------

    def find_known(self, block_hash: bytes) -> int | None:
        """Return the id of a block with this hash that may be referred to: not damaged, its pack not doomed."""
        sql = (
            "SELECT b.id FROM block b JOIN pack p ON p.id = b.pack "
            "WHERE b.hash = ? AND b.damaged = 0 AND p.doomed_commit IS NULL"
        )
        block: int | None = self._execute(sql, (block_hash,)).get
        return block

    def place(self, block_hash: bytes, *, length: int, pack: int, frame: int, frame_offset: int) -> int:
        """Record where a block's plaintext was put; return its id.

        A block that is known but damaged (or in a doomed pack) is thereby repaired: it keeps its id.
        """
        known = self._execute("SELECT id, refs FROM block WHERE hash = ?", (block_hash,)).fetchone()
        if known is None:
            block = self._db.new_id("block")
            row = (block, block_hash, length, 0, pack, frame, frame_offset, 0)
            self._execute("INSERT INTO block VALUES (?,?,?,?,?,?,?,?)", row)
            return block
        block, refs = known
        self.move(block, pack=pack, frame=frame, frame_offset=frame_offset)
        assert refs >= 0
        return int(block)

    def move(self, block: int, *, pack: int, frame: int, frame_offset: int) -> None:
        """Let a known block live at another place, and clear its damage."""
        live: dict[tuple[int, int], int] = defaultdict(int)
        sql = "SELECT length, refs, pack, frame FROM block WHERE id = ?"
        length, refs, old_pack, old_frame = self._row(sql, block)
        if refs:
            _spread(live, pack=old_pack, frame=old_frame, length=length, sign=-1)
            _spread(live, pack=pack, frame=frame, length=length, sign=1)
        self._execute(
            "UPDATE block SET pack = ?, frame = ?, frame_offset = ?, damaged = 0 WHERE id = ?",
            (pack, frame, frame_offset, block),
        )
        self._change_live(live)

    def change_refs(self, deltas: Mapping[int, int]) -> None:
        """Add to the reference counts of blocks (id → delta), and keep the frames' live bytes in step."""
        live: dict[tuple[int, int], int] = defaultdict(int)
        for block, delta in deltas.items():
            if delta == 0:
                continue
            length, refs, pack, frame = self._row("SELECT length, refs, pack, frame FROM block WHERE id = ?", block)
            if refs + delta < 0:
                raise IntegrityError(f"block {block} would have {refs + delta} references")
            self._execute("UPDATE block SET refs = refs + ? WHERE id = ?", (delta, block))
            if refs == 0:
                _spread(live, pack=pack, frame=frame, length=length, sign=1)
            elif refs + delta == 0:
                _spread(live, pack=pack, frame=frame, length=length, sign=-1)
        self._change_live(live)

    def _change_live(self, live: Mapping[tuple[int, int], int]) -> None:
        for (pack, number), delta in live.items():
            self._execute(
                "UPDATE frame SET live_bytes = live_bytes + ? WHERE pack = ? AND number = ?",
                (delta, pack, number),
            )

    def _row(self, sql: str, block: int) -> tuple[int, int, int, int]:
        row = self._execute(sql, (block,)).fetchone()
        if row is None:
            raise IntegrityError(f"block {block} is referred to but not there")
        return row  # type: ignore[no-any-return]

    def mark_damaged(self, block: int) -> None:
        """Let a block be no deduplication target until the same data is written again."""
        self._execute("UPDATE block SET damaged = 1 WHERE id = ? AND damaged = 0", (block,))

    # -- packs and frames ----------

    def insert_pack(self, salt: bytes, *, now_ns: int) -> int:
        """Record a pack that has just been opened locally; return its id."""
        pack = self._db.new_id("pack")
        self._execute("INSERT INTO pack VALUES (?, ?, NULL, 0, NULL, NULL)", (pack, salt))
        self._execute("INSERT INTO local_pack VALUES (?, ?, 0, ?)", (salt, int(PackState.OPEN), now_ns))
        return pack

    def insert_frame(self, pack: int, number: int, frame: FrameInfo) -> None:
        """Record a frame appended to a pack; nothing in it is referred to yet."""
        self._execute("INSERT INTO frame VALUES (?,?,?,?,?,0)", (pack, number, *frame))

    def close_pack(self, pack: int, *, salt: bytes, name: bytes, size_bytes: int, verified_how: str) -> None:
        """Record that a pack is complete: its name, size, and how it will have been verified once shipped."""
        self._execute(
            "UPDATE pack SET name = ?, size_bytes = ?, verified_how = ? WHERE id = ?",
            (name, size_bytes, verified_how, pack),
        )
        self.set_local_state(salt, PackState.CLOSED, size_bytes=size_bytes)

    def delete_pack(self, pack: int, salt: bytes) -> None:
        """Forget a pack that never was in the store, with its frames and the blocks nothing refers to."""
        self._execute("DELETE FROM block WHERE pack = ? AND refs = 0", (pack,))
        self._execute("DELETE FROM frame WHERE pack = ?", (pack,))
        self._execute("DELETE FROM pack WHERE id = ?", (pack,))
        self.delete_local(salt)

    def lose_pack(self, pack: int) -> None:
        """Let nothing new refer to what is left of a pack whose data is lost: writing the same repairs it."""
        self._execute("DELETE FROM block WHERE pack = ? AND refs = 0", (pack,))
        self._execute("UPDATE block SET damaged = 1 WHERE pack = ? AND damaged = 0", (pack,))

    def get_pack(self, pack: int) -> PackRow:
        """Return one pack's row."""
        sql = "SELECT id, salt, name, size_bytes, verified_how FROM pack WHERE id = ?"
        row = self._execute(sql, (pack,)).fetchone()
        if row is None:
            raise IntegrityError(f"pack {pack} is referred to but not there")
        return PackRow._make(row)

    def frames(self, pack: int) -> dict[int, FrameInfo]:
        """Return the frames of a pack by number."""
        sql = "SELECT number, pack_offset, stored_bytes, plain_bytes FROM frame WHERE pack = ?"
        return {row[0]: FrameInfo._make(row[1:]) for row in self._execute(sql, (pack,))}

    def in_pack(self, pack: int) -> list[BlockRow]:
        """Return the blocks of a pack that are referred to, in the order of their places."""
        sql = (
            "SELECT id, hash, length, pack, frame, frame_offset FROM block INDEXED BY block_pack "
            "WHERE pack = ? AND refs > 0 ORDER BY frame, frame_offset"
        )
        return [BlockRow._make(row) for row in self._execute(sql, (pack,))]

    # -- local copies ----------

    def local_packs(self) -> Iterator[LocalPack]:
        """Return every pack with a local file, least recently used first."""
        sql = (
            "SELECT p.id, l.salt, p.name, l.size_bytes, l.state FROM local_pack l JOIN pack p ON p.salt = l.salt "
            "ORDER BY l.used_ns"
        )
        rows = self._execute(sql).fetchall()
        return (LocalPack(row[0], row[1], row[2], row[3], PackState(row[4])) for row in rows)

    def set_local_state(self, salt: bytes, state: PackState, *, size_bytes: int) -> None:
        """Record the state of a local pack file."""
        self._execute(
            "UPDATE local_pack SET state = ?, size_bytes = ? WHERE salt = ?", (int(state), size_bytes, salt)
        )

    def insert_local(self, salt: bytes, *, size_bytes: int, now_ns: int) -> None:
        """Record a pack fetched from the store into the local cache."""
        row = (salt, int(PackState.STORED), size_bytes, now_ns)
        self._execute("INSERT OR REPLACE INTO local_pack VALUES (?, ?, ?, ?)", row)

    def touch_local(self, used_ns: Mapping[bytes, int]) -> None:
        """Record when local packs were last used."""
        rows = [(when, salt) for salt, when in used_ns.items()]
        self._db.connection.executemany("UPDATE local_pack SET used_ns = ? WHERE salt = ?", rows)

    def delete_local(self, salt: bytes) -> None:
        """Record that a pack has no local file any more."""
        self._execute("DELETE FROM local_pack WHERE salt = ?", (salt,))

    def stored_bytes(self) -> int:
        """Return the size of all packs (some thousand rows per 10 GB; the caller remembers it for a while)."""
        stored: int = self._execute("SELECT coalesce(sum(size_bytes), 0) FROM pack").get
        return stored


def _spread(live: dict[tuple[int, int], int], *, pack: int, frame: int, length: int, sign: int) -> None:
    """Count a block's bytes in or out of the frames that it spans."""
    while length > 0:
        piece = min(length, FRAME_MAX_BYTES)
        live[pack, frame] += sign * piece
        frame += 1
        length -= piece
