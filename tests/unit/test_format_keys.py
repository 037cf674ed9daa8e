"""Keys: hierarchy, slots, recovery key; what is refused, and before what it costs."""

import itertools
import struct
import time
import tracemalloc

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cubefs.errors import IntegrityError, UnsupportedVersionError, WrongPassphraseError
from cubefs.format import keys
from cubefs.format.keys import KdfParams, Keyring, SlotKind

MASTER = bytes(range(32))
UUID = b"u" * 16
TINY = KdfParams(memory_kib=8, iterations=1, lanes=1)
SLOT = keys.seal_slot(MASTER, secret=b"secret", kind=SlotKind.PASSPHRASE, uuid=UUID, params=TINY)


def slot(secret: bytes, kind: SlotKind = SlotKind.PASSPHRASE, master: bytes = MASTER) -> bytes:
    return keys.seal_slot(master, secret=secret, kind=kind, uuid=UUID, params=TINY)


def test_sub_keys_are_distinct_and_hidden() -> None:
    ring = Keyring.from_master(MASTER)
    all_keys = [ring.block_key, ring.pack_key, ring.log_key, MASTER]
    assert len(set(all_keys)) == 4
    assert all(len(key) == 32 for key in all_keys)
    assert 0 <= ring.chunk_seed < 2**63
    assert ring == Keyring.from_master(MASTER) != Keyring.from_master(bytes(32))
    shown = repr(ring) + str(ring)
    for key in all_keys:
        assert key.hex() not in shown and repr(key)[2:12] not in shown
    assert str(ring.chunk_seed) not in shown


def test_block_id_is_keyed_and_object_hash_is_not() -> None:
    one, other = Keyring.from_master(MASTER), Keyring.from_master(bytes(32))
    assert len(one.block_id(b"data")) == 32
    assert one.block_id(b"data") == one.block_id(memoryview(b"data")) != other.block_id(b"data")
    assert one.block_id(b"data") != keys.object_hash(b"data")
    # BLAKE3 of the empty string, from the specification's test vectors
    assert keys.object_hash(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")


@given(st.lists(st.binary(max_size=100)))
def test_hashing_in_pieces_is_hashing_the_whole(pieces: list[bytes]) -> None:
    hasher = keys.ObjectHasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == keys.object_hash(b"".join(pieces))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64), st.sampled_from(SlotKind))
def test_slot_round_trip(master: bytes, secret: bytes, kind: SlotKind) -> None:
    data = slot(secret, kind, master)
    assert len(data) == 136
    assert keys.slot_kind(data) is kind
    assert keys.open_slot(data, secret=secret, uuid=UUID) == master
    assert master not in data
    with pytest.raises(WrongPassphraseError):
        keys.open_slot(data, secret=secret + b"x", uuid=UUID)


def test_the_same_secret_gives_another_slot() -> None:
    assert slot(b"a") != slot(b"a")


@given(st.integers(0, len(SLOT) * 8 - 1))
@settings(deadline=None)
def test_a_flipped_bit_never_opens(bit: int) -> None:
    data = bytearray(SLOT)
    data[bit // 8] ^= 1 << bit % 8
    memory_kib = struct.unpack_from(">I", data, 32)[0]
    assume(memory_kib <= 65536 or memory_kib > 2**20)  # in between it is allowed, and too slow for a test
    with pytest.raises((IntegrityError, UnsupportedVersionError, WrongPassphraseError)):
        keys.open_slot(bytes(data), secret=b"secret", uuid=UUID)


@pytest.mark.parametrize(
    "data",
    [SLOT[:cut] for cut in (0, 7, 11, 12, 88, 135)] + [SLOT + b"\0", b"x" + SLOT],
    ids=lambda data: f"{len(data)} bytes",  # the bytes are random
)
def test_wrong_length_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        keys.open_slot(data, secret=b"secret", uuid=UUID)


def test_foreign_uuid_is_refused() -> None:
    with pytest.raises(IntegrityError, match="another file system"):
        keys.open_slot(SLOT, secret=b"secret", uuid=b"v" * 16)


@pytest.mark.parametrize(("offset", "value"), [(8, 2), (10, 2), (10, 77)])
def test_newer_version_or_suite_is_unsupported(offset: int, value: int) -> None:
    data = bytearray(SLOT)
    struct.pack_into(">H", data, offset, value)
    with pytest.raises(UnsupportedVersionError, match=str(value)):
        keys.open_slot(bytes(data), secret=b"secret", uuid=UUID)


@pytest.mark.parametrize(
    "params",
    [
        (2**32 - 1, 3, 4),
        (2**20 + 1, 3, 4),
        (65536, 33, 4),
        (65536, 2**32 - 1, 4),
        (65536, 0, 4),
        (65536, 3, 0),
        (65536, 3, 17),
        (31, 3, 4),
        (0, 1, 1),
    ],
)
def test_excessive_kdf_parameters_cost_nothing(params: tuple[int, int, int]) -> None:
    data = bytearray(SLOT)
    struct.pack_into(">III", data, 32, *params)
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(IntegrityError, match="bounds"):
            keys.open_slot(bytes(data), secret=b"secret", uuid=UUID)
        assert time.perf_counter() - began < 1
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(IntegrityError):
        keys.seal_slot(MASTER, secret=b"", kind=SlotKind.PASSPHRASE, uuid=UUID, params=KdfParams(*params))


@given(st.binary(min_size=32, max_size=32))
def test_recovery_key_round_trip(random: bytes) -> None:
    secret, text = keys.new_recovery_key(random=lambda _: random)
    assert secret == random
    assert [len(group) for group in text.split("-")] == [7] * 8
    assert keys.parse_recovery_key(text) == secret
    assert keys.parse_recovery_key(f"  {text.lower().replace('-', ' ')}\n") == secret
    assert keys.parse_recovery_key(text.replace("-", "")) == secret
    assert keys.parse_recovery_key(text.replace("-", "–")) == secret  # as word processors like it
    assert keys.parse_recovery_key(text.replace("O", "0").replace("I", "1")) == secret


@given(st.data())
def test_mistyped_recovery_key_is_none(data: st.DataObject) -> None:
    _, text = keys.new_recovery_key(random=bytes)
    characters = list(text.replace("-", ""))
    place = data.draw(st.integers(0, len(characters) - 1))
    other = data.draw(st.sampled_from([c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" if c != characters[place]]))
    characters[place] = other
    assert keys.parse_recovery_key("".join(characters)) is None


@given(st.text(max_size=80))
def test_other_text_is_no_recovery_key(text: str) -> None:
    assert keys.parse_recovery_key(text) is None


@pytest.mark.parametrize("text", ["A" * 55, "A" * 57, "A" * 56, "é" * 56, "9" * 56, "=" * 56])
def test_near_misses_are_no_recovery_key(text: str) -> None:
    assert keys.parse_recovery_key(text) is None


def test_unlock_tries_the_slots_of_the_right_kind() -> None:
    secret, text = keys.new_recovery_key()
    slots = {
        "keys/a": slot(b"other"),
        "keys/b": slot("pässword".encode()),
        "keys/r": slot(secret, SlotKind.RECOVERY),
    }
    for order in itertools.permutations(slots):
        ordered = {name: slots[name] for name in order}
        assert keys.unlock(ordered, secret_text="pässword", uuid=UUID) == MASTER
        assert keys.unlock(ordered, secret_text=text.lower(), uuid=UUID) == MASTER


def test_a_recovery_text_does_not_open_a_passphrase_slot() -> None:
    _, text = keys.new_recovery_key()
    with pytest.raises(WrongPassphraseError, match="recovery key"):
        keys.unlock({"keys/a": slot(text.encode())}, secret_text=text, uuid=UUID)


def test_wrong_passphrase_is_one_line_without_the_secret() -> None:
    with pytest.raises(WrongPassphraseError) as caught:
        keys.unlock({"keys/a": slot(b"right")}, secret_text="hunter2", uuid=UUID)
    assert str(caught.value) == "wrong passphrase: try again; the recovery key shown by mkfs works in its place"


def test_a_passphrase_is_not_tried_on_recovery_slots() -> None:
    with pytest.raises(WrongPassphraseError, match="has no passphrase"):
        keys.unlock({"keys/r": slot(b"secret", SlotKind.RECOVERY)}, secret_text="secret", uuid=UUID)


def test_mistyped_recovery_key_is_hinted_at() -> None:
    _, text = keys.new_recovery_key(random=bytes)
    with pytest.raises(WrongPassphraseError, match="mistyped"):
        keys.unlock({"keys/a": slot(b"right")}, secret_text=text[:-1] + "A", uuid=UUID)


def test_a_damaged_slot_does_not_shut_out_an_intact_one() -> None:
    slots = {"keys/a": SLOT[:-1], "keys/b": slot(b"secret")}
    assert keys.unlock(slots, secret_text="secret", uuid=UUID) == MASTER


def test_nothing_but_damaged_slots_is_not_a_wrong_passphrase() -> None:
    with pytest.raises(IntegrityError, match="keys/a"):
        keys.unlock({"keys/a": SLOT[:-1]}, secret_text="secret", uuid=UUID)
    newer = SLOT[:8] + b"\0\2" + SLOT[10:]
    with pytest.raises(UnsupportedVersionError):
        keys.unlock({"keys/a": newer}, secret_text="secret", uuid=UUID)


def test_too_many_slots_are_refused() -> None:
    with pytest.raises(IntegrityError, match="65 key slots"):
        keys.unlock({f"keys/{n}": SLOT for n in range(65)}, secret_text="secret", uuid=UUID)
