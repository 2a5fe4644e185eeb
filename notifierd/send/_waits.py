"""How long an answer asks us to wait: in seconds, until a date, or in words. Any text gives a number or None."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 86_400.0
"""The longest wait in seconds that a provider may ask for. No run lasts longer."""

LONGEST_TEXT = 100
"""The longest text that is read as a wait, in characters: a date has 31."""


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Return seconds from *now*, within 0 and LONGEST_WAIT; None if *value* is neither seconds nor a date.

    RFC 9110, section 10.2.3. If the header came twice, and was joined by a comma, its first value counts.
    """
    seconds = parse_number(value.partition(",")[0])
    return within_bounds(_until(value, now) if seconds is None else seconds)


def parse_number(text: str) -> float | None:
    """Return a number written in ASCII digits, which may be infinite or NaN; None for any other text."""
    if len(text) > LONGEST_TEXT or not text.isascii():  # Python accepts the digits of all scripts
        return None
    try:
        return float(text)
    except ValueError:
        return None


def within_bounds(seconds: float | None) -> float | None:
    """Return *seconds* limited to 0 and LONGEST_WAIT; None for NaN."""
    return None if seconds is None or math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def _until(text: str, now: datetime) -> float | None:
    if len(text) > LONGEST_TEXT or not text.isascii():
        return None
    try:
        date = parsedate_to_datetime(text)
        return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        return None  # ArithmeticError: a year of 11 digits, or an offset of 20


def wait_in_words(text: str, now: datetime) -> float | None:
    """Return the seconds in "try again after ...", which names a number, a number and a unit, or a date; else None."""
    found = _AGAIN.search(text[:LONGEST_WORDS])
    if found is None:
        return None
    said = found["when"].strip(" .")
    span = _SPAN.match(said)
    return within_bounds(float(span["number"]) * _UNITS[span["unit"].lower()]) if span else parse_retry_after(said, now)


LONGEST_WORDS = 1000

_AGAIN = re.compile(r"\btry again (?:after|in) (?P<when>[ -~]{1,100})", re.IGNORECASE)

_SPAN = re.compile(
    r"(?:about )?(?P<number>\d{1,9}(?:\.\d{1,9})?) ?(?P<unit>[smhd])(?:ec|econd|in|inute|r|our|ay)?s?\b",
    re.IGNORECASE | re.ASCII,
)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
