"""What a provider's own words speak of: of the message or its address, of us, of our quota, or of none of these."""

import re
from enum import Enum
from functools import cache

LONGEST_TEXT = 1000
"""Characters of a provider's text that are read."""


class About(Enum):
    """What an answer in a provider's own words speaks of."""

    MESSAGE = "message"
    """This message's recipient: no other message meets it."""
    US = "us"
    """Our key, account, sender, domain, stream or plan: every message meets it."""
    QUOTA = "quota"
    """A quota of ours that lasts for hours."""
    NOTHING = "nothing"


def about(text: str) -> About:
    """Tell what *text* speaks of.

    A text that speaks of us and of the recipient counts as of us: a pause of all is mended, and a message that has
    failed is not. Addresses and host names are left out first: whoever names a mailbox ``api-key`` shall stop nobody.
    """
    plain = _ADDRESSES.sub(" ", text[:LONGEST_TEXT])
    for meaning, words in _WORDS:
        if _pattern(words).search(plain):
            return meaning
    return About.NOTHING


def about_field(field: str) -> About | None:
    """Tell what a field that an answer names speaks of, as ``to`` or ``from``; None for one that does not tell."""
    name = field.lower().replace("-", "_")
    if name in {"to", "cc", "bcc"}:
        return About.MESSAGE
    return About.US if name in {"from", "reply_to", "replyto", "sender"} else None


_ADDRESSES = re.compile(r'"[^"@]{0,100}"@\S*|[^\s@]{0,320}@\S*|\b[\w-]+(?:\.[\w-]+)+\b')


@cache
def _pattern(words: str) -> re.Pattern[str]:
    """Return the pattern of *words*. It is made when it is needed first: that takes 3 ms, and most runs need none."""
    return re.compile(words, re.IGNORECASE | re.ASCII)


def _any(*parts: str) -> str:
    return "|".join(parts)


_STOPPED = (
    r"(?:suspended|disabled|deactivated|inactive|pending|paused|closed|terminated|locked|restricted|banned|expired)"
)

_LIMIT = r"(?<!rate )(?<!size )limit"
"""Of a number of mails: a rate clears within seconds, and a size is a message's own."""

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
