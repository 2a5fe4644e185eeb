"""Addresses, and how a mailbox is written for a provider."""

from email import policy
from typing import Any

import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from hypothesis import example, given
from hypothesis import strategies as st

from notifierd.model.address import LONGEST_NAME, Address, BadAddress, Mailbox, parse_address, parse_mailbox
from tests.support.providers import mailbox

A = Address("a@example.jp")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a@example.jp", Mailbox(A)),
        ("<a@example.jp>", Mailbox(A)),
        (" <a@example.jp>", Mailbox(A)),
        ("期限 <a@例え.jp>", Mailbox(Address("a@xn--r8jz45g.jp"), "期限")),
        ("Keikakun, Inc.<a@example.jp>", Mailbox(A, "Keikakun, Inc.")),
        ('"Keikakun, Inc." <a@example.jp>', Mailbox(A, "Keikakun, Inc.")),
        (r'"期限; \"係\" \\" <a@example.jp>', Mailbox(A, '期限; "係" \\')),
        ('"a" and "b" <a@example.jp>', Mailbox(A, '"a" and "b"')),
    ],
)
def test_a_mailbox_is_read(text: str, read: Mailbox) -> None:
    assert parse_mailbox(text) == read


@pytest.mark.parametrize(
    ("box", "quoted", "encoded"),
    [
        (Mailbox(A), "a@example.jp", "a@example.jp"),
        (Mailbox(A, "Keikakun & Co"), "Keikakun & Co <a@example.jp>", "Keikakun & Co <a@example.jp>"),
        (Mailbox(A, "期限"), "期限 <a@example.jp>", "=?utf-8?b?5pyf6ZmQ?= <a@example.jp>"),
        (
            Mailbox(A, "Keikakun, Inc."),
            '"Keikakun, Inc." <a@example.jp>',
            "=?utf-8?q?Keikakun=2C_Inc=2E?= <a@example.jp>",
        ),
        (Mailbox(A, '"\\'), r'"\"\\" <a@example.jp>', "=?utf-8?b?Ilw=?= <a@example.jp>"),
    ],
)
def test_a_mailbox_is_written(box: Mailbox, quoted: str, encoded: str) -> None:
    assert (box.quoted(), box.encoded()) == (quoted, encoded)


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="<>"), max_size=60)


@given(NAMES | st.text(st.sampled_from('期限 係ab.,;:"\\()[]@=?_'), max_size=60))
def test_a_mailbox_reads_as_it_was_meant_however_it_is_written(name: str) -> None:
    try:
        meant = parse_mailbox(f"{name} <a@example.jp>")
    except BadAddress:
        assert "=?" in name
        return
    folded = meant.encoded("Reply-To")
    assert mailbox(meant.quoted()) == mailbox(meant.encoded()) == mailbox(folded.replace("\n", "")) == meant
    assert meant.encoded().isascii()
    assert max(map(len, f"Reply-To: {folded}".split("\n"))) <= max(76, len("Reply-To:  <a@example.jp>") + len(name))
    assert all(len(word) <= 75 for word in folded.split() if word.startswith("=?"))
    assert parse_mailbox(meant.quoted()) == meant


@given(st.text(max_size=60) | st.from_regex(r"[^\s]{1,9}@[^\s]{1,9}\.jp", fullmatch=True))
def test_what_is_an_address_is_one_to_the_standard_library_too(text: str) -> None:
    """In ASCII, alone, and free of whatever could end a header."""
    try:
        address = parse_address(text)
    except BadAddress:
        return
    factory: Any = policy.default.header_factory
    header: Any = factory("To", address)
    (read,) = header.addresses
    assert (read.addr_spec, read.display_name, header.defects) == (address, "", ())
    assert address.isascii()
    assert address.isprintable()
    assert parse_address(address) == address


def test_the_longest_name_is_taken_and_none_beyond() -> None:
    assert len(parse_mailbox(f"{'期' * LONGEST_NAME} <a@example.jp>").name) == 60
    with pytest.raises(BadAddress):
        parse_mailbox(f"{'期' * (LONGEST_NAME + 1)} <a@example.jp>")


def test_neither_an_address_nor_a_name_is_shown() -> None:
    assert "a@" not in repr(Mailbox(A, "期限"))
    assert "期限" not in repr(Mailbox(A, "期限"))


LABEL = st.from_regex(r"[A-Za-z0-9-]{1,70}", fullmatch=True)


@given(st.from_regex(r"[A-Za-z0-9_.-]{0,70}", fullmatch=True), st.lists(LABEL, max_size=5))
@example("Postmaster", ["example", "jp"])
@example("a", ["b" * 63] * 3)
@example("a" * 64, ["b" * 63, "b" * 63, "b" * 50, "jp"])
@example("a" * 65, ["example", "jp"])
@example("docomo..", ["example", "jp"])
@example("a", ["Example", "JP"])
@example("a", ["b" * 64, "jp"])
@example("a", ["ab--c", "jp"])
@example("a", ["-b", "jp"])
@example("a", ["b-", "jp"])
@example("a", ["b", "j2"])
@example("a", ["b", ""])
@example("a", ["jp"])
@example("b" * 64, ["xn--l8j" + "a" * 49, "xn--n8j" + "a" * 14, "jp"])
def test_an_everyday_address_is_read_as_any_other(local: str, labels: list[str]) -> None:
    text = f"{local}@{'.'.join(labels)}"
    try:
        meant: object = validate_email(text, check_deliverability=False, test_environment=True).ascii_email
    except EmailNotValidError:
        meant = None
    try:
        read: object = parse_address(text)
    except BadAddress:
        read = None
    assert read == meant


@pytest.mark.parametrize("domain", [*SPECIAL_USE_DOMAIN_NAMES, "LOCAL", "localdomain", "onions"])
def test_a_domain_for_special_use_is_what_email_validator_says(domain: str) -> None:
    text = f"a@example.{domain}"
    try:
        validate_email(text, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        with pytest.raises(BadAddress):
            parse_address(text)
    else:
        assert parse_address(text) == text
