"""The formats of the webhook: an alarm becomes one HTTP request, and its answer is read as the receiver means it.

- slack: a ``text`` and one attachment with fields for programs, as Slack's incoming webhooks read it, and those of
  Mattermost and Rocket.Chat: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
  https://developers.mattermost.com/integrate/webhooks/incoming/
- teams: an Adaptive Card for a webhook of the Workflows app in Teams, which answers 202. The connectors of Office 365
  that had webhooks before are retired:
  https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
- chatwork: a message by the token of an account, answered by 200 with its id:
  https://developer.chatwork.com/reference/post-rooms-room_id-messages
- lineworks: a message through the Incoming Webhook app: https://developers.worksmobile.com/jp/docs/webhook
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from html import escape
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from attrs import evolve, field, frozen

from notifierd.config.settings import WatchSettings, WebhookFormat
from notifierd.model.message import AlarmMessage
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, of_receiver
from notifierd.send._waits import parse_number, within_bounds

LONGEST: Final = 2000
"""The most characters of a text: a bot of LINE WORKS takes no more
(https://developers.worksmobile.com/jp/docs/bot-send-text). A card of Teams takes 28 KB
(https://learn.microsoft.com/connectors/teams/#known-issues-and-limitations-with-actions); Chatwork took 40,000, and
refused 80,000."""

LONGEST_TITLE: Final = 150
"""The most characters of a title."""

JSON, FORM = "application/json", "application/x-www-form-urlencoded"


@frozen
class Request:
    """A POST to the webhook. Its headers may hold a token."""

    headers: Mapping[str, str] = field(repr=False)
    body: bytes


def request_of(message: AlarmMessage, watch: WatchSettings) -> Request:
    """Return *message* in the format that *watch* names."""
    if watch.format == "chatwork":
        headers = {"Content-Type": FORM, TOKEN_HEADER: watch.webhook_token}
        return Request(headers, urlencode({"body": _chatwork(message), "self_unread": "1"}).encode())
    return Request({"Content-Type": JSON}, json.dumps(_BODIES[watch.format](message)).encode())


TOKEN_HEADER = "X-ChatWorkToken"  # noqa: S105 - the name of a header
"""https://developer.chatwork.com/docs/endpoints"""


def of_webhook(answer: Answer, now: datetime, form: WebhookFormat) -> Outcome:
    """Return what an answer means to a post in the format *form*.

    A 2xx without what the receiver says to a message that it accepted comes from something else on the way.
    """
    outcome = of_receiver(answer, now)
    match form, outcome:
        case ("chatwork", Delivered()) if not get(answer.json(), "message_id"):
            return Deferred(Reason.NOT_THE_PROVIDER.of(answer.status), blame=Blame.PATH)
        case _, Deferred(retry_after=None) as deferred if answer.status == 429:  # noqa: PLR2004 - RFC 6585, section 4
            return evolve(deferred, retry_after=_until_reset(answer, now, form))
    return outcome


def _until_reset(answer: Answer, now: datetime, form: WebhookFormat) -> float | None:
    """Return the seconds until the receiver takes further messages, where its limit has headers of its own.

    Chatwork names a Unix time: 300 calls in five minutes, and 10 messages in ten seconds to a room
    (https://developer.chatwork.com/docs/endpoints). LINE WORKS names seconds
    (https://developers.worksmobile.com/jp/docs/rate-limits).
    """
    if form == "chatwork":
        reset = parse_number(answer.headers.get("x-ratelimit-reset", ""))
        return None if reset is None else within_bounds(reset - now.timestamp())
    return within_bounds(parse_number(answer.headers.get("ratelimit-reset", ""))) if form == "lineworks" else None


def room_url(webhook_url: str) -> str:
    """Return the URL of the room of Chatwork that *webhook_url* posts to; "" if it is no such URL."""
    return webhook_url.removesuffix("/messages") if _ROOM.fullmatch(urlsplit(webhook_url).path) else ""


def of_room(answer: Answer, now: datetime) -> tuple[Outcome, tuple[str, ...]]:
    """Return what the room's answer says about the token, and notes.

    https://developer.chatwork.com/reference/get-rooms-room_id
    """
    outcome = of_receiver(answer, now)
    if isinstance(outcome, Rejected):  # 404: the account is no member of the room
        outcome = Blocked(Reason.BLOCKED.of(answer.status))
    if isinstance(outcome, Delivered) and not get(answer.json(), "room_id"):
        outcome = Deferred(Reason.NOT_THE_PROVIDER.of(answer.status), blame=Blame.PATH)
    may_only_read = isinstance(outcome, Delivered) and get(answer.json(), "role") == "readonly"
    return outcome, ("the account may only read in this room",) * may_only_read


_ROOM = re.compile(r"/v2/rooms/[0-9]{1,20}/messages")

_RECEIVERS: Final[Mapping[str, tuple[WebhookFormat, ...]]] = {
    "hooks.slack.com": ("slack",),
    "api.chatwork.com": ("chatwork",),
    "webhook.worksmobile.com": ("lineworks",),
    "logic.azure.com": ("teams",),
    "api.powerplatform.com": ("teams",),
    "webhook.office.com": (),
    "outlook.office.com": (),
}
"""The formats that a receiver understands, by its domain; none: it is retired. Workflows of Teams get their URLs from
Power Automate, which moved them from the first of these domains of Microsoft's to the second in 2025."""


def mismatch(watch: WatchSettings) -> str:
    """Return what is wrong with the format for the receiver that the URL names; "" if nothing is."""
    host = urlsplit(watch.webhook_url).hostname or ""
    if watch.format == "chatwork" and watch.webhook_url and not room_url(watch.webhook_url):
        return "does not end in /v2/rooms/ROOM/messages, as a room of Chatwork does"
    for domain, formats in _RECEIVERS.items():
        if host == domain or host.endswith(f".{domain}"):
            if not formats:
                return "is a connector of Office 365; they are retired: make a webhook with the Workflows app in Teams"
            if watch.format not in formats:
                named = " or ".join(f'watch.format = "{each}"' for each in formats)
                return f'does not understand watch.format = "{watch.format}": write {named}'
    return ""


# ------------------------------------------------------------------------------------------------------- the bodies


def _slack(message: AlarmMessage) -> dict[str, Any]:
    alarm = message.alarm
    fields = {"Day": str(alarm.day), "Cause": alarm.cause, "Host": _slack_text(message.host)}
    return {
        "text": message.body(LONGEST, lambda text: _slack_text(f"notifierd: {text}")),
        "attachments": [
            {
                "fallback": f"{alarm.day} {alarm.cause}",
                "color": "danger" if alarm.fails else "warning",
                "fields": [{"title": title, "value": value, "short": True} for title, value in fields.items()],
            }
        ],
    }


def _slack_text(text: str) -> str:
    """Escape what Slack reads as markup, and replace ``@``, by which Mattermost and Rocket.Chat call people.

    https://docs.slack.dev/messaging/formatting-message-text#escaping,
    https://docs.mattermost.com/end-user-guide/collaborate/mention-people.html
    """
    return escape(text, quote=False).replace("@", "＠")


def _teams(message: AlarmMessage) -> dict[str, Any]:
    """Return a message with a card. The text of a block is Markdown, where a single line break is none.

    https://learn.microsoft.com/connectors/teams/#request-body-schema
    """
    color = "Attention" if message.alarm.fails else "Warning"
    title = {"text": _plain(_title(message)), "weight": "Bolder", "size": "Medium", "color": color}
    text = {"text": message.body(LONGEST, lambda words: _plain(words).replace("\n", "\n\n"))}
    facts = [{"title": label, "value": _plain(fact)} for label, fact in message.facts.items()]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            *({"type": "TextBlock", "wrap": True, **block} for block in (title, text)),
            {"type": "FactSet", "facts": facts},
        ],
        "msteams": {"width": "Full"},
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _chatwork(message: AlarmMessage) -> str:
    """Return a message in a frame with a title.

    https://developer.chatwork.com/docs/message-notation
    """
    facts = "\n".join(f"{label}: {_plain(fact)}" for label, fact in message.facts.items())
    return f"[info][title]{_plain(_title(message))}[/title]{message.body(LONGEST, _plain)}[hr]{facts}[/info]"


def _lineworks(message: AlarmMessage) -> dict[str, Any]:
    facts = "\n".join(f"{label}: {_plain(fact)}" for label, fact in message.facts.items())
    text = message.body(LONGEST - len(facts) - 1, _plain)
    return {"title": _plain(_title(message)), "body": {"text": f"{text}\n{facts}"}}


def _title(message: AlarmMessage) -> str:
    return f"notifierd: {message.title}"[:LONGEST_TITLE]


def _plain(text: str) -> str:
    """Replace characters that a receiver reads as markup, or as a call to a person, by their full-width forms."""
    return text.translate(_FULL_WIDTH)


_FULL_WIDTH = str.maketrans("[]*<", "［］＊＜")
"""Brackets for Chatwork (``[toall]``) and for links in cards, asterisks for cards, ``<`` for mentions of LINE WORKS."""

_BODIES: Final[Mapping[WebhookFormat, Callable[[AlarmMessage], dict[str, Any]]]] = {
    "slack": _slack,
    "teams": _teams,
    "lineworks": _lineworks,
}
