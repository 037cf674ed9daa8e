"""Bodies in parts: what is announced, in what order, and what comes out."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.store import pace as pace_module
from cubefs.store.base import GivenUpError
from cubefs.store.pace import FREE_PART_BYTES, PART_BYTES, PacedBody, Unpaced, receive

DATA = bytes(range(256)) * 1024  # four parts


class Recorder(Unpaced):
    """Writes down what it is told, while `limited`."""

    def __init__(self) -> None:
        self.limited = True
        self.sent: list[int] = []
        self.got: list[int] = []

    def is_limited_up(self) -> bool:
        return self.limited

    def is_limited_down(self) -> bool:
        return self.limited

    def sending(self, byte_count: int) -> None:
        self.sent.append(byte_count)

    def received(self, byte_count: int) -> None:
        self.got.append(byte_count)


def test_without_limits_there_is_nothing_to_ask() -> None:
    assert not Unpaced().is_limited_up()
    assert not Unpaced().is_limited_down()
    assert PacedBody(DATA, Unpaced()).read() == DATA
    assert receive(io.BytesIO(DATA).read, length=len(DATA), pace=Unpaced()) == DATA


@pytest.mark.parametrize("size", [1000, 16 * 1024, PART_BYTES, PART_BYTES + 1, 10 * PART_BYTES])
def test_a_body_is_announced_before_it_is_handed_out(size: int) -> None:
    pace = Recorder()
    body = PacedBody(memoryview(DATA)[5:], pace)
    read = b""
    while piece := body.read(size):
        assert len(piece) <= min(size, PART_BYTES)
        read += piece
        assert len(read) <= sum(pace.sent)
    assert read == DATA[5:]
    assert sum(pace.sent) == len(body) == len(read) == body.tell()
    assert pace.sent[:-1] == [PART_BYTES] * 3  # not once for each small piece


def test_all_at_once_is_announced_in_parts_all_the_same() -> None:
    for everything in (-1, None):
        pace = Recorder()
        assert PacedBody(DATA, pace).read(everything) == DATA
        assert pace.sent == [PART_BYTES] * 4


def test_an_empty_body() -> None:
    pace = Recorder()
    body = PacedBody(b"", pace)
    assert (body.read(), body.read(10), len(body), pace.sent) == (b"", b"", 0, [])


def test_what_is_sent_again_is_announced_again() -> None:
    pace = Recorder()
    body = PacedBody(DATA, pace)
    assert body.read(100) == DATA[:100]
    assert body.seek(0) == 0
    assert body.read() == DATA
    assert pace.sent == [PART_BYTES] + [PART_BYTES] * 4
    assert body.read() == b""


def test_asking_for_the_length_by_seeking_announces_nothing() -> None:
    pace = Recorder()
    body = PacedBody(DATA, pace)
    assert (body.seekable(), body.readable()) == (True, True)
    assert (body.seek(0, io.SEEK_END), body.tell()) == (len(DATA), len(DATA))
    assert body.seek(-10, io.SEEK_CUR) == len(DATA) - 10
    assert body.seek(-5) == 0
    assert body.seek(10**9) == len(DATA)
    assert pace.sent == []
    body.seek(-10, io.SEEK_END)
    assert (body.read(), pace.sent) == (DATA[-10:], [10])


@given(st.lists(st.one_of(st.integers(-1, 200_000), st.tuples(st.integers(0, 300_000))), max_size=12))
def test_it_reads_as_a_plain_file_does(moves: list[int | tuple[int]]) -> None:
    """In short pieces at most; nothing is handed out that was not announced for this pass."""
    pace = Recorder()
    body, plain = PacedBody(DATA, pace), io.BytesIO(DATA)
    handed_out = 0
    for move in moves:
        if isinstance(move, tuple):
            assert body.seek(move[0]) == min(plain.seek(move[0]), len(DATA))
            plain.seek(body.tell())
        else:
            piece = body.read(move)
            handed_out += len(piece)
            assert piece == plain.read(len(piece))
            assert piece or move == 0 or plain.tell() == len(DATA)
        assert handed_out <= sum(pace.sent)


def test_a_pace_that_gives_up_is_heard() -> None:
    class Impatient(Recorder):
        def sending(self, byte_count: int) -> None:
            super().sending(byte_count)
            if len(self.sent) == 2:
                raise GivenUpError

    body = PacedBody(DATA, Impatient())
    assert body.read(PART_BYTES) == DATA[:PART_BYTES]
    with pytest.raises(GivenUpError):
        body.read(PART_BYTES)
    assert body.tell() == PART_BYTES


def test_a_limit_that_comes_or_goes_is_heeded_from_the_next_part_on() -> None:
    pace, data = Recorder(), bytes(4 * FREE_PART_BYTES)
    body, source = PacedBody(data, pace), io.BytesIO(data)
    pieces: list[int] = []

    def read(size: int) -> bytes:
        pieces.append(size)
        if len(pieces) in (3, 5):
            pace.limited = not pace.limited
        return source.read(size)

    pace.limited = False
    body.read(2 * PART_BYTES)
    assert pace.sent == []
    pace.limited = True
    body.read(PART_BYTES)
    assert pace.sent == [PART_BYTES]
    pace.limited = False
    assert len(body.read()) == len(data) - 2 * PART_BYTES
    assert pace.sent == [PART_BYTES]

    assert receive(read, length=len(data), pace=pace) == data
    assert pieces[:6] == [FREE_PART_BYTES] * 3 + [PART_BYTES] * 2 + [FREE_PART_BYTES]
    assert pace.got == [PART_BYTES] * 2


@pytest.mark.parametrize("heap_bytes", [10**9, 2 * PART_BYTES, 1])
@pytest.mark.parametrize("length", [len(DATA), None])
def test_every_part_received_is_reported(
    length: int | None, heap_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "HEAP_BYTES", heap_bytes)
    pace = Recorder()
    source = io.BytesIO(DATA + b"rest")
    if length is not None:
        source.truncate(length)
    body = receive(source.read, length=length, pace=pace)
    assert body == source.getvalue()
    assert sum(pace.got) == len(body)
    assert max(pace.got) <= PART_BYTES


def test_short_pieces_of_a_slow_line_are_put_together() -> None:
    pace = Recorder()
    source = io.BytesIO(DATA)
    assert receive(lambda size: source.read(min(size, 999)), length=len(DATA), pace=pace) == DATA
    assert sum(pace.got) == len(DATA)


def test_a_body_that_does_not_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "OBJECT_MAX_BYTES", 3 * PART_BYTES)
    for length, most_bytes in [(100, 100), (None, 3 * PART_BYTES)]:
        pace = Recorder()
        body = receive(lambda size: b"x" * size, length=length, pace=pace)
        assert most_bytes < len(body) <= most_bytes + PART_BYTES
        assert sum(pace.got) == len(body)


def test_a_body_that_is_cut_ends_there() -> None:
    assert receive(io.BytesIO(b"abc").read, length=10, pace=Recorder()) == b"abc"
