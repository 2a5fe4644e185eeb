"""What a provider's error text is about: the message or its address, our account, our quota, or none of these."""

import re
from enum import Enum
from functools import cache

LONGEST_TEXT = 1000
"""The most characters of a provider's text that are read."""


class About(Enum):
    """What an answer is about, by the provider's own words."""

    MESSAGE = "message"
    """This message's recipient: other messages are not affected."""
    US = "us"
    """Our key, account, sender, domain, stream or plan: every message is affected."""
    QUOTA = "quota"
    """A quota of our account that lasts for hours."""
    NOTHING = "nothing"


def about(text: str) -> About:
    """Return what *text* is about.

    A text about both our account and the recipient counts as about our account: a pause can be ended, a failed message
    cannot be recovered. Addresses and host names are removed first, so that a mailbox named ``api-key`` stops nothing.
    """
    plain = _ADDRESSES.sub(" ", text[:LONGEST_TEXT])
    for meaning, words in _WORDS:
        if _pattern(words).search(plain):
            return meaning
    return About.NOTHING


def about_field(field: str) -> About | None:
    """Return what a field that an answer names is about, as ``to`` or ``from``; None if the field does not tell."""
    name = field.lower().replace("-", "_")
    if name in {"to", "cc", "bcc"}:
        return About.MESSAGE
    return About.US if name in {"from", "reply_to", "replyto", "sender"} else None


_ADDRESSES = re.compile(r'"[^"@]{0,100}"@\S*|[^\s@]{0,320}@\S*|\b[\w-]+(?:\.[\w-]+)+\b')


@cache
def _pattern(words: str) -> re.Pattern[str]:
    """Return the compiled pattern of *words*, on first use: compiling takes 3 ms, and most runs need none."""
    return re.compile(words, re.IGNORECASE | re.ASCII)


def _any(*parts: str) -> str:
    return "|".join(parts)


_STOPPED = (
    r"(?:suspended|disabled|deactivated|inactive|pending|paused|closed|terminated|locked|restricted|banned|expired)"
)

_LIMIT = r"(?<!rate )(?<!size )limit"
"""A limit on the number of mails. A rate limit clears within seconds, and a size limit concerns one message."""

_WORDS = (
    (
        About.QUOTA,
        _any(
            rf"\b(?:hourly|daily|monthly|plan|account)\b.{{0,40}}\b(?:quotas?|{_LIMIT})\b",
            rf"\b{_LIMIT}\b.{{0,40}}\b(?:plan|account)\b",
            r"\bquotas?\b(?!.{0,80}\bper[ _-](?:second|minute)\b)",
            r"\bcredits?\b",
        ),
    ),
    (
        About.US,
        _any(
            # the key
            r"\bapi[ _-]?keys?\b",
            r"\b(?:access|secret|signing)[ _-]?key\b",
            r"\b(?:api|access|bearer|server|account|security|auth)[ _-]?token\b",
            r"(?<!unexpected )\btoken\b.{0,30}\b(?:invalid|expired|missing|revoked|not valid|unknown)\b",
            r"\b(?:invalid|expired|missing|bad|revoked) token\b",
            r"\bcredentials?\b",
            r"\b(?:un|not )authori[sz]ed\b",
            r"\bauthori[sz]ation\b",
            r"\bauthenticat(?:e|ed|ion)\b",
            r"\bforbidden\b",
            r"\bpermissions?\b",
            r"\baccess denied\b",
            r"\bsignature\b",
            # the account and its plan
            rf"\baccount\b.{{0,60}}\b(?:{_STOPPED}|under review|not activ\w+)\b",
            rf"\b{_STOPPED} account\b",
            rf"\bsending\b.{{0,30}}\b{_STOPPED}\b",
            r"\bnot (?:allowed|permitted|able) to send\b",
            r"\b(?:billing|payment|upgrade|test purposes)\b",
            r"\b(?:authori[sz]ed|verified) recipients?\b",
            # the sender and its domain
            r"\bsender\b",
            r"""[`'"]from[`'"]""",
            r"\bfrom[ _-]?(?:address|e?mail|field|parameter|header|domain)\b",
            r"\breply[ _-]?to\b",
            r"\b(?:unverified|not (?:been )?verified|isn't verified|verify (?:a|your|the) domain)\b",
            r"\bdomain\b.{0,60}\bnot (?:active|allowed|registered|configured|enabled)\b",
            r"\bmessage ?stream\b",
        ),
    ),
    (
        About.MESSAGE,
        _any(
            r"""[`'"](?:to|cc|bcc)[`'"]""",
            r"(?:^|\b(?:invalid|missing|bad|empty|malformed|the) )(?:to|cc|bcc) (?:address|field|parameter|header)\b",
            r"(?<!limit of )\brecipients?\b(?![ \w]{0,20}\b(?:limit|quota|rate)\b)",
            r"\bsuppress(?:ed|ion)\b",
        ),
    ),
)
