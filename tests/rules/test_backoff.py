"""Pauses double from the first to the longest, and stay there."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from notifierd.rules.backoff import Backoff

SECONDS = st.floats(0.001, 1e6)


def test_each_pause_is_twice_the_one_before_up_to_the_longest():
    backoff = Backoff(first=0.5, longest=5.0)
    assert [backoff.pause(nth) for nth in (1, 2, 3, 4, 5, 6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert list(islice(backoff.pauses(), 6)) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_each_round_of_pauses_begins_anew():
    backoff = Backoff(first=1.0, longest=60.0)
    assert next(backoff.pauses()) == next(backoff.pauses()) == 1.0


@given(SECONDS, SECONDS, st.integers(1, 10**9))
def test_no_number_of_failures_is_too_many(first: float, longest: float, nth: int):
    backoff = Backoff(first, longest)
    assert backoff.pause(nth) <= backoff.pause(nth + 1) <= longest
    assert backoff.pause(10**9) == longest
