"""The other end of each provider's API, by its documentation: what it reads from a call, and how it answers."""

import json
from collections.abc import Mapping, Sequence

import httpx
from attrs import frozen

from notifierd.model import Mail


@frozen
class Read:
    """A mail as a provider is going to send it."""

    to: tuple[str, ...]
    sender: str
    reply_to: str
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
            tuple(item["to"]),
            item["from"],
            item.get("reply_to", ""),
            item["subject"],
            item["text"],
            item["html"],
            item["headers"],
        )
        for item in (found if isinstance(found, list) else [found])
    ]


def resend_answers(good: Sequence[bool]) -> httpx.Response:
    if len(good) == 1:
        return httpx.Response(200, json={"id": "id-0"}) if good[0] else httpx.Response(422, json={})
    ids = [{"id": f"id-{number}"} for number, accepted in enumerate(good) if accepted]
    errors = [{"index": number, "message": "odd"} for number, accepted in enumerate(good) if not accepted]
    return httpx.Response(200, json={"data": ids, "errors": errors})
