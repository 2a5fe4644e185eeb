"""A whole message, as the standard library reads it."""

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

from hypothesis import given
from hypothesis import strategies as st

from notifierd.model.address import encoded_words
from notifierd.model.message import Mail
from notifierd.send.mail.mime import dated, undated
from tests.support.messages import mail
from tests.support.providers import mailbox

NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)


def parsed(message: Mail) -> EmailMessage:
    return message_from_bytes(dated(undated(message), NINE), policy=policy.default)


@given(
    subject=st.text(st.sampled_from("期限アラート [a]=?utf-8?b?x?=👨‍👩‍👧"), min_size=1, max_size=200).map(str.strip),
    text=st.text(st.sampled_from("期限\nx.-=")),
)
def test_a_mail_reads_as_it_was_written(subject: str, text: str) -> None:
    message = dated(undated(mail(1, subject=subject, text=text, html=f"<p>{text}</p>")), NINE)
    assert max(map(len, message.split(b"\r\n"))) <= 76
    assert b"\n" not in message.replace(b"\r\n", b"")
    found = message_from_bytes(message, policy=policy.default)
    assert found["Subject"] == subject
    assert found["Date"].datetime == NINE
    plain, html = found.iter_parts()
    assert plain.get_content() == text.replace("\n", "\r\n")
    assert html.get_content() == f"<p>{text}</p>".replace("\n", "\r\n")
    assert not any(part.defects for part in found.walk())


def by_the_library(message: Mail) -> bytes:
    """A mail as the standard library composes it."""
    texts = {"plain": message.text, "html": message.html}
    parts = [MIMEText(re.sub(r"\r?\n", "\r\n", text), subtype, "utf-8") for subtype, text in texts.items()]
    unfolded = policy.compat32.clone(linesep="\r\n", max_line_length=None)
    whole = MIMEMultipart("alternative", message.delivery_id.hex[8:], parts, policy=unfolded)
    whole["From"], whole["To"] = message.sender.encoded("From"), message.to
    if message.reply_to:
        whole["Reply-To"] = message.reply_to.encoded("Reply-To")
    whole["Subject"] = encoded_words(message.subject, "Subject")
    for name, value in sorted(message.headers.items()):
        whole[name] = value
    return whole.as_bytes()


@given(
    subject=st.text(st.sampled_from("期限アラート [a]👨‍👩‍👧"), min_size=1, max_size=200).map(str.strip),
    text=st.text(st.sampled_from("期限\r\nx.-= "), max_size=300),
    name=st.text(st.sampled_from("期限 けいかくんaB1,."), max_size=60).map(str.strip),
    reply=st.booleans(),
)
def test_a_mail_is_what_the_library_would_make_of_it(subject: str, text: str, name: str, reply: bool) -> None:
    sender = f"{name} <no-reply@example.jp>" if name else "no-reply@example.jp"
    headers = {"Message-ID": "<1@example.jp>", "List-Unsubscribe": f"<https://app.example.jp/{'x' * 200}>"}
    more = {"reply_to": sender} if reply else {}
    message = mail(1, subject=subject or "x", text=text, html=f"<p>{text}</p>", sender=sender, headers=headers, **more)
    assert undated(message) == by_the_library(message)


def test_a_long_url_in_a_header_stays_a_url() -> None:
    """Not as the library's newer policies have it, which make encoded words of it that no mail program reads."""
    url = f"<https://app.example.jp/stop?token={'a;,' * 200}>"
    assert f"\r\nList-Unsubscribe: {url}\r\n".encode() in undated(mail(1, headers={"List-Unsubscribe": url}))


def test_a_long_japanese_sender_is_folded_and_one_address() -> None:
    sender = "けいかくん, 事務局 (東京) と、そのほかのとても長い名前の部署 <no-reply@例え.jp>"
    message = mail(sender=sender, reply_to=sender)
    assert max(map(len, undated(message).split(b"\r\n"))) <= 76
    found = message_from_bytes(undated(message))
    assert mailbox(found["From"]) == mailbox(found["Reply-To"]) == message.sender
    (address,) = parsed(message)["From"].addresses
    assert address.addr_spec == "no-reply@xn--r8jz45g.jp"


@given(st.text(st.sampled_from("期限 けいかくんaB1,."), min_size=1, max_size=60).map(str.strip))
def test_no_encoded_word_has_more_than_75_characters(text: str) -> None:
    """RFC 2047, section 2; each word by itself is whole text."""
    sender = f"{text} <no-reply@example.jp>"
    head = undated(mail(1, subject=text, sender=sender, reply_to=sender)).partition(b"\r\n\r\n")[0].decode("ascii")
    words = re.findall(r"=\?\S+", head)
    assert all(len(word) <= 75 and decode_header(word)[0][0].decode("utf-8") for word in words)


def test_the_same_mail_always_makes_the_same_bytes() -> None:
    one = undated(mail(1, headers={"A": "1", "B": "2"}))
    assert undated(mail(1, headers={"B": "2", "A": "1"})) == one
