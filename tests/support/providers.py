"""The other end of each provider's API, by its documentation: what it reads from a call, and how it answers."""

import base64
import email
import email.policy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from email.header import decode_header, make_header
from email.utils import getaddresses
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import httpx
import trio
from attrs import evolve, frozen

from notifierd.demo.servers.smtp import Submission
from notifierd.model.address import Address, Mailbox
from notifierd.model.message import Mail
from tests.support.loopback import answering, serving


@frozen
class Read:
    """A mail as a provider is going to send it.

    Attributes:
        to: everybody who gets it, openly or not.
    """

    to: tuple[str, ...]
    sender: Mailbox
    reply_to: Mailbox | None
    subject: str
    text: str
    html: str
    headers: Mapping[str, str]


def meant(mail: Mail) -> Read:
    """What a provider should read."""
    return Read((mail.to,), mail.sender, mail.reply_to, mail.subject, mail.text, mail.html, dict(mail.headers))


def resend_reads(request: httpx.Request) -> list[Read]:
    found = json.loads(request.content)
    return [
        Read(
            tuple(address for field in ("to", "cc", "bcc") for address in item.get(field, [])),
            mailbox(item["from"]),
            mailbox(item["reply_to"]) if "reply_to" in item else None,
            item["subject"],
            item["text"],
            item["html"],
            item["headers"],
        )
        for item in (found if isinstance(found, list) else [found])
    ]


def resend_answers(good: Sequence[bool]) -> httpx.Response:
    if len(good) == 1:
        error = {"statusCode": 422, "name": "validation_error", "message": "Invalid `to` field. taro@example.jp"}
        return httpx.Response(200, json={"id": "id-0"}) if good[0] else httpx.Response(422, json=error)
    ids = [{"id": f"id-{number}"} for number, accepted in enumerate(good) if accepted]
    errors = [{"index": number, "message": "odd"} for number, accepted in enumerate(good) if not accepted]
    return httpx.Response(200, json={"data": ids, "errors": errors})


def postmark_reads(request: httpx.Request) -> list[Read]:
    return [
        Read(
            _addresses(item, "To", "Cc", "Bcc"),
            mailbox(item["From"]),
            mailbox(item["ReplyTo"]) if "ReplyTo" in item else None,
            item["Subject"],
            item["TextBody"],
            item["HtmlBody"],
            {header["Name"]: header["Value"] for header in item["Headers"]},
        )
        for item in json.loads(request.content)
    ]


def postmark_answers(good: Sequence[bool]) -> httpx.Response:
    bad = {"ErrorCode": 406, "Message": "Found inactive addresses: taro@example.jp."}
    answers = [
        {
            "ErrorCode": 0,
            "Message": "OK",
            "MessageID": f"id-{number}",
            "SubmittedAt": "2026-11-24T09:00:00.1794748+09:00",
            "To": "taro@example.jp",
        }
        for number in range(len(good))
    ]
    return httpx.Response(200, json=[answer if one else bad for answer, one in zip(answers, good, strict=True)])


def sendgrid_reads(request: httpx.Request) -> list[Read]:
    found = json.loads(request.content)
    text, html = found["content"]
    assert (text["type"], html["type"]) == ("text/plain", "text/html")
    return [
        Read(
            tuple(one["email"] for field in ("to", "cc", "bcc") for one in personalization.get(field, [])),
            _sendgrid_mailbox(found["from"]),
            _sendgrid_mailbox(found["reply_to"]) if "reply_to" in found else None,
            found["subject"],
            text["value"],
            html["value"],
            found["headers"],
        )
        for personalization in found["personalizations"]
    ]


def sendgrid_answers(good: Sequence[bool]) -> httpx.Response:
    (accepted,) = good
    if accepted:
        return httpx.Response(202, headers={"X-Message-Id": "id-0"})
    field = "personalizations.0.to.0.email"
    return httpx.Response(400, json={"errors": [{"message": "taro@example.jp is odd", "field": field, "help": None}]})


def mailgun_reads(request: httpx.Request) -> list[Read]:
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    found = parse_qs(request.content.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    fields = {name: value for name, (value,) in found.items()}
    headers = {name[2:]: value for name, value in fields.items() if name.startswith("h:")}
    reply_to = mailbox(headers.pop("Reply-To")) if "Reply-To" in headers else None
    to = (*_addresses(fields, "to", "cc", "bcc"), *json.loads(fields.get("recipient-variables", "{}")))
    sender = mailbox(fields["from"])
    return [Read(to, sender, reply_to, fields["subject"], fields["text"], fields["html"], headers)]


def mailgun_answers(good: Sequence[bool]) -> httpx.Response:
    (accepted,) = good
    if accepted:
        return httpx.Response(200, json={"id": "<id-0@mg.example.jp>", "message": "Queued. Thank you."})
    return httpx.Response(400, json={"message": "to parameter is not a valid address. please check documentation"})


def in_clear(request: httpx.Request | Submission) -> str:
    """All that a call says, encoded or not; without the envelope, which `smtp_reads` reads."""
    if isinstance(request, Submission):
        return _mime_in_clear(request.content)
    content = request.content.decode()
    if content.startswith('{"raw"'):
        content = _mime_in_clear(base64.urlsafe_b64decode(json.loads(content)["raw"]))
    return f"{request.url} {request.headers} {unquote_plus(content)}"


def _mime_in_clear(raw: bytes) -> str:
    found = email.message_from_bytes(raw, policy=email.policy.SMTP)
    parts = [str(part.get_content()) for part in found.iter_parts()]
    return " ".join([*(f"{name}: {value}" for name, value in found.items()), *parts])


def mailbox(text: str) -> Mailbox:
    """The one mailbox that a header names (RFC 5322, and encoded words as RFC 2047 has them)."""
    ((name, address),) = getaddresses([text])
    return Mailbox(Address(address), str(make_header(decode_header(name))))


def _addresses(found: Mapping[str, str], *fields: str) -> tuple[str, ...]:
    return tuple(address for _, address in getaddresses([found[field] for field in fields if field in found]))


def _sendgrid_mailbox(found: Mapping[str, str]) -> Mailbox:
    return Mailbox(Address(found["email"]), found.get("name", ""))


# ------------------------------------------------------------------------------------------------ the vendors' clients


@frozen
class Made:
    """A request as it left: the target without its host, and the headers named in *keep*."""

    path: str
    headers: Mapping[str, str]
    body: object


async def made_by(
    client: Callable[[str], object], answer: Any, keep: Sequence[str], parse: Callable[[str], object]
) -> Made:
    """Have *client*, a provider's own program, make one call to the URL it is given, and return the call."""
    seen: list[tuple[bytes, bytes]] = []
    content = json.dumps(answer).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    async with serving(answering(head.encode() + content, seen)) as port:
        await trio.to_thread.run_sync(client, f"http://127.0.0.1:{port}")
    ((sent, body),) = seen
    target, *lines = sent.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Made(target.split()[1], {name: headers[name] for name in keep}, parse(body.decode()))


def made_here(request: httpx.Request, keep: Sequence[str], parse: Callable[[str], object]) -> Made:
    """Return a call of ours in the same form."""
    return Made(request.url.path, {name: request.headers[name] for name in keep}, parse(request.content.decode()))


def ses_reads(request: httpx.Request) -> list[Read]:
    found = json.loads(request.content)
    if "BulkEmailEntries" not in found:
        simple = found["Content"]["Simple"]
        texts = (simple["Subject"]["Data"], simple["Body"]["Text"]["Data"], simple["Body"]["Html"]["Data"])
        return [_ses_read(found, found, texts, simple["Headers"])]
    template = found["DefaultContent"]["Template"]["TemplateContent"]
    reads = []
    for entry in found["BulkEmailEntries"]:
        data = json.loads(entry["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"])
        holes = {f"{{{{{hole}}}}}": value.replace("\u2060", "") for hole, value in data.items()}
        texts = (holes[template["Subject"]], holes[template["Text"]], holes[template["Html"]])
        reads.append(_ses_read(found, entry, texts, entry["ReplacementHeaders"]))
    return reads


def _ses_read(
    call: Mapping[str, Any], entry: Mapping[str, Any], texts: tuple[str, str, str], headers: Sequence[Mapping[str, str]]
) -> Read:
    reply_to = [mailbox(address) for address in call.get("ReplyToAddresses", [])]
    subject, text, html = texts
    return Read(
        tuple(
            address for field in ("To", "Cc", "Bcc") for address in entry["Destination"].get(f"{field}Addresses", [])
        ),
        mailbox(call["FromEmailAddress"]),
        reply_to[0] if reply_to else None,
        subject,
        text,
        html,
        {header["Name"]: header["Value"] for header in headers},
    )


def ses_means(mail: Mail) -> Read:
    """SES makes a Message-ID of its own."""
    headers = {name: value for name, value in mail.headers.items() if name != "Message-ID"}
    return evolve(meant(mail), headers=headers)


def ses_answers(good: Sequence[bool]) -> httpx.Response:
    if len(good) == 1:
        error = {"message": "Address is on the suppression list: taro@example.jp"}
        bad = httpx.Response(400, json=error, headers={"x-amzn-ErrorType": "MessageRejected"})
        return httpx.Response(200, json={"MessageId": "id-0"}) if good[0] else bad
    results = [
        {"Status": "SUCCESS", "MessageId": f"id-{number}"} if accepted else {"Status": "MESSAGE_REJECTED"}
        for number, accepted in enumerate(good)
    ]
    return httpx.Response(200, json={"BulkEmailEntryResults": results})


def gmail_reads(request: httpx.Request) -> list[Read]:
    if request.url.path.endswith("/token"):
        return []
    return [_mime_read(base64.urlsafe_b64decode(json.loads(request.content)["raw"]))]


def smtp_reads(mail: Submission) -> list[Read]:
    """A mail goes to whom its envelope names; a server adds nothing for what else it names."""
    read = _mime_read(mail.content)
    envelope = [re.match("TO:<(.*?)>", recipient) for recipient in mail.recipients]
    assert (sender := re.match("FROM:<(.*?)>", mail.sender))
    assert sender[1] == read.sender.address
    return [evolve(read, to=tuple(dict.fromkeys((*(found[1] for found in envelope if found), *read.to))))]


def smtp_answers(good: Sequence[bool]) -> str:
    (accepted,) = good
    return "250 2.0.0 Ok: queued as 4Fg7Zk0" if accepted else "550 5.1.1 <taro@example.jp>: no such user"


def _mime_read(raw: bytes) -> Read:
    found = email.message_from_bytes(raw, policy=email.policy.SMTP)
    text, html = (part.get_content().replace("\r\n", "\n") for part in found.iter_parts())
    assert len(found.keys()) == len(set(found.keys())), "each header once"
    of_its_own = {"From", "To", "Cc", "Bcc", "Reply-To", "Subject", "Content-Type", "MIME-Version"}
    headers = email.message_from_bytes(raw)  # as they stand: to the newer policy an encoded word ends with a space
    return Read(
        _addresses({name: str(value) for name, value in found.items()}, "To", "Cc", "Bcc"),
        mailbox(headers["From"]),
        mailbox(headers["Reply-To"]) if "Reply-To" in headers else None,
        str(found["Subject"]),
        text,
        html,
        {name: str(value) for name, value in found.items() if name not in of_its_own},
    )


GMAIL_DATE = "Tue, 24 Nov 2026 00:00:00 +0000"
"""Of the calls of the contract's senders."""


def gmail_means(mail: Mail) -> Read:
    """Lines end as a mail's do, and it has the date of the call."""
    text, html = (part.replace("\r\n", "\n") for part in (mail.text, mail.html))
    return evolve(meant(mail), text=text, html=html, headers={**mail.headers, "Date": GMAIL_DATE})


def gmail_answers(good: Sequence[bool]) -> httpx.Response:
    (accepted,) = good
    error = {"error": {"code": 400, "message": "Invalid To header", "errors": [{"reason": "invalidArgument"}]}}
    return httpx.Response(200, json={"id": "id-0"}) if accepted else httpx.Response(400, json=error)
