"""How long an answer asks us to wait: whatever it says, a number of seconds within bounds, or nothing."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifierd.send._waits import LONGEST_WAIT, parse_retry_after, wait_in_words

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("inf", LONGEST_WAIT),
        ("-inf", 0.0),
        ("1e300", LONGEST_WAIT),
        ("99999999999", LONGEST_WAIT),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("１２０", None),
        ("9" * 100, LONGEST_WAIT),
        ("9" * 101, None),
        ("9" * 10_000, None),
        ("7, 7", 7.0),
        ("Tue, 24 Nov 2026 00:01:30 GMT", 90.0),
        ("Tue, 24 Nov 2026 09:01:30 +0900", 90.0),
        ("Tue, 24 Nov 2026 00:01:30 -0000", 90.0),
        ("Tuesday, 24-Nov-26 00:01:30 GMT", 90.0),
        ("Mon, 23 Nov 2026 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT),
        ("Fri, 31 Dec 9999 23:59:59 -2359", LONGEST_WAIT),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Tue, 24 Nov 2026 00:00:99999999999 GMT", None),
        ("Tue, 24 Nov 20261111111 00:00:00 GMT", None),
        ("Tue, 24 Nov 2026 00:00:00 +99999999999999999999", None),
        ("Tue, 24", None),
        ("Tue, 24 Nov 2026 00:01:30 GMT".ljust(100), 90.0),
        ("Tue, 24 Nov 2026 00:01:30 GMT".ljust(101), None),
        ("Tue, 24 Nov 2026 ００:01:30 GMT", None),
        (",", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("try again after 120 seconds", 120.0),
        ("Try again in 1 second.", 1.0),
        ("limit exceeded, try again after 40 minutes", 2400.0),
        ("try again after 90s", 90.0),
        ("try again after about 2 hours", 7200.0),
        ("try again after 1.5 h", 5400.0),
        ("try again in 1 day", 86_400.0),
        ("try again in 999999999 days", LONGEST_WAIT),
        ("try again after 120", 120.0),
        ("Please try again in 120 ...", 120.0),
        ("try again after Tue, 24 Nov 2026 00:01:30 UTC", 90.0),
        ("try again after Tue, 24 Nov 2026 00:01:30 UTC.", 90.0),
        ("try again after Tue, 24 Nov 2026 00:00:99999999999 GMT", None),
        ("try again after 5 mice", None),
        ("try again after lunch", None),
        ("try again", None),
        ("x" * 2000 + "try again after 120 seconds", None),
        ("", None),
    ],
)
def test_words_name_a_span_a_number_or_a_date(words: str, seconds: float | None) -> None:
    assert wait_in_words(words, NOW) == seconds


DATES = st.from_regex(r"\A\w{3}, \d{1,12} \w{3} \d{1,12} \d+:\d+:\d{1,12} [+-]\d{1,25}\Z")


@given(st.text() | DATES | DATES.map(lambda date: date[:20]) | st.floats().map(str) | st.integers().map(str))
@example("Tue, 24 Nov 2026 00:00:00 +0060")
def test_any_text_gives_a_wait_within_bounds_or_none(text: str) -> None:
    for seconds in (parse_retry_after(text, NOW), wait_in_words(f"try again after {text}", NOW)):
        assert seconds is None or 0 <= seconds <= LONGEST_WAIT
