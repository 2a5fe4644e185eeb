"""Mail addresses: which of them every provider can send to, and how they are written for it. Pure."""

import re
import unicodedata
from email.header import Header
from functools import lru_cache
from typing import NewType

from attrs import field, frozen
from email_validator import EmailNotValidError, validate_email

from notifierd.model.reasons import Reason

Address = NewType("Address", str)
"""One address in ASCII: `parse_address` makes it."""

LONGEST_NAME = 60
"""Characters before an address."""


class BadAddress(ValueError):
    """A text is no address that mail can be sent to.

    Attributes:
        reason: a code fit for the ledger; nothing here repeats the text.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@frozen
class Mailbox:
    """An address, and the name before it, if there is one (RFC 5322, section 3.4)."""

    address: Address = field(repr=False)
    name: str = field(default="", repr=False)

    def quoted(self) -> str:
        """Return the mailbox with its name as it is, in quotes where it needs them (RFC 6532, section 3.2)."""
        if not self.name:
            return self.address
        name = re.sub(r'(["\\])', r"\\\1", self.name)
        return f'"{name}" <{self.address}>' if _SPECIALS.search(name) else f"{name} <{self.address}>"

    def encoded(self, header: str = "") -> str:
        """Return the mailbox in ASCII, its name in encoded words if it is more than plain words (RFC 2047, section 5).

        Args:
            header: the header that it is to stand in, folded (RFC 5322, section 2.2.3); empty: one line.
        """
        if not self.name:
            return self.address
        if _PLAIN.fullmatch(self.name):
            return f"{self.name} <{self.address}>"
        words = Header(self.name, "utf-8", header_name=header or "From").encode()
        return f"{words}\n <{self.address}>" if header else f"{' '.join(words.split())} <{self.address}>"


_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
"""RFC 5322, section 3.2.3."""

_PLAIN = re.compile(r"[A-Za-z0-9 !#$%&'*+/^_{|}~-]*")


def parse_address(text: str) -> Address:
    """Return the one address that *text* is, in ASCII: a domain beyond it as A-labels (RFC 5890, section 2.3.2.1).

    A local part beyond ASCII would take SMTPUTF8 (RFC 6531), which is no address for Amazon SES
    (https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_Destination.html), for Postmark
    (https://postmarkapp.com/support/article/1180-what-does-errorcode-300-mean) and for Resend, and which Mailgun writes
    into headers that are none (both: https://anymail.dev/en/stable/esps/).

    Raises:
        BadAddress: it is none, or several, or its local part is beyond ASCII.
    """
    found = _EVERYDAY.fullmatch(text)
    return Address(f"{found['local']}@{_domain(found['domain'])}") if found else _parse(text)


_EVERYDAY = re.compile(
    r"(?=.{1,64}@)(?P<local>[a-z0-9_-]+(\.[a-z0-9_-]+)*)@(?!(?i:.*xn--))(?P<domain>[A-Za-z0-9.-]{1,180})"
)
"""What is an address if there is such a domain: RFC 5321, section 4.5.3.1, has the lengths. An A-label counts as longer
than it looks: RFC 5890, section 2.3.2.1, has what it stands for."""


@lru_cache(maxsize=1000)
def _domain(text: str) -> str:
    """Return a domain as mail is sent to it. Few are new: staff of an office mostly have the same."""
    return _parse(f"a@{text}").removeprefix("a@")


def _parse(text: str) -> Address:
    if has_unseen(text):
        raise BadAddress(Reason.BAD_ADDRESS)  # IDNA drops some of them: mail would go to another address than is shown
    try:
        found = validate_email(text, check_deliverability=False, test_environment=True)  # RFC 2606, section 2: .test
    except (EmailNotValidError, UnicodeError):  # UnicodeError: lone surrogates
        raise BadAddress(Reason.BAD_ADDRESS) from None
    if found.ascii_email is None:
        raise BadAddress(Reason.ADDRESS_NOT_ASCII)
    return Address(found.ascii_email)


def has_unseen(text: str) -> bool:
    """Tell whether *text* has characters that nobody sees where they stand: controls, marks of direction, line ends."""
    return any(unicodedata.category(character) in _UNSEEN for character in text)


_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""The categories of such characters."""


def parse_mailbox(text: str) -> Mailbox:
    """Read ``name@domain`` or ``Name <name@domain>``; quotes around the name are not part of it.

    Raises:
        BadAddress: it is neither, or the name is longer than LONGEST_NAME, no line of text, or an encoded word.
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
