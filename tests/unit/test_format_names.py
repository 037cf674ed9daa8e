"""Object names: round trips, order, and the refusal of every name that is not exactly ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.format import names

seqs = st.integers(0, names.SEQ_MAX)


@given(st.binary(min_size=32, max_size=32))
def test_pack_round_trip(name: bytes) -> None:
    assert names.parse_pack(names.pack(name)) == name


def test_pack_is_two_levels_deep() -> None:
    name = bytes.fromhex("6efa") + bytes(30)
    assert names.pack(name) == "packs/6e/fa/6efa" + "00" * 30


@given(seqs, st.integers(0, names.CHUNK_NUMBER_MAX))
def test_numbered_names_round_trip(seq: int, number: int) -> None:
    assert names.parse_meta(names.meta(seq)) == seq
    assert names.parse_base_manifest(names.base_manifest(seq)) == seq
    assert names.base_chunk(seq, number) == f"base/{seq:016d}/{number:06d}"
    assert names.parse_base_manifest(names.base_chunk(seq, number)) is None


@given(st.lists(seqs, unique=True))
def test_listing_order_is_sequence_order(numbers: list[int]) -> None:
    assert [names.parse_meta(name) for name in sorted(map(names.meta, numbers))] == sorted(numbers)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_key_slot_round_trip(slot: str) -> None:
    assert names.parse_key_slot(names.key_slot(slot)) == slot


@pytest.mark.parametrize("slot", ["", "a/b", "..", ".tmp-1", "a" * 65, "a\n", "é"])
def test_key_slot_refuses(slot: str) -> None:
    with pytest.raises(ValueError):
        names.key_slot(slot)
    assert names.parse_key_slot("keys/" + slot) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "packs/",
        "packs/6e/fa/" + "6efa" + "0" * 59,
        "packs/6e/fa/" + "6efa" + "0" * 61,
        "packs/6e/fb/" + "6efa" + "0" * 60,
        "packs/fa/6e/" + "6efa" + "0" * 60,
        "packs/6E/FA/" + "6EFA" + "0" * 60,
        "packs/6e/fa/" + "6efa" + "0" * 60 + "\n",
        "x/packs/6e/fa/" + "6efa" + "0" * 60,
        "packs/6e/fa/" + "6efa" + "g" * 60,
    ],
)
def test_parse_pack_refuses(name: str) -> None:
    assert names.parse_pack(name) is None


@pytest.mark.parametrize(
    "name", ["meta/1", "meta/" + "0" * 17, "meta/" + "0" * 15 + "x", "meta/" + "0" * 16 + "\n", "Meta/" + "0" * 16,
             "meta/" + "٠" * 16, "meta/-" + "0" * 15]
)  # fmt: skip
def test_parse_meta_refuses(name: str) -> None:
    assert names.parse_meta(name) is None


@pytest.mark.parametrize("name", ["base/1/manifest", "base/" + "0" * 16 + "/manifest2", "base/" + "0" * 16])
def test_parse_manifest_refuses(name: str) -> None:
    assert names.parse_base_manifest(name) is None


def test_numbers_out_of_bounds_have_no_name() -> None:
    for make in (names.meta, names.base_manifest):
        for seq in (-1, names.SEQ_MAX + 1):
            with pytest.raises(ValueError):
                make(seq)
    for number in (-1, names.CHUNK_NUMBER_MAX + 1):
        with pytest.raises(ValueError):
            names.base_chunk(1, number)
    with pytest.raises(ValueError):
        names.pack(bytes(31))
