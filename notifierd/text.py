"""Names from a database, made fit to be shown: one line, no tricks, no longer than there is room."""

import re
import unicodedata
from collections.abc import Iterable

_CONTROLS = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_DROPPED = re.compile(r"[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]")
"""Marks that turn the direction of what follows, what is invisible, and what UTF-8 cannot carry."""


def clean(text: str) -> str:
    """Return *text* as one line fit for a header, a page and JSON: control characters become a space."""
    return _CONTROLS.sub(" ", _DROPPED.sub("", text)).strip()


def cut(text: str, limit: int) -> str:
    """Return at most *limit* characters of *text*, with an ellipsis for the rest, never splitting what reads as one."""
    if len(text) <= limit:
        return text
    end = max(limit - 1, 0)
    while end and _joined(text, end):
        end -= 1
    return text[: end or max(limit - 1, 0)].rstrip() + "…" * bool(limit)


_JOINER = "\u200d"


def _joined(text: str, at: int) -> bool:
    """Tell whether text[at] belongs to the character before it (after Unicode's UAX #29: marks, emoji, flags, jamo)."""
    before, after = text[at - 1], text[at]
    if _JOINER in {before, after} or unicodedata.category(after) in {"Mn", "Mc", "Me"}:
        return True
    if after in "ﾞﾟ" or "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True
    if _is_flag_half(before) and _is_flag_half(after):
        return len(text[:at]) - len(text[:at].rstrip(_FLAG_HALVES)) & 1 == 1
    return "\u1100" <= before <= "\u11ff" and "\u1160" <= after <= "\u11ff"


_FLAG_HALVES = "".join(map(chr, range(0x1F1E6, 0x1F200)))


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def pad(text: str, others: Iterable[str]) -> str:
    """Fill *text* with spaces to the width of the widest of *others*; East Asian characters take two columns."""
    return text + " " * (max(map(_columns, others)) - _columns(text))


def _columns(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
