"""What Amazon SES tells of mails: by the events in a queue, by GetMessageInsights, or by both.

https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html and
.../APIReference-V2/API_GetMessageInsights.html.
"""

import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import datetime
from enum import Enum
from itertools import islice
from types import MappingProxyType
from urllib.parse import quote
from uuid import UUID

import trio
from attrs import evolve, frozen

from notifierd.config.providers import SesSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, message_id, text
from notifierd.send._http import Client
from notifierd.send.feedback import Keep, Look, Looked
from notifierd.send.feedback._aws import BATCH, Queue, SesApi, failure
from notifierd.send.feedback._reading import (
    MOST_MAILS,
    Failed,
    ask,
    code_in,
    more_specific,
    not_permanent,
    permanent,
    recipient,
)
from notifierd.send.mail.ses import error_of

MOST_RECEIVES = 3 * MOST_MAILS // BATCH
"""Of one mail come up to three events: sent, delayed or delivered, and bounced or complained of."""

MOST_INSIGHTS = 3000
"""Mails that one look asks for one by one: as many as an hour has turns."""

MOST_CUTS = 20
"""The most answers of a look at the queue that are too long to be read. A message in such an answer is hidden for a
while, so that the next answer has others."""

INSIGHTS_SECONDS = 1.0
"""Seconds before each call: .../API_GetMessageInsights.html allows one a second."""

LISTED = frozenset({"suppressed", "onaccountsuppressionlist"})
"""The subtypes of bounces and complaints of mails that SES did not send: the address is on the global suppression list,
or on the account's (https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html#bounce-types)."""

STATUSES = MappingProxyType(
    {
        "delivery": MailStatus.DELIVERED,
        "open": MailStatus.DELIVERED,
        "click": MailStatus.DELIVERED,
        "deliverydelay": MailStatus.DELAYED,
        "reject": MailStatus.REFUSED,
        "renderingfailure": MailStatus.REFUSED,
    }
)
"""The other types of events that tell something, as `_word` writes them."""

ENFORCED = frozenset({"PROBATION", "SHUTDOWN"})
"""What EnforcementStatus is if SES restricts the account (.../APIReference-V2/API_GetAccount.html)."""

NO_MAIL = "0000000000000000-00000000-0000-0000-0000-000000000000-000000"
"""An id in SES' form that no mail has."""

SET_UP = "Successfully validated SNS topic for Amazon SES event publishing."
"""The message that SES publishes when a topic becomes an event destination. It is no JSON."""


class SesFeedback:
    """The events of the mails, as the settings say where they are.

    A message of the queue is deleted once its verdict is kept, or if it is an event of somebody else's mail. A message
    that is no event of SES stays, and makes the look incomplete: the queue may be the wrong one.
    """

    name = "ses"
    tells: AbstractSet[MailStatus] = frozenset(MailStatus)

    def __init__(
        self, client: Client, settings: SesSettings, *, now: Callable[[], datetime], pace: float = INSIGHTS_SECONDS
    ) -> None:
        self._api, self._pace = SesApi(client, settings, now), pace
        self._queue = Queue(client, settings, now) if settings.feedback_queue else None
        self._insights = settings.feedback_insights

    async def look(self, look: Look, keep: Keep) -> Looked:
        reasons = [
            await self._read_queue(self._queue, look, keep) if self._queue else "",
            await self._ask_insights(look, keep) if self._insights else "",
        ]
        account = await self._account()
        enforcement = "" if isinstance(account, Failed) else account.enforcement
        return Looked(next(filter(None, reasons), ""), enforcement)

    async def probe(self) -> str:
        if self._queue and (reason := await self._queue.probe()):
            return reason
        account = await self._account()
        if isinstance(account, Failed):
            return account.reason
        if not self._insights:
            return ""
        if not account.has_insights:
            return Reason.NO_RIGHT.of("VirtualDeliverabilityManager")
        found = await self._insight(NO_MAIL, None)
        return found.reason if isinstance(found, Failed) else ""

    async def _read_queue(self, queue: Queue, look: Look, keep: Keep) -> str:
        """Read the queue until it is empty; return the code of the reason why something is left, "" if nothing is."""
        left, cuts = "", 0
        for _ in range(MOST_RECEIVES):
            messages = await queue.receive()
            if isinstance(messages, Failed):
                return messages.reason
            if messages is None:
                left, cuts = Reason.UNREADABLE, cuts + 1
                if cuts > MOST_CUTS:
                    return left
                continue
            if not messages:
                return left
            read = [(message, read_event(message.body, look)) for message in messages]
            if verdicts := [found for _, found in read if isinstance(found, Verdict)]:
                await keep(verdicts)
            if any(found is Other.UNREADABLE for _, found in read):
                left = Reason.UNREADABLE
            settled = [message for message, found in read if found not in {Other.UNREADABLE, Other.TOO_EARLY}]
            if settled and (reason := await queue.delete(settled)):
                return reason
        return Reason.TOO_MANY

    async def _ask_insights(self, look: Look, keep: Keep) -> str:
        for sent_id in islice(look.sent, MOST_INSIGHTS):
            await trio.sleep(self._pace)
            found = await self._insight(sent_id, look.sent[sent_id])
            if isinstance(found, Failed):
                return found.reason
            if found:
                await keep([found])
        return Reason.TOO_MANY if len(look.sent) > MOST_INSIGHTS else ""

    async def _insight(self, sent_id: str, delivery_id: UUID | None) -> Verdict | Failed | None:
        """Return what SES says of one mail; None if nothing happened to it yet, or SES does not know it."""
        call = self._api.get(f"/v2/email/insights/{quote(sent_id, safe='')}/")
        return await ask(call, lambda answer: _read_insight(answer, delivery_id))

    async def _account(self) -> "_Account | Failed":
        return await ask(self._api.get("/v2/email/account"), _read_account)


class Other(Enum):
    """A message of the queue without a verdict for us."""

    NOTHING = "nothing"
    """An event that tells nothing of a mail that is asked about."""
    TOO_EARLY = "too early"
    """An event of a mail that was sent after the look began, and may be one of ours."""
    UNREADABLE = "unreadable"
    """No event of SES."""


def read_event(body: str, look: Look) -> Verdict | Other:
    """Return what a message of the queue tells: an event, or SNS' envelope around one.

    Without raw delivery, the event is a text in the envelope (https://docs.aws.amazon.com/sns/latest/dg/
    sns-sqs-as-subscriber.html). A mail whose answer was lost is found by its header.
    """
    found = _json(body)
    if get(found, "Type") == "Notification":
        inner = get(found, "Message")
        body, found = text(inner), _json(inner) if isinstance(inner, str) else inner
    kind = _word(get(found, "eventType") or get(found, "notificationType"))
    mail = get(found, "mail")
    if not isinstance(mail, dict):
        is_notice = body.strip() == SET_UP or kind == "amazonsnssubscriptionsucceeded"
        return Other.NOTHING if is_notice else Other.UNREADABLE
    sent_id = message_id(mail.get("messageId"))
    if not kind or sent_id is None:
        return Other.UNREADABLE
    delivery_id, found_by_header = look.sent.get(sent_id), ""
    if delivery_id is None:
        delivery_id, found_by_header = _by_header(mail.get("headers"), look), sent_id
    if delivery_id is None:
        return Other.TOO_EARLY if _is_after(mail.get("timestamp"), look.until) else Other.NOTHING
    verdict = _verdict(delivery_id, kind, found)
    return evolve(verdict, message_id=found_by_header) if verdict else Other.NOTHING


def _json(body: str) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        return None


def _word(found: object) -> str:
    """Return a type as events and insights spell it: ``DeliveryDelay``, ``Rendering Failure``, ``DELIVERY_DELAY``."""
    return text(found)[:LONGEST_WORD].lower().replace(" ", "").replace("_", "")


LONGEST_WORD = 60


def _by_header(headers: object, look: Look) -> UUID | None:
    """Return the delivery of a mail whose answer was lost: X-Entity-Ref-ID is its id."""
    for header in headers if isinstance(headers, list) else []:
        if text(get(header, "name")).lower() == "x-entity-ref-id":
            try:
                delivery_id = UUID(text(get(header, "value")))
            except ValueError:
                continue
            if delivery_id in look.unknown:
                return delivery_id
    return None


def _is_after(found: object, until: datetime) -> bool:
    try:
        at = datetime.fromisoformat(text(found)[:40].replace(" ", ""))  # "2018-10-08T14:05:45 +0000" occurs, too
    except ValueError:
        return False
    return at.tzinfo is not None and at > until


def _verdict(delivery_id: UUID, kind: str, event: object) -> Verdict | None:
    """Return what an event tells of a mail; each of ours has one recipient."""
    match kind:
        case "bounce":
            bounce = get(event, "bounce")
            who = _first(get(bounce, "bouncedRecipients"))
            code = more_specific(code_in(get(who, "status")), code_in(get(who, "diagnosticCode")))
            has_report = any(get(who, name) for name in ("action", "status", "diagnosticCode"))
            status = _of_bounce(get(bounce, "bounceType"), get(bounce, "bounceSubType"), code, has_report=has_report)
        case "complaint":
            complaint = get(event, "complaint")
            who, code = _first(get(complaint, "complainedRecipients")), ""
            status = _of_complaint(get(complaint, "complaintSubType"), get(complaint, "complaintFeedbackType"))
        case "deliverydelay":
            who = _first(get(get(event, "deliveryDelay"), "delayedRecipients"))
            status, code = MailStatus.DELAYED, code_in(get(who, "status"))
        case "delivery":
            who = {"emailAddress": _first(get(get(event, "delivery"), "recipients"))}
            status, code = MailStatus.DELIVERED, ""
        case _:
            who, status, code = None, STATUSES.get(kind), ""
    return Verdict(delivery_id, status, code, recipient(get(who, "emailAddress"))) if status else None


def _first(found: object) -> object:
    return found[0] if isinstance(found, list) and found else None


def _of_bounce(kind: object, subtype: object, code: str, *, has_report: bool) -> MailStatus | None:
    """Return what a bounce means; None for an automatic answer, such as that somebody is out of the office.

    SES reports automatic answers as Transient and General, without the fields of a delivery status notification
    (https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html#bounce-types).
    """
    match _word(kind), _word(subtype):
        case _, listed if listed in LISTED:
            return MailStatus.SUPPRESSED
        case "permanent", "noemail":
            return MailStatus.BOUNCED
        case "permanent", _:
            return permanent(code)
        case "transient", "general" if not has_report:
            return None
        case (("transient" | "undetermined"), _):
            return not_permanent(code)
        case _:
            return None


def _of_complaint(subtype: object, feedback: object) -> MailStatus | None:
    """Return what a complaint means; None if it takes one back (the same page, complaint object)."""
    if _word(subtype) in LISTED:
        return MailStatus.SUPPRESSED
    return None if _word(feedback) == "not-spam" else MailStatus.COMPLAINED


def _read_insight(answer: Answer, delivery_id: UUID | None) -> Verdict | Failed | None:
    insight = get(answer.json(), "Insights")
    if answer.status == 404 and error_of(answer)[0] == "NotFoundException":  # noqa: PLR2004 - Not Found
        return None
    if answer.status != 200 or not isinstance(insight, list):  # noqa: PLR2004 - OK
        return failure(answer, "ses:GetMessageInsights")
    events = get(_first(insight), "Events")
    found = [one for event in (events if isinstance(events, list) else []) if (one := _of_insight(event))]
    if delivery_id is None or not found:
        return None
    status, code = max(found, key=lambda one: one[0].severity)
    return Verdict(delivery_id, status, code, recipient(get(_first(insight), "Destination")))


def _of_insight(event: object) -> tuple[MailStatus, str] | None:
    """Return the status that an event of an insight tells, and the code."""
    details, code = get(event, "Details"), ""
    match _word(get(event, "Type")):
        case "bounce":
            bounce = get(details, "Bounce")
            said = get(bounce, "DiagnosticCode")
            code = code_in(said)
            status = _of_bounce(get(bounce, "BounceType"), get(bounce, "BounceSubType"), code, has_report=bool(said))
        case "complaint":
            complaint = get(details, "Complaint")
            status = _of_complaint(get(complaint, "ComplaintSubType"), get(complaint, "ComplaintFeedbackType"))
        case kind:
            status = STATUSES.get(kind)
    return (status, code) if status else None


@frozen
class _Account:
    """The account's state: *enforcement* is empty unless SES restricts it."""

    enforcement: str
    has_insights: bool


def _read_account(answer: Answer) -> _Account | Failed:
    found = answer.json()
    status = get(found, "EnforcementStatus")
    if answer.status != 200 or not isinstance(status, str):  # noqa: PLR2004 - OK
        return failure(answer, "ses:GetAccount")
    has_insights = get(get(found, "VdmAttributes"), "VdmEnabled") == "ENABLED"
    return _Account(status.lower() if status in ENFORCED else "", has_insights)
