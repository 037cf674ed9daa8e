"""Makes the frozen vectors of this directory: objects of the store format, each with its verdict.

    python tests/vectors/make_vectors.py      (from the checkout; writes the files that are missing)

Every case either opens to what is given, or is refused: `damaged`, `newer` (a newer version or unknown suite),
`not cubefs`, `wrong passphrase`. All randomness is fixed, and zstd frames are assembled by hand, so that the same
bytes come out with any version of any library. Must never: overwrite a vector. One that is released stays: a
reader that refuses it tomorrow cannot read what was written yesterday.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cubefs.format import keys, log, pack
from cubefs.format.keys import KdfParams, Keyring, SlotKind, object_hash
from cubefs.format.pack import Codec, PackCipher, PackedFrame
from cubefs.format.superblock import Superblock
from cubefs.model import MIB, BlockPlace, FrameInfo

HERE = Path(__file__).resolve().parent
Case = dict[str, Any]
Document = dict[str, Any]

MASTER = object_hash(b"the master key of the vectors")
RING = Keyring.from_master(MASTER)
UUID = bytes(range(16))
OTHER_UUID = bytes(range(1, 17))
PASSPHRASE = "correct horse bättery staple"
TINY = KdfParams(memory_kib=8, iterations=1, lanes=1)
SUPERBLOCK = Superblock(version=1, uuid=UUID).encode()
HUGE = 0xFFFFFFFF


def fixed(label: str) -> Callable[[int], bytes]:
    """Return a stand-in for os.urandom that gives the same bytes in every run."""
    count = 0

    def random(size: int) -> bytes:
        nonlocal count
        count += 1
        digests = [object_hash(f"{label} {count} {part}".encode()) for part in range(size // 32 + 1)]
        return b"".join(digests)[:size]

    return random


def opens(name: str, data: bytes, result: dict[str, Any], **more: Any) -> Case:
    """Return a case that opens to `result`."""
    return {"case": name, **more, "hex": data.hex(), "opens": result}


def refused(name: str, data: bytes, verdict: str, **more: Any) -> Case:
    """Return a case that is refused."""
    return {"case": name, **more, "hex": data.hex(), "refused": verdict}


def damaged(name: str, data: bytes, **more: Any) -> Case:
    """Return a case that is refused because nobody can have written it so."""
    return refused(name, data, "damaged", **more)


def changed(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    """Return a copy with some fields overwritten."""
    copy = bytearray(data)
    struct.pack_into(layout, copy, offset, *values)
    return bytes(copy)


def flipped(data: bytes, offset: int) -> bytes:
    """Return a copy with one bit flipped."""
    place = offset % len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def zstd(content: bytes | tuple[int, int], *, declared: int | None = None) -> bytes:
    """Return a zstd frame without compression, or of (byte, count) as runs. Source: RFC 8878, section 3.1.1."""
    size = len(content) if isinstance(content, bytes) else content[1]
    parts = [b"\x28\xb5\x2f\xfd\xa0", struct.pack("<I", size if declared is None else declared)]
    for start in range(0, size, 128 * 1024):
        length = min(128 * 1024, size - start)
        is_last = start + length == size
        block_type = 0 if isinstance(content, bytes) else 1
        parts.append((is_last | block_type << 1 | length << 3).to_bytes(3, "little"))
        parts.append(content[start : start + length] if isinstance(content, bytes) else bytes([content[0]]))
    return b"".join(parts)


# -- superblock, slots, recovery keys -------------------------------------------------------------------------


def superblocks() -> Document:
    good = {"version": 1, "uuid": UUID.hex()}
    cases = [
        opens("good", SUPERBLOCK, good),
        refused("version 2", SUPERBLOCK.replace(b"version 1", b"version 2"), "newer"),
        refused("version 12, other contents", b"cubefs\nversion 12\nwhatever\x00\xff", "newer"),
        refused("empty", b"", "not cubefs"),
        refused("something else", b"S3QL metadata", "not cubefs"),
        refused("truncated by one byte", SUPERBLOCK[:-1], "not cubefs"),
        refused("truncated after the version", SUPERBLOCK[:17], "not cubefs"),
        refused("an empty line behind", SUPERBLOCK + b"\n", "not cubefs"),
        refused("DOS line ends", SUPERBLOCK.replace(b"\n", b"\r\n"), "not cubefs"),
        refused("upper-case digits", SUPERBLOCK.replace(b"0a0b", b"0A0B"), "not cubefs"),
        refused("version 0", SUPERBLOCK.replace(b"version 1", b"version 0"), "not cubefs"),
        refused("version 01", SUPERBLOCK.replace(b"version 1", b"version 01"), "not cubefs"),
    ]
    return {"what": "the object `cubefs`", "cases": cases}


def sub_keys() -> Document:
    rings = [("the master key of the other vectors", MASTER), ("zeros", bytes(32))]
    cases = []
    for name, master in rings:
        ring = Keyring.from_master(master)
        block = b"the plaintext of a block"
        result = {
            "block_key": ring.block_key.hex(),
            "pack_key": ring.pack_key.hex(),
            "log_key": ring.log_key.hex(),
            "chunk_seed": str(ring.chunk_seed),  # 63 bits are more than JSON readers keep
            "block_id": ring.block_id(block).hex(),
        }
        cases.append(opens(name, master, result, block=block.hex()))
    return {"what": "master keys and the keys derived from them", "cases": cases}


def recovery_keys() -> Document:
    secret, text = keys.new_recovery_key(random=fixed("recovery"))
    good = {"secret": secret.hex()}
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    forms = [
        ("as shown", text),
        ("lower case, spaces", text.lower().replace("-", " ") + "\n"),
        ("no dashes", text.replace("-", "")),
        ("0 for O, 1 for I", text.replace("O", "0").replace("I", "1")),
    ]
    cases: list[Case] = [{"case": name, "text": form, "opens": good} for name, form in forms]
    bad = [
        ("last character wrong", wrong),
        ("one character short", text[:-1]),
        ("one character more", text + "A"),
        ("digit that base32 does not have", "8" + text[1:]),
        ("two groups swapped", "-".join([*text.split("-")[1::-1], *text.split("-")[2:]])),
        ("a passphrase", PASSPHRASE),
        ("empty", ""),
    ]
    cases += [{"case": name, "text": form, "refused": "not a recovery key"} for name, form in bad]
    return {"what": "texts that are or are not a recovery key", "cases": cases}


def slots() -> Document:
    secret, text = keys.new_recovery_key(random=fixed("recovery"))

    def seal(label: str, secret: bytes, kind: SlotKind, params: KdfParams = TINY) -> bytes:
        return keys.seal_slot(MASTER, secret=secret, kind=kind, uuid=UUID, params=params, random=fixed(label))

    phrase = seal("phrase", PASSPHRASE.encode(), SlotKind.PASSPHRASE)
    recovery = seal("recovery slot", secret, SlotKind.RECOVERY)
    costlier = seal("costlier", PASSPHRASE.encode(), SlotKind.PASSPHRASE, KdfParams(64, 2, 3))
    by_phrase, by_key = {"secret_text": PASSPHRASE}, {"secret_text": text}
    good = {"master": MASTER.hex()}
    cases = [
        opens("passphrase", phrase, good, **by_phrase),
        opens("recovery key", recovery, good, **by_key),
        opens("three lanes, two iterations", costlier, good, **by_phrase),
        refused("wrong passphrase", phrase, "wrong passphrase", secret_text=PASSPHRASE + " "),
        refused("recovery key for a passphrase slot", phrase, "wrong passphrase", **by_key),
        refused("passphrase for a recovery slot", recovery, "wrong passphrase", **by_phrase),
        refused("flipped bit in the sealed key", flipped(phrase, 90), "wrong passphrase", **by_phrase),
        refused("flipped bit in the tag", flipped(phrase, -1), "wrong passphrase", **by_phrase),
        refused("flipped bit in the salt", flipped(phrase, 50), "wrong passphrase", **by_phrase),
        refused("flipped bit in the nonce", flipped(phrase, 80), "wrong passphrase", **by_phrase),
        refused("kind changed", changed(phrase, 12, ">B", 2), "wrong passphrase", **by_key),
        refused("iterations changed", changed(phrase, 36, ">I", 2), "wrong passphrase", **by_phrase),
        refused("unknown kind", changed(phrase, 12, ">B", 3), "damaged", **by_phrase),
        refused("padding not zero", changed(phrase, 13, ">B", 1), "damaged", **by_phrase),
        refused("another file system", flipped(phrase, 31), "damaged", **by_phrase),
        refused("truncated", phrase[:-1], "damaged", **by_phrase),
        refused("a byte behind", phrase + b"\0", "damaged", **by_phrase),
        refused("another magic", flipped(phrase, 7), "damaged", **by_phrase),
        refused("version 0", changed(phrase, 8, ">H", 0), "damaged", **by_phrase),
        refused("version 2", changed(phrase, 8, ">H", 2), "newer", **by_phrase),
        refused("suite 2", changed(phrase, 10, ">H", 2), "newer", **by_phrase),
    ]
    for name, params in [
        ("4 TiB of memory", (HUGE, 1, 1)),
        ("just over 1 GiB", ((1 << 20) + 1, 1, 1)),
        ("33 iterations", (8, 33, 1)),
        ("no iteration", (8, 0, 1)),
        ("17 lanes", (136, 1, 17)),
        ("no lane", (8, 1, 0)),
        ("too little memory for its lanes", (15, 1, 2)),
    ]:
        cases.append(refused(f"Argon2id: {name}", changed(phrase, 32, ">III", *params), "damaged", **by_phrase))
    return {"what": "key slots", "uuid": UUID.hex(), "cases": cases}


# -- packs ----------------------------------------------------------------------------------------------------

SALT = fixed("pack salt")(32)
CIPHER = PackCipher(RING.pack_key, salt=SALT, uuid=UUID)


def raw(plain: bytes) -> PackedFrame:
    return PackedFrame(Codec.RAW, plain, len(plain))


def place(plain: bytes, frame: int, frame_offset: int = 0) -> BlockPlace:
    return BlockPlace(RING.block_id(plain), len(plain), frame, frame_offset)


def sealed_index(frames: Sequence[FrameInfo], blocks: Sequence[BlockPlace]) -> bytes:
    """Seal an index without the writer's checks."""
    parts = [struct.pack(">II", len(frames), len(blocks))]
    parts += [struct.pack(">III", *frame) for frame in frames]
    parts += [struct.pack(">32sIII", *block) for block in blocks]
    return CIPHER._seal(pack._Kind.INDEX, b"".join(parts))


def assemble(
    packed: Sequence[PackedFrame],
    blocks: Sequence[BlockPlace],
    *,
    swap: bool = False,
    index: bytes | None = None,
    behind_frames: bytes = b"",
    **footer: int,
) -> tuple[bytes, list[FrameInfo]]:
    """Return a pack and its frames; optionally with frames 0 and 1 swapped, another index, footer or filling."""
    stored = [CIPHER.seal_frame(number, frame) for number, frame in enumerate(packed)]
    infos, offset = [], 64
    for data, frame in zip(stored, packed, strict=True):
        infos.append(FrameInfo(offset, len(data), frame.plain_bytes))
        offset += len(data)
    if swap:
        stored[0], stored[1] = stored[1], stored[0]
    index = sealed_index(infos, blocks) if index is None else index
    offset += len(behind_frames)
    fields = {"index_offset": offset, "index_stored_bytes": len(index), "frame_count": len(infos), **footer}
    return b"".join([CIPHER.header, *stored, behind_frames, index, CIPHER.seal_footer(**fields)]), infos


def pack_result(
    data: bytes, frames: Sequence[FrameInfo], blocks: Sequence[BlockPlace], plains: Sequence[bytes]
) -> Case:
    return {
        "name": object_hash(data).hex(),
        "salt": SALT.hex(),
        "frames": [[*info, object_hash(plain).hex()] for info, plain in zip(frames, plains, strict=True)],
        "blocks": [[block.block_hash.hex(), *block[1:]] for block in blocks],
    }


def packs() -> Document:
    small, world, zeros = b"hello, " * 3, b"world: 21 bytes long.", bytes(MIB + 5)
    plains = [small, world, zeros[:MIB], zeros[MIB:]]
    frames = [raw(small), raw(world), PackedFrame(Codec.ZSTD, zstd((0, MIB)), MIB), raw(zeros[MIB:])]
    blocks = [place(b"hello, ", 0, 7), place(small, 0), place(world, 1), place(zeros, 2)]
    good, infos = assemble(frames, blocks)
    index_offset = infos[-1].pack_offset + infos[-1].stored_bytes
    index_bytes = len(good) - 32 - index_offset
    foreign = PackCipher(RING.pack_key, salt=SALT, uuid=OTHER_UUID)
    bomb = PackedFrame(Codec.ZSTD, zstd((0, 10), declared=HUGE), MIB)
    short = PackedFrame(Codec.ZSTD, zstd((0, MIB - 1)), MIB)

    def with_blocks(*wrong: BlockPlace) -> bytes:
        return assemble(frames, wrong)[0]

    cases = [
        opens("small blocks and a long one", good, pack_result(good, infos, blocks, plains)),
        damaged("empty", b""),
        damaged("header only", good[:64]),
        damaged("truncated", good[:-1]),
        damaged("a byte behind", good + b"\0"),
        damaged("first byte missing", good[1:]),
        refused("version 2", changed(good, 8, ">H", 2), "newer"),
        refused("suite 2", changed(good, 10, ">H", 2), "newer"),
        damaged("version 0", changed(good, 8, ">H", 0)),
        damaged("zeros of the header not zero", flipped(good, 15)),
        damaged("flipped bit in the uuid", flipped(good, 16)),
        damaged("flipped bit in the salt", flipped(good, 32)),
        damaged("header of another file system", foreign.header + good[64:]),
        damaged("flipped bit in frame 0", flipped(good, 70)),
        damaged("flipped codec of frame 0", flipped(good, 64)),
        damaged("flipped bit in the index", flipped(good, index_offset + 3)),
        damaged("flipped bit in the footer", flipped(good, -20)),
        damaged("frames 0 and 1 swapped", assemble(frames, blocks, swap=True)[0]),
        damaged("frame that declares 4 GiB", assemble([*frames[:2], bomb], blocks[:3])[0]),
        damaged("frame shorter than the index says", assemble([*frames[:2], short], blocks[:3])[0]),
        damaged("footer: index one byte later", assemble(frames, blocks, index_offset=index_offset + 1)[0]),
        damaged("footer: index shorter", assemble(frames, blocks, index_stored_bytes=index_bytes - 1)[0]),
        damaged("footer: one frame less", assemble(frames, blocks, frame_count=3)[0]),
        damaged("footer in place of the index", assemble(frames, blocks, index=good[-32:])[0]),
        damaged("no frame", assemble([], [])[0]),
        damaged("block with another hash", with_blocks(place(world, 1)._replace(block_hash=bytes(32)))),
        damaged("block in a frame that is not there", with_blocks(place(world, 4))),
        damaged("block beyond its frame", with_blocks(place(world, 1, 1))),
        damaged("block of no bytes", with_blocks(place(b"", 1))),
        damaged("block of 4 GiB", with_blocks(place(world, 1)._replace(length=HUGE))),
        damaged("long block in short frames", with_blocks(place(zeros, 0))),
        damaged("long block longer than its frames", with_blocks(place(bytes(MIB + 6), 2))),
        damaged("long block that begins late", with_blocks(place(zeros[1:], 2, 1))),
        damaged("frame count of index one less", assemble(frames, [], index=short_index(infos))[0]),
        damaged("bytes between frames and index", assemble(frames, blocks, behind_frames=b"filling")[0]),
        damaged("counts of 4 G", assemble(frames, blocks, index=forged_counts(HUGE, HUGE))[0]),
        damaged("gap between frames", gap(frames, infos, blocks)),
    ]
    keyring = {"pack_key": RING.pack_key.hex(), "block_key": RING.block_key.hex()}
    return {"what": "packs, opened with all their frames and blocks", "uuid": UUID.hex(), **keyring, "cases": cases}


def forged_counts(frame_count: int, block_count: int) -> bytes:
    return CIPHER._seal(pack._Kind.INDEX, struct.pack(">II", frame_count, block_count))


def short_index(infos: Sequence[FrameInfo]) -> bytes:
    """Return an index with one more row than it counts."""
    rows = b"".join(struct.pack(">III", *frame) for frame in infos)
    return CIPHER._seal(pack._Kind.INDEX, struct.pack(">II", len(infos) - 1, 0) + rows)


def gap(packed: Sequence[PackedFrame], infos: Sequence[FrameInfo], blocks: Sequence[BlockPlace]) -> bytes:
    """Return a pack whose index says that frame 1 begins a byte late."""
    moved = [infos[0], infos[1]._replace(pack_offset=infos[1].pack_offset + 1), *infos[2:]]
    return assemble(packed, blocks, index=sealed_index(moved, blocks))[0]


# -- log objects and bases ------------------------------------------------------------------------------------


_SEALED = ">8sHHBHB16sQQ32s32s"  # the three zeros as two fields


def sealed(
    body: bytes,
    *,
    kind: int,
    seq: int,
    number: int = 0,
    previous: bytes,
    uuid: bytes = UUID,
    padding: int = 0,
    message: bytes | None = None,
) -> bytes:
    """Return a sealed object made from the document alone; `message` replaces the zstd frame of `body`."""
    salt = fixed(f"sealed {kind} {seq} {number}")(32)
    header = struct.pack(_SEALED, b"CUBEFLOG", 1, 1, kind, 0, padding, uuid, seq, number, previous, salt)
    key = keys.derive_key(RING.log_key, label=b"cubefs v1 log", salt=salt)
    return header + AESGCM(key).encrypt(bytes(12), zstd(body) if message is None else message, header)


def changeset() -> bytes:
    """Return a changeset for `meta` (key TEXT, value BLOB): an insert, an update and a delete."""
    header = b"T\x02\x01\x00meta\x00"
    insert = b"\x12\x00" + b"\x03\x05label" + b"\x04\x02hi"
    update = b"\x17\x00" + b"\x03\x04uuid" + b"\x04\x01a" + b"\x00" + b"\x04\x01b"
    delete = b"\x09\x00" + b"\x03\x01x" + b"\x04\x00"
    return header + insert + update + delete


def log_objects() -> Document:
    writer = fixed("writer")(16)
    records: list[log.Record] = [
        log.WriterOpened(1_700_000_000_000_000_000, writer, "höst"),
        log.Changes(1_700_000_000_000_000_001, changeset()),
        log.WriterClosed(1_700_000_000_000_000_002, writer, ""),
    ]
    body = log.encode_records(records)
    chain = object_hash(SUPERBLOCK)
    at = {"kind": 1, "seq": 7, "number": 0}
    good = sealed(body, kind=1, seq=7, previous=chain)
    result = {
        "previous": chain.hex(),
        "records": [
            [1, records[0].time_ns, (writer + "höst".encode()).hex()],
            [3, records[1].time_ns, changeset().hex()],
            [2, records[2].time_ns, writer.hex()],
        ],
    }

    def of(body: bytes, message: bytes | None = None) -> bytes:
        return sealed(body, kind=1, seq=7, previous=chain, message=message)

    def record(record_type: int, payload: bytes, length: int | None = None) -> bytes:
        return of(struct.pack(">IBQI", 1, record_type, 0, len(payload) if length is None else length) + payload)

    cases = [
        opens("opened, changes, closed", good, result, **at),
        opens("no record", of(bytes(4)), {"previous": chain.hex(), "records": []}, **at),
        damaged("asked for as seq 8", good, **{**at, "seq": 8}),
        damaged("asked for as number 1", good, **{**at, "number": 1}),
        damaged("asked for as a base chunk", good, **{**at, "kind": 2}),
        damaged("header rewritten to seq 8", changed(good, 32, ">Q", 8), **{**at, "seq": 8}),
        damaged("header rewritten to number 1", changed(good, 40, ">Q", 1), **{**at, "number": 1}),
        damaged("header rewritten to a base chunk", changed(good, 12, ">B", 2), **{**at, "kind": 2}),
        damaged("another chain hash", flipped(good, 48), **at),
        damaged("another salt", flipped(good, 80), **at),
        damaged("another file system", sealed(body, kind=1, seq=7, previous=chain, uuid=OTHER_UUID), **at),
        damaged("zeros of the header not zero", sealed(body, kind=1, seq=7, previous=chain, padding=1), **at),
        damaged("flipped bit in the body", flipped(good, 120), **at),
        damaged("truncated", good[:-1], **at),
        damaged("header only", good[:112], **at),
        damaged("a byte behind", good + b"\0", **at),
        refused("version 2", changed(good, 8, ">H", 2), "newer", **at),
        refused("suite 2", changed(good, 10, ">H", 2), "newer", **at),
        damaged("body not zstd", of(b"", message=b"plain text"), **at),
        damaged("body of no bytes", of(b"", message=zstd(b"")), **at),
        damaged("zstd frame that declares 4 GiB", of(b"", message=zstd(b"x", declared=HUGE)), **at),
        damaged("something behind the zstd frame", of(b"", message=zstd(body) + b"\0"), **at),
        damaged("a record less than counted", of(changed(body, 0, ">I", 4)), **at),
        damaged("a record more than counted", of(changed(body, 0, ">I", 2)), **at),
        damaged("4 G records", of(changed(body, 0, ">I", HUGE)), **at),
        damaged("record of an unknown type", record(4, bytes(20)), **at),
        damaged("record of 4 GiB", record(3, b"", HUGE), **at),
        damaged("opened without a writer", record(1, bytes(15)), **at),
        damaged("host name too long", record(1, bytes(16 + 256)), **at),
        damaged("host name not UTF-8", record(2, bytes(16) + b"\xff"), **at),
    ]
    return {"what": "objects meta/<seq>", "uuid": UUID.hex(), "log_key": RING.log_key.hex(), "cases": cases}


def bases() -> Document:
    chain = object_hash(SUPERBLOCK)
    at = {"kind": 3, "seq": 0, "number": 0}
    chunks = [
        sealed(b"first ", kind=2, seq=0, number=0, previous=chain),
        sealed(b"last", kind=2, seq=0, number=1, previous=chain),
    ]
    rows = [(object_hash(chunks[0]), 6), (object_hash(chunks[1]), 4)]

    def manifest(sizes: Sequence[int], *, plain_bytes: int, count: int) -> bytes:
        body = struct.pack(">Q32sQI", 0, chain, plain_bytes, count)
        body += b"".join(struct.pack(">32sI", row[0], size) for row, size in zip(rows, sizes, strict=False))
        return sealed(body, kind=3, seq=0, previous=chain)

    result = {
        "previous": chain.hex(),
        "manifest": {
            "seq": 0,
            "chain_hash": chain.hex(),
            "plain_bytes": 10,
            "chunks": [[row[0].hex(), row[1]] for row in rows],
        },
    }
    good = manifest([6, 4], plain_bytes=10, count=2)
    chunk_at = {"kind": 2, "seq": 0, "number": 1}
    cases = [
        opens("manifest of two chunks", good, result, **at),
        opens("its second chunk", chunks[1], {"previous": chain.hex(), "chunk": b"last".hex()}, **chunk_at),
        damaged("its second chunk as its first", chunks[1], **{**chunk_at, "number": 0}),
        damaged("manifest of another seq", good, **{**at, "seq": 1}),
        damaged("flipped bit", flipped(good, -1), **at),
        damaged("truncated", good[:-1], **at),
        refused("version 2", changed(good, 8, ">H", 2), "newer", **at),
        damaged("no chunk", manifest([], plain_bytes=0, count=0), **at),
        damaged("one chunk less than counted", manifest([6], plain_bytes=6, count=2), **at),
        damaged("one chunk more than counted", manifest([6, 4], plain_bytes=6, count=1), **at),
        damaged("4 G chunks", manifest([6, 4], plain_bytes=10, count=HUGE), **at),
        damaged("sizes that do not add up", manifest([6, 4], plain_bytes=11, count=2), **at),
        damaged("chunk of no bytes", manifest([6, 0], plain_bytes=6, count=2), **at),
        damaged("chunk above 8 MiB", manifest([6, 8 * MIB + 1], plain_bytes=8 * MIB + 7, count=2), **at),
    ]
    return {"what": "objects base/<seq>/*", "uuid": UUID.hex(), "log_key": RING.log_key.hex(), "cases": cases}


def generate() -> dict[str, Document]:
    """Return all vectors, file name to contents."""
    return {
        "superblock.json": superblocks(),
        "keys.json": sub_keys(),
        "recovery.json": recovery_keys(),
        "slot.json": slots(),
        "pack.json": packs(),
        "log.json": log_objects(),
        "base.json": bases(),
    }


def main() -> int:
    for name, document in generate().items():
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        try:
            with (HERE / name).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            print(f"{name} is there already and stays as it is")
    return 0


if __name__ == "__main__":
    sys.exit(main())
