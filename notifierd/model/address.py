"""Mail addresses: which ones every provider accepts, and how they are written. Pure."""

import re
import unicodedata
from email.header import Header
from functools import lru_cache
from typing import NewType

from attrs import field, frozen

from notifierd.model.reasons import Reason

Address = NewType("Address", str)
"""One address in ASCII, as `parse_address` returns it."""

LONGEST_NAME = 60
"""The most characters of the name before an address."""


class BadAddress(ValueError):
    """A text is not an address that mail can be sent to.

    Attributes:
        reason: a code for the ledger, which does not quote the text.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@frozen
class Mailbox:
    """An address with its display name, if there is one (RFC 5322, section 3.4)."""

    address: Address = field(repr=False)
    name: str = field(default="", repr=False)

    def quoted(self) -> str:
        """Return the mailbox with its name unencoded, quoted where necessary (RFC 6532, section 3.2)."""
        return _quoted(self.name, self.address)

    def encoded(self, header: str = "") -> str:
        """Return the mailbox in ASCII, with encoded words for a name that needs them (RFC 2047, section 5).

        Args:
            header: the name of its header, for which the result is folded (RFC 5322, section 2.2.3); empty: one line.
        """
        if not self.name:
            return self.address
        if _PLAIN.fullmatch(self.name):
            return f"{self.name} <{self.address}>"
        words = encoded_words(self.name, header or "From")
        return f"{words}\n <{self.address}>" if header else f"{' '.join(words.split())} <{self.address}>"


@lru_cache(maxsize=16)
def _quoted(name: str, address: str) -> str:
    """Return `Mailbox.quoted`. Cached, because all mails have the same sender."""
    if not name:
        return address
    name = re.sub(r'(["\\])', r"\\\1", name)
    return f'"{name}" <{address}>' if _SPECIALS.search(name) else f"{name} <{address}>"


def encoded_words(text: str, header: str) -> str:
    """Return *text* as encoded words for *header*, folded: no line is longer than 76 characters (RFC 2047, section 2).

    No word then exceeds the 75 characters that the same section allows; with its default, the library exceeds both.
    """
    return Header(text, "utf-8", maxlinelen=76, header_name=header).encode()


_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
"""RFC 5322, section 3.2.3."""

_PLAIN = re.compile(r"[A-Za-z0-9 !#$%&'*+/^_{|}~-]*")


def parse_address(text: str) -> Address:
    """Return *text* as one address in ASCII, with an internationalized domain as A-labels (RFC 5890, section 2.3.2.1).

    An address with a local part beyond ASCII would need SMTPUTF8 (RFC 6531). It is rejected, because Amazon SES
    (https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_Destination.html), Postmark
    (https://postmarkapp.com/support/article/1180-what-does-errorcode-300-mean) and Resend accept no such address, and
    Mailgun writes it into malformed headers (for Resend and Mailgun: https://anymail.dev/en/stable/esps/).

    Raises:
        BadAddress: *text* is not an address, or several, or its local part is beyond ASCII.
    """
    found = _EVERYDAY.fullmatch(text)
    return Address(f"{found['local']}@{_domain(found['domain'])}") if found else _parse(text)


_EVERYDAY = re.compile(
    r"(?=.{1,64}@)(?P<local>[a-z0-9_-]+(\.[a-z0-9_-]+)*)@(?!(?i:.*xn--))(?P<domain>[A-Za-z0-9.-]{1,180})"
)
"""A fast path for common addresses, which are valid if their domain is: RFC 5321, section 4.5.3.1, limits the lengths.
A-labels are left out, because the limits apply to the text that they stand for (RFC 5890, section 2.3.2.1)."""


@lru_cache(maxsize=1000)
def _domain(text: str) -> str:
    """Return a domain in the form that mail is sent to. Cached, because staff of an office mostly share a domain."""
    lower = text.lower()
    return lower if _PLAIN_DOMAIN.fullmatch(lower) else _parse(f"a@{text}").removeprefix("a@")


_PLAIN_DOMAIN = re.compile(
    r"((?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+(?!(arpa|invalid|local|localhost|onion)\Z)[a-z]{2,63}"
)
"""A fast path for domains of letters, digits and hyphens (RFC 1035, section 2.3.1, with its length of a label), without
A-labels (RFC 5890, section 2.3.1) and outside of the special-use domains (RFC 6761). It is faster at the start above
all: email_validator's own patterns take 36 ms to compile."""


def _parse(text: str) -> Address:
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - most addresses do not need it

    if has_unseen(text):
        raise BadAddress(Reason.BAD_ADDRESS)  # IDNA drops some of them: mail would go elsewhere than shown
    try:
        found = validate_email(text, check_deliverability=False, test_environment=True)  # RFC 2606, section 2: .test
    except (EmailNotValidError, UnicodeError):  # UnicodeError: lone surrogates
        raise BadAddress(Reason.BAD_ADDRESS) from None
    if found.ascii_email is None:
        raise BadAddress(Reason.ADDRESS_NOT_ASCII)
    return Address(found.ascii_email)


def has_unseen(text: str) -> bool:
    """Return whether *text* has invisible characters: controls, marks of direction, line ends."""
    return any(unicodedata.category(character) in _UNSEEN for character in text)


_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""The Unicode categories of such characters."""


def parse_mailbox(text: str) -> Mailbox:
    """Parse ``name@domain`` or ``Name <name@domain>``; quotes around the name are removed.

    Raises:
        BadAddress: it is neither, or the name is longer than LONGEST_NAME, has invisible characters, or is an encoded
            word.
    """
    if not text.endswith(">"):
        return Mailbox(parse_address(text))
    name, _, address = text[:-1].rpartition("<")
    name = name.strip()
    if quoted := re.fullmatch(r'"((?:[^"\\]|\\.)*)"', name):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise BadAddress(Reason.BAD_ADDRESS)
    return Mailbox(parse_address(address), name)


_NAME = re.compile(r"(?!.*=\?)[^<>\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")
