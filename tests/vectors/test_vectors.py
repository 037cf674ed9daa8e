"""The frozen vectors, each opened by cubefs and by the stand-alone reader: both must come to its verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cubefs.errors import IntegrityError, NotCubefsError, UnsupportedVersionError, WrongPassphraseError
from cubefs.format import envelope, keys, log
from cubefs.format.envelope import ObjectKind
from cubefs.format.keys import Keyring, object_hash
from cubefs.format.pack import PackCipher, read_pack
from cubefs.format.superblock import Superblock
from cubefs.model import FRAME_MAX_BYTES
from tests.vectors import make_vectors
from tests.vectors import reader_objects as reader

HERE = Path(__file__).resolve().parent
FILES = ("superblock.json", "keys.json", "recovery.json", "slot.json", "pack.json", "log.json", "base.json")
Json = dict[str, Any]

OUR_VERDICTS = {
    IntegrityError: "damaged",
    UnsupportedVersionError: "newer",
    NotCubefsError: "not cubefs",
    WrongPassphraseError: "wrong passphrase",
}


def load(name: str) -> Json:
    document: Json = json.loads((HERE / name).read_text(encoding="utf-8"))
    return document


def data_of(case: Json) -> bytes:
    return bytes.fromhex(case["hex"])


class Cubefs:
    """Opens a case with cubefs. Each method returns what the vector's `opens` says, or raises."""

    @staticmethod
    def verdict(error: Exception) -> str | None:
        return OUR_VERDICTS.get(type(error))  # type: ignore[call-overload, no-any-return]

    @staticmethod
    def superblock(document: Json, case: Json) -> Json:
        superblock = Superblock.decode(data_of(case))
        return {"version": superblock.version, "uuid": superblock.uuid.hex()}

    @staticmethod
    def keys(document: Json, case: Json) -> Json:
        ring = Keyring.from_master(data_of(case))
        return {
            "block_key": ring.block_key.hex(),
            "pack_key": ring.pack_key.hex(),
            "log_key": ring.log_key.hex(),
            "chunk_seed": str(ring.chunk_seed),
            "block_id": ring.block_id(bytes.fromhex(case["block"])).hex(),
        }

    @staticmethod
    def recovery(document: Json, case: Json) -> Json | None:
        secret = keys.parse_recovery_key(case["text"])
        return None if secret is None else {"secret": secret.hex()}

    @staticmethod
    def slot(document: Json, case: Json) -> Json:
        uuid = bytes.fromhex(document["uuid"])
        return {"master": keys.unlock({"slot": data_of(case)}, secret_text=case["secret_text"], uuid=uuid).hex()}

    @staticmethod
    def pack(document: Json, case: Json) -> Json:
        data = data_of(case)
        pack_key, uuid = bytes.fromhex(document["pack_key"]), bytes.fromhex(document["uuid"])
        index = read_pack(data, pack_key=pack_key, uuid=uuid)
        cipher = PackCipher(pack_key, salt=index.salt, uuid=uuid)
        plains = []
        for number, frame in enumerate(index.frames):
            stored = data[frame.pack_offset : frame.pack_offset + frame.stored_bytes]
            plains.append(cipher.open_frame(number, stored, plain_bytes=frame.plain_bytes))
        ring = Keyring(bytes.fromhex(document["block_key"]), pack_key, b"", 0)
        for block in index.blocks:
            frames = plains[block.frame : block.frame - (-block.length // FRAME_MAX_BYTES)]
            plain = b"".join(frames)[block.frame_offset : block.frame_offset + block.length]
            if ring.block_id(plain) != block.block_hash:
                raise IntegrityError("block has another hash")
        return {
            "name": object_hash(data).hex(),
            "salt": index.salt.hex(),
            "frames": [
                [*frame, object_hash(plain).hex()] for frame, plain in zip(index.frames, plains, strict=True)
            ],
            "blocks": [[block.block_hash.hex(), *block[1:]] for block in index.blocks],
        }

    @staticmethod
    def log(document: Json, case: Json) -> Json:
        opened = envelope.open_sealed(
            data_of(case),
            log_key=bytes.fromhex(document["log_key"]),
            uuid=bytes.fromhex(document["uuid"]),
            kind=ObjectKind(case["kind"]),
            seq=case["seq"],
            number=case["number"],
        )
        result: Json = {"previous": opened.previous.hex()}
        if case["kind"] == ObjectKind.META:
            result["records"] = [_flat(record) for record in log.decode_records(opened.body)]
        elif case["kind"] == ObjectKind.BASE_CHUNK:
            result["chunk"] = opened.body.hex()
        else:
            manifest = log.decode_manifest(opened.body)
            result["manifest"] = {
                "seq": manifest.seq,
                "chain_hash": manifest.chain_hash.hex(),
                "plain_bytes": manifest.plain_bytes,
                "chunks": [[chunk.object_hash.hex(), chunk.plain_bytes] for chunk in manifest.chunks],
            }
        return result

    base = log


def _flat(record: log.Record) -> list[Any]:
    match record:
        case log.Changes(time_ns, changeset):
            return [3, time_ns, changeset.hex()]
        case log.WriterOpened(time_ns, writer, host):
            return [1, time_ns, (writer + host.encode()).hex()]
        case log.WriterClosed(time_ns, writer, host):
            return [2, time_ns, (writer + host.encode()).hex()]


class Reader:
    """Opens a case with the reader that was written from the document."""

    @staticmethod
    def verdict(error: Exception) -> str | None:
        return error.verdict if isinstance(error, reader.Refused) else None

    @staticmethod
    def superblock(document: Json, case: Json) -> Json:
        return {"version": 1, "uuid": reader.read_superblock(data_of(case)).hex()}

    @staticmethod
    def keys(document: Json, case: Json) -> Json:
        ring = reader.derive_keys(data_of(case))
        block_id = reader.blake3(bytes.fromhex(case["block"]), key=ring.block).digest()
        return {
            "block_key": ring.block.hex(),
            "pack_key": ring.pack.hex(),
            "log_key": ring.log.hex(),
            "chunk_seed": str(ring.chunk_seed),
            "block_id": block_id.hex(),
        }

    @staticmethod
    def recovery(document: Json, case: Json) -> Json | None:
        secret = reader.parse_recovery_key(case["text"])
        return None if secret is None else {"secret": secret.hex()}

    @staticmethod
    def slot(document: Json, case: Json) -> Json:
        master = reader.unlock([data_of(case)], case["secret_text"], bytes.fromhex(document["uuid"]))
        return {"master": master.hex()}

    @staticmethod
    def pack(document: Json, case: Json) -> Json:
        data = data_of(case)
        pack_key, uuid = bytes.fromhex(document["pack_key"]), bytes.fromhex(document["uuid"])
        pack = reader.Pack(data, pack_key=pack_key, uuid=uuid)
        plains = [pack.frame(number) for number in range(len(pack.frames))]
        for place in pack.places:
            pack.block(place, block_key=bytes.fromhex(document["block_key"]))
        return {
            "name": reader.blake3(data).hexdigest(),
            "salt": pack.salt.hex(),
            "frames": [
                [*frame, reader.blake3(plain).hexdigest()] for frame, plain in zip(pack.frames, plains, strict=True)
            ],
            "blocks": [[place.block_hash.hex(), *place[1:]] for place in pack.places],
        }

    @staticmethod
    def log(document: Json, case: Json) -> Json:
        body, previous = reader.open_object(
            data_of(case),
            log_key=bytes.fromhex(document["log_key"]),
            uuid=bytes.fromhex(document["uuid"]),
            kind=case["kind"],
            seq=case["seq"],
            number=case["number"],
        )
        result: Json = {"previous": previous.hex()}
        if case["kind"] == reader.LOG_OBJECT:
            result["records"] = [[*record[:2], record[2].hex()] for record in reader.read_records(body)]
        elif case["kind"] == reader.BASE_CHUNK:
            result["chunk"] = body.hex()
        else:
            manifest = reader.read_manifest(body)
            chunks = [[object_hash.hex(), size] for object_hash, size in manifest.chunks]
            result["manifest"] = {**manifest._asdict(), "chain_hash": manifest.chain_hash.hex(), "chunks": chunks}
        return result

    base = log


def cases() -> Iterator[Any]:
    for name in FILES:
        document = load(name)
        for case in document["cases"]:
            for implementation in (Cubefs, Reader):
                label = f"{name.removesuffix('.json')}: {case['case']} ({implementation.__name__})"
                yield pytest.param(implementation, name.removesuffix(".json"), document, case, id=label)


@pytest.mark.parametrize(("implementation", "kind", "document", "case"), list(cases()))
def test_verdict(implementation: type[Cubefs] | type[Reader], kind: str, document: Json, case: Json) -> None:
    open_case: Callable[[Json, Json], Json | None] = getattr(implementation, kind)
    if "opens" in case:
        assert open_case(document, case) == case["opens"]
    elif kind == "recovery":
        assert open_case(document, case) is None
    else:
        with pytest.raises(Exception) as caught:
            open_case(document, case)
        assert implementation.verdict(caught.value) == case["refused"]


def test_every_file_is_tested_and_has_both_verdicts() -> None:
    assert sorted(path.name for path in HERE.glob("*.json")) == sorted(FILES)
    for name in FILES:
        found = load(name)["cases"]
        assert len({json.dumps(case["case"]) for case in found}) == len(found)
        assert any("opens" in case for case in found)
        assert name == "keys.json" or any("refused" in case for case in found)


@pytest.mark.parametrize("name", FILES)
def test_the_same_vectors_come_out_again(name: str) -> None:
    """Sealing has not changed: what is written today is what was written when the vectors were frozen."""
    made = json.loads(json.dumps(make_vectors.generate()[name]))
    assert made == load(name)


def test_sealing_writes_what_the_vectors_were_made_from() -> None:
    """The log vectors are assembled by hand, because zstd may change; the header and the sealing must agree."""
    body = log.encode_records([log.Changes(1, b"changeset")])
    place: Json = {
        "log_key": make_vectors.RING.log_key,
        "uuid": make_vectors.UUID,
        "kind": ObjectKind.META,
        "seq": 7,
    }
    ours = envelope.seal(body, previous=bytes(32), **place, random=make_vectors.fixed("sealed 1 7 0"))
    by_hand = make_vectors.sealed(body, kind=1, seq=7, previous=bytes(32))
    assert ours[: envelope.HEADER_BYTES] == by_hand[: envelope.HEADER_BYTES]
    assert envelope.open_sealed(ours, **place) == envelope.open_sealed(by_hand, **place) == (body, bytes(32))


def test_no_vector_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (HERE / name).stat().st_mtime_ns for name in FILES}
    assert make_vectors.main() == 0
    assert capsys.readouterr().out.count("stays as it is") == len(FILES)
    assert before == {name: (HERE / name).stat().st_mtime_ns for name in FILES}
