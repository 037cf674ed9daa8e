"""The interval tree's arithmetic: where an interval is filed, and where to look for those that hold an epoch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cubefs.db.schema import fork, fork_ancestors

EPOCHS = st.one_of(st.integers(1, 300), st.integers(1, 2**40), st.sampled_from([1, 2, 3, 4, 2**20, 2**20 + 1]))


def zeros(number: int) -> int:
    """Return the number of trailing zero bits."""
    return (number & -number).bit_length() - 1


@given(EPOCHS, st.integers(1, 300))
def test_a_fork_is_the_roundest_number_of_its_interval(since: int, length: int) -> None:
    found = fork(since, since + length)
    assert since <= found < since + length
    assert all(zeros(other) < zeros(found) for other in range(since, since + length) if other != found)


@given(EPOCHS, EPOCHS, EPOCHS)
def test_whoever_holds_an_epoch_is_filed_under_its_ancestors(first: int, second: int, last: int) -> None:
    since, until = min(first, second), max(first, second) + 1
    last = max(last, until - 1)
    found = fork(since, until)
    for epoch in {since, until - 1, (since + until - 1) // 2, found}:
        assert found in fork_ancestors(epoch, last)


def test_every_interval_of_a_small_tree() -> None:
    last = 40
    for epoch in range(1, last + 1):
        ancestors = fork_ancestors(epoch, last)
        for since in range(1, epoch + 1):
            for until in range(epoch + 1, last + 2):
                assert fork(since, until) in ancestors


@given(EPOCHS, EPOCHS)
def test_the_ancestors_are_few_and_in_the_tree(epoch: int, last: int) -> None:
    epoch, last = min(epoch, last), max(epoch, last)
    ancestors = fork_ancestors(epoch, last)
    assert epoch in ancestors
    assert len(set(ancestors)) == len(ancestors) <= last.bit_length() + 1
    assert all(1 <= ancestor <= last for ancestor in ancestors)
