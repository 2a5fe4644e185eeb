"""Make names from a database safe to show: on one line, without control characters, and short enough.

The same rule holds for every name in every place (a subject, a page, plain text, a payload): the name is cleaned and,
if it is too long, cut between two visible characters, with an ellipsis. So the result is always a part of what the
database holds, and a name cannot change what follows it.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_CONTROLS = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_DROPPED = re.compile(
    r"[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\uffff\ud800-\udfff"
    + "".join(chr(plane + 0xFFFE) + chr(plane + 0xFFFF) for plane in range(0x10000, 0x110000, 0x10000))
    + "]"
)
"""Marks that change the direction of what follows, invisible characters, noncharacters, and what UTF-8 cannot
encode."""

_DROPPED_AND_PRINTABLE = frozenset("\ufffc\ufffd")
"""Those of these that Python counts as printable: stand-ins for an object, and for what could not be decoded."""

_COMPOSED = re.compile(r"[^\uf900-\ufaff\U0002f800-\U0002fa1f]+")
"""All but compatibility ideographs: NFC would replace them, although people write their names with them (as U+FA19)."""


def clean(text: str) -> str:
    """Return *text* as one line fit for a header, a page and JSON, in Unicode's composed form (NFC).

    Control characters become a space; characters that could mislead a reader are dropped.
    """
    if text.isprintable() and _DROPPED_AND_PRINTABLE.isdisjoint(text) and unicodedata.is_normalized("NFC", text):
        return text.strip()  # nearly every name
    line = _CONTROLS.sub(" ", _DROPPED.sub("", text)).strip()
    return _COMPOSED.sub(lambda run: unicodedata.normalize("NFC", run[0]), line)


def visible(text: str) -> str:
    """Return *text* as one line for a terminal, with escapes for invisible and control characters.

    Characters that join others, or choose their shape, stay: names and emoji need them.
    """
    return _UNSEEN.sub(_escape, text)


def visible_json(text: str) -> str:
    """Return JSON of the same value, with escapes for invisible and control characters."""
    return _UNSEEN_OR_JOINING.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


_INVISIBLE = (
    r"\x7f-\x9f\xad\u034f\u061c\u070f\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    r"\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff"
)
"""Controls, marks of direction, fillers, line ends, what UTF-8 cannot encode, and what Unicode reserves for such
(Default_Ignorable_Code_Point)."""

UNSEEN_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_INVISIBLE}]")
"""What a terminal obeys, hides or reverses in a text of several lines, in which tabs may stand."""

_UNSEEN = re.compile(rf"[\x00-\x1f{_INVISIBLE}]")
_UNSEEN_OR_JOINING = re.compile(rf"[{_INVISIBLE}\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e0fff]")


def cut(text: str, limit: int) -> str:
    """Return at most *limit* characters of *text*, with an ellipsis for the rest.

    A character that a reader sees as one is never split.
    """
    if len(text) <= limit:
        return text
    end = max(limit - 1, 0)
    while end and _joined(text, end):
        end -= 1
    return text[: end or max(limit - 1, 0)].rstrip() + "…" * bool(limit)


_JOINER = "\u200d"


def _joined(text: str, at: int) -> bool:
    """Return whether text[at] belongs to the character before it (as in UAX #29: marks, emoji, flags, jamo)."""
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
    """Pad *text* with spaces to the width of the widest of *others*; East Asian characters take two columns."""
    return text + " " * (max(map(_columns, others)) - _columns(text))


@lru_cache
def _columns(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
