"""Verifies the bytes of one pack: its name, its index, every frame, every block.

Must never: do I/O, or stop at the first fault: which blocks cannot be read decides which files are affected.

Pure, for worker threads; needs the pack, one long block and a frame in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cubefs.db.audit import AuditedBlock, AuditedPack
from cubefs.errors import IntegrityError, UnsupportedVersionError
from cubefs.format.keys import Keyring, object_hash
from cubefs.format.pack import PackCipher, PackIndex, read_pack
from cubefs.model import FRAME_MAX_BYTES, BlockPlace, FrameInfo

PROBLEMS_SHOWN = 5  # per pack; one flipped byte makes two or three


@dataclass(frozen=True, slots=True)
class KnownPack:
    """What the database says about a pack."""

    pack: AuditedPack
    frames: Mapping[int, FrameInfo]
    blocks: Sequence[AuditedBlock]


@dataclass(slots=True)
class Verdict:
    """What is wrong with a pack, and what was verified."""

    problems: list[str] = field(default_factory=list)
    lost_blocks: list[int] = field(default_factory=list)  # ids of blocks that cannot be read
    verified_bytes: int = 0  # of plaintext in good frames

    @property
    def what(self) -> str:
        """The problems as one line."""
        more = len(self.problems) - PROBLEMS_SHOWN
        return "; ".join(self.problems[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def verify_pack(data: bytes, *, name: bytes, keyring: Keyring, uuid: bytes, known: KnownPack | None) -> Verdict:
    """Verify a whole pack against its name, the keys and, where there is one, the database."""
    verdict = Verdict()
    if known is not None and len(data) != known.pack.size_bytes:
        verdict.problems.append(f"it has {len(data):,} bytes, not {known.pack.size_bytes:,}")
    if object_hash(data) != name:
        verdict.problems.append("its bytes do not hash to its name")
    index = _read_index(data, verdict, keyring=keyring, uuid=uuid)
    if known is not None and index is not None:
        _compare(index, known, verdict)
    salt = known.pack.salt if known is not None else index.salt if index is not None else None
    if salt is not None:
        cipher = PackCipher(keyring.pack_key, salt=salt, uuid=uuid)
        _Contents(data, cipher, keyring, verdict).verify(_frames(index, known), _blocks(index, known))
    return verdict


def _read_index(data: bytes, verdict: Verdict, *, keyring: Keyring, uuid: bytes) -> PackIndex | None:
    try:
        return read_pack(data, pack_key=keyring.pack_key, uuid=uuid)
    except (IntegrityError, UnsupportedVersionError) as error:  # one flipped byte makes a newer version
        verdict.problems.append(str(error))
        return None


def _compare(index: PackIndex, known: KnownPack, verdict: Verdict) -> None:
    """Compare what the pack says of itself with what the database says."""
    if index.salt != known.pack.salt:
        verdict.problems.append("it is another pack: its salt is not the one in the database")
        return
    if dict(enumerate(index.frames)) != dict(known.frames):
        verdict.problems.append("its index and the database do not agree on its frames")
    places = set(index.blocks)
    missing = sum(1 for block in known.blocks if block.place not in places)
    if missing:
        verdict.problems.append(f"its index does not have {missing:,} of the blocks that the database places there")


def _frames(index: PackIndex | None, known: KnownPack | None) -> dict[int, FrameInfo]:
    if known is not None:
        return dict(known.frames)
    return dict(enumerate(index.frames)) if index is not None else {}


def _blocks(index: PackIndex | None, known: KnownPack | None) -> list[tuple[BlockPlace, int | None]]:
    """Return every block by place, with its id in the database where it has one."""
    found: dict[BlockPlace, int | None] = {}
    if index is not None and (known is None or index.salt == known.pack.salt):
        found = dict.fromkeys(index.blocks)
    if known is not None:
        found.update({block.place: block.id for block in known.blocks})
    return sorted(found.items(), key=lambda item: item[0][2:])


class _Contents:
    """Decodes the frames of a pack one after the other and hashes the blocks in them."""

    def __init__(self, data: bytes, cipher: PackCipher, keyring: Keyring, verdict: Verdict) -> None:
        self._data = memoryview(data)
        self._cipher = cipher
        self._keyring = keyring
        self._verdict = verdict
        self._open: dict[int, bytes | None] = {}  # frames that coming blocks may need; None: damaged

    def verify(self, frames: Mapping[int, FrameInfo], blocks: Sequence[tuple[BlockPlace, int | None]]) -> None:
        """Open every frame and hash every block, both in order."""
        bad_hashes = 0
        waiting = iter(sorted(frames))
        for place, block in blocks:
            count = -(-place.length // FRAME_MAX_BYTES)
            for number in [number for number in self._open if number < place.frame]:
                del self._open[number]
            while max(self._open, default=-1) < place.frame + count - 1:
                number = next(waiting, -1)
                if number < 0:
                    break
                plain = self._open_frame(number, frames[number])
                if number >= place.frame:
                    self._open[number] = plain
            pieces = [self._open.get(number) for number in range(place.frame, place.frame + count)]
            whole = None if None in pieces else b"".join(piece for piece in pieces if piece is not None)
            plain = None if whole is None else whole[place.frame_offset : place.frame_offset + place.length]
            if plain is None or self._keyring.block_id(plain) != place.block_hash:
                bad_hashes += plain is not None
                if block is not None:
                    self._verdict.lost_blocks.append(block)
        for number in waiting:
            self._open_frame(number, frames[number])
        if bad_hashes:
            self._verdict.problems.append(
                f"{bad_hashes:,} of its blocks do not have the hash that they are known by"
            )

    def _open_frame(self, number: int, frame: FrameInfo) -> bytes | None:
        stored = self._data[frame.pack_offset : frame.pack_offset + frame.stored_bytes]
        try:
            plain = self._cipher.open_frame(number, stored, plain_bytes=frame.plain_bytes)
        except IntegrityError as error:
            self._verdict.problems.append(str(error))
            return None
        self._verdict.verified_bytes += len(plain)
        return plain
