"""Bounce mails as several servers write them, and as nobody should."""

import base64
from email.message import EmailMessage
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.send.feedback._dsn import Notification, Recipient, read_notification

ONE = UUID("0f5c2d9a-8b7e-4c1d-9a8b-7e4c1d9a8b7e")

HEAD = b"""From: mailer-daemon@example.com
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="b1"

This is a multipart message.
--b1
Content-Type: text/plain; charset=iso-2022-jp

Action: failed
Status: 5.9.9

"""
POSTFIX = b"""--b1
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.com
X-Postfix-Queue-ID: 4F1B2
Arrival-Date: Tue, 24 Nov 2026 09:00:00 +0900 (JST)

Final-Recipient: rfc822; forwarded@example.net
Original-Recipient: rfc822;taro@example.jp
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.net
Diagnostic-Code: smtp; 550 5.7.1 <taro@example.jp>:
    unknown

"""
RETURNED = f"""--b1
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

From: no-reply@example.jp
Message-ID: <{ONE}@example.jp>
Subject: Action: delayed

--b1--
""".encode()


def notification(*recipients: Recipient, deliveries: frozenset[UUID] = frozenset({ONE})) -> Notification:
    return Notification(deliveries, recipients)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_notification_of_postfix(line_end: bytes) -> None:
    """The text for people does not count, and neither does the returned mail: both have fields as well."""
    raw = (HEAD + POSTFIX + RETURNED).replace(b"\n", line_end)
    assert read_notification(raw) == notification(Recipient("failed", "5.1.1", "taro@example.jp"))


@pytest.mark.parametrize(
    ("old", "new", "recipient"),
    [
        (b"Action: failed\nStatus: 5.1.1", b"action:Failed (odd)\nSTATUS: 5.1.1 (gone)", ("failed", "5.1.1")),
        (b"Status: 5.1.1\n", b"Status: 5.0.0\n", ("failed", "5.7.1")),
        (b"Status: 5.1.1\n", b"", ("failed", "5.7.1")),
        (b"Status: 5.1.1\n", b"Status: none\n", ("failed", "5.7.1")),
        (b"Action: failed", b"Action: delayed", ("delayed", "5.1.1")),
        (b"Action: failed", b"Action: =?utf-8?b?ZmFpbGVk?=", ("=?utf-8?b?zmfpbgvk?=", "5.1.1")),
    ],
)
def test_the_fields_of_a_recipient(old: bytes, new: bytes, recipient: tuple[str, str]) -> None:
    raw = HEAD + POSTFIX.replace(old, new) + RETURNED
    assert read_notification(raw) == notification(Recipient(*recipient, "taro@example.jp"))


def test_an_address_without_an_original() -> None:
    raw = HEAD + POSTFIX.replace(b"Original-Recipient: rfc822;taro@example.jp\n", b"") + RETURNED
    assert read_notification(raw) == notification(Recipient("failed", "5.1.1", "forwarded@example.net"))


def test_the_original_mail_may_be_whole_or_encoded() -> None:
    """Some servers write parts in base64, which RFC 3464 does not forbid for headers."""
    whole = RETURNED.replace(b"text/rfc822-headers", b"message/rfc822").replace(b"--b1--", b"text\n--b1--")
    assert read_notification(HEAD + POSTFIX + whole) == read_notification(HEAD + POSTFIX + RETURNED)
    head, _, text = RETURNED.partition(b"\n\n")
    encoded = head + b"\nContent-Transfer-Encoding: base64\n\n" + base64.encodebytes(text.rpartition(b"--b1--")[0])
    assert read_notification(HEAD + POSTFIX + encoded + b"--b1--\n") == read_notification(HEAD + POSTFIX + RETURNED)


@pytest.mark.parametrize("name", ["Message-ID", "message-id", "X-Entity-Ref-ID"])
def test_the_original_mail_is_named_by_its_headers(name: str) -> None:
    value = str(ONE) if name == "X-Entity-Ref-ID" else f"<{ONE}@example.jp>"
    returned = f"--b1\nContent-Type: message/rfc822\n\n{name}: {value}\n\n--b1--\n".encode()
    found = read_notification(HEAD + POSTFIX + returned)
    assert found is not None
    assert found.deliveries == {ONE}


def test_the_original_mail_is_named_by_googles_field() -> None:
    field = f"X-Original-Message-ID: <{ONE}@example.jp>\n".encode()
    raw = HEAD + POSTFIX.replace(b"X-Postfix-Queue-ID: 4F1B2\n", field) + b"--b1--\n"
    assert read_notification(raw) == notification(Recipient("failed", "5.1.1", "taro@example.jp"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n\n",
        b"Subject: out of office\n\nAction: failed",
        b"Content-Type: multipart/report; report-type=delivery-status\n\nAction: failed",
        b"Content-Type: multipart/report; report-type=disposition-notification; boundary=b1\n\n" + POSTFIX + RETURNED,
        b"Content-Type: multipart/mixed; boundary=b1\n\n" + POSTFIX + RETURNED,
        b"Content-Type: multipart/report; report-type=delivery-status; boundary*0*=" + b"9" * 9000 + b"\n\n",
    ],
)
def test_other_mails_are_none_or_tell_nothing(raw: bytes) -> None:
    found = read_notification(raw)
    assert found is None or found == notification(deliveries=frozenset())


def test_a_mail_with_very_many_parts_or_groups_is_read_in_part() -> None:
    groups = b"Action: failed\nStatus: 5.1.1\nFinal-Recipient: rfc822;a@example.jp\n\n" * 5000
    raw = HEAD + (b"--b1\nContent-Type: message/delivery-status\n\n" + groups) * 50 + b"--b1--\n"
    found = read_notification(raw)
    assert found is not None
    assert len(found.recipients) <= 110


def test_a_deeply_nested_mail_is_read() -> None:
    inner = b"".join(b"Content-Type: multipart/mixed; boundary=x%d\n\n--x%d\n" % (n, n) for n in range(3000))
    found = read_notification(HEAD + b"--b1\n" + inner + POSTFIX + RETURNED)
    assert found == notification(Recipient("failed", "5.1.1", "taro@example.jp"))


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_no_mail_raises(head: bytes, status: bytes, returned: bytes) -> None:
    read_notification(head)
    read_notification(HEAD + head + POSTFIX + status + RETURNED + returned)
    read_notification(HEAD + b"--b1\nContent-Type: message/delivery-status\n" + status + b"\n\n" + returned)


@given(st.text(max_size=40), st.text(max_size=40))
def test_pythons_own_reports_are_read(text: str, subject: str) -> None:
    """A report as another library builds it, whatever its text for people says."""
    report = EmailMessage()
    report["Subject"] = "".join(filter(str.isprintable, subject))
    report.set_content(text.replace("\r", " "))
    report.make_mixed()
    raw = report.as_bytes()
    assert read_notification(raw) is None
