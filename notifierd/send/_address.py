"""Addresses as mail servers take them: in ASCII. None of our providers speaks SMTPUTF8 (RFC 6531)."""

import re
from email.header import Header
from email.utils import formataddr

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")
"""RFC 5322, section 3.4.1, without quoted strings and comments."""


def ascii_address(text: str) -> str | None:
    """Return the address ``name@domain``, its domain as IDNA has it; None for what is no single such address."""
    name, _, domain = text.rpartition("@")
    try:
        address = f"{name}@{domain.encode('idna').decode()}"
    except UnicodeError:  # an empty label, or one above 63 characters
        return None
    return address if _ADDRESS.fullmatch(address) else None


def ascii_mailbox(text: str) -> str:
    """Return ``name@domain`` or ``Name <name@domain>`` (as the configuration has it) for a header.

    A name beyond ASCII becomes encoded words (RFC 2047).
    """
    name, _, address = text.rpartition("<")
    address = address.rstrip(">")
    address, name = ascii_address(address) or address, name.strip()
    if name.isascii():
        return formataddr((name, address))
    return f"{' '.join(Header(name, 'utf-8').encode().split())} <{address}>"
