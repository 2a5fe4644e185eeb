"""SendGrid's email logs: https://www.twilio.com/docs/sendgrid/api-reference/email-logs."""

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson
import trio

from notifierd.config.providers import SendgridSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, message_id, text
from notifierd.send._http import Client
from notifierd.send._words import About
from notifierd.send.feedback import Keep, Look, Looked
from notifierd.send.feedback._reading import (
    Failed,
    ask,
    code_in,
    is_cut,
    no_answer,
    not_permanent,
    permanent,
    recipient,
    worst,
)

FAILURES = "status IN ('bounced', 'blocked', 'dropped')"

PAGE_SIZE = 500
"""Entries of one answer, of which SendGrid allows 1,000. So an entry may have two kilobytes before an answer is longer
than what is read of it."""

REQUESTS = 400
"""The most requests of one look for failed mails: enough for 50,000 of them, in slices that were halved."""

CUTS = 20
"""The most answers of a look that are too long to be read: so often, four days can be halved down to a second."""

REPORTS = 200
"""The most complaints of one look; SendGrid allows 500 in one answer."""

PACE = 0.5
"""Seconds between two requests. The rate of the logs is not documented."""

MAIL_LIFE = timedelta(days=4)
"""The age at which a mail's failure may still become known: SendGrid tries for 72 hours
(https://www.twilio.com/docs/sendgrid/glossary/throttling)."""

LOGS_KEPT = timedelta(days=30)

ON_A_LIST = frozenset({"bounced address", "spam reporting address", "unsubscribed address", "invalid"})
"""Reasons for which SendGrid drops a mail to an address on one of its lists
(https://docs.sendgrid.com/glossary/drops)."""


class SendgridFeedback:
    """Asks for failed mails by the time at which they were sent, and for complaints by the time of their report.

    The logs have neither pages nor a documented order. A full answer may therefore be cut: its slice of time is halved
    until each answer has room. Deliveries are not asked for, because they would take a hundred times as many requests.
    Therefore delays are not asked for either: nobody would notice their end.

    The logs' status does not show a complaint. The list of complaints names addresses only, so for each of them the
    logs say which mails they got, and which of these was reported.
    """

    name = "sendgrid"
    tells: AbstractSet[MailStatus] = frozenset(
        {MailStatus.BOUNCED, MailStatus.REFUSED, MailStatus.SUPPRESSED, MailStatus.COMPLAINED}
    )

    def __init__(
        self, client: Client, settings: SendgridSettings, *, now: Callable[[], datetime], pace: float = PACE
    ) -> None:
        self._client, self._now, self._pace, self._url = client, now, pace, settings.base_url
        self._headers = {"Authorization": f"Bearer {settings.feedback_key}", "Content-Type": "application/json"}

    async def look(self, look: Look, keep: Keep) -> Looked:
        return Looked(await self._failures(look, keep) or await self._complaints(look, keep))

    async def probe(self) -> str:
        now = self._now()
        logs = await self._logs(f"{FAILURES} AND {_sent(_seconds(now) - 3600, _seconds(now))}", 1)
        if isinstance(logs, Failed):
            return logs.reason
        reports = await self._reports(now - timedelta(hours=1), now, 1)
        return reports.reason if isinstance(reports, Failed) else ""

    async def _failures(self, look: Look, keep: Keep) -> str:
        """Keep what failed; return why something is missing, or ""."""
        incomplete, cuts = "", 0
        slices = [(_seconds(look.since - MAIL_LIFE), _seconds(look.until) + 1)]
        for _ in range(REQUESTS):
            if not slices:
                return incomplete
            begin, end = slices.pop()
            entries = await self._logs(f"{FAILURES} AND {_sent(begin, end)}", PAGE_SIZE)
            if isinstance(entries, Failed):
                return entries.reason
            if verdicts := worst(_verdict(entry, look.sent) for entry in entries or []):
                await keep(verdicts)
            cuts += entries is None
            if cuts > CUTS:
                return Reason.UNREADABLE
            if entries is None or len(entries) >= PAGE_SIZE:
                middle = (begin + end) // 2
                if middle == begin:  # a second; the other slices are asked for all the same
                    incomplete = Reason.TOO_MANY
                else:
                    slices += [(begin, middle), (middle, end)]
            await trio.sleep(self._pace)
        return Reason.TOO_MANY

    async def _complaints(self, look: Look, keep: Keep) -> str:
        """Keep which mails were reported as spam; return why something is missing, or ""."""
        reports = await self._reports(look.since, look.until, REPORTS)
        if isinstance(reports, Failed):
            return reports.reason
        addresses = {recipient(get(report, "email")) for report in reports}
        for address in sorted(filter(_ADDRESS.fullmatch, addresses)):
            if incomplete := await self._complaint(address, look, keep):
                return incomplete
        return Reason.TOO_MANY if len(reports) >= REPORTS else ""

    async def _complaint(self, address: str, look: Look, keep: Keep) -> str:
        """Keep which mails to *address* were reported as spam; return why something is missing, or ""."""
        begin, end = _seconds(look.until - LOGS_KEPT), _seconds(look.until) + 1
        entries = await self._logs(f'to_email = "{address}" AND {_sent(begin, end)}', PAGE_SIZE)
        if entries is None or isinstance(entries, Failed):
            return entries.reason if entries else Reason.TOO_MANY
        for entry in entries:
            named = message_id(get(entry, "sg_message_id")) or ""
            delivery_id = _delivery(named, look.sent)
            if delivery_id is not None:
                await trio.sleep(self._pace)
                url = f"{self._url}/v3/logs/{quote(named, safe='')}"
                was_reported = await ask(self._client.get(url, self._headers), _read_events)
                if isinstance(was_reported, Failed):
                    return was_reported.reason
                if was_reported:
                    await keep([Verdict(delivery_id, MailStatus.COMPLAINED, address=address)])
        await trio.sleep(self._pace)
        return Reason.TOO_MANY if len(entries) >= PAGE_SIZE else ""

    async def _logs(self, query: str, limit: int) -> list[object] | Failed | None:
        """Return mails in the logs; None if they are too long to be read."""
        body = orjson.dumps({"query": query, "limit": limit})
        call = self._client.post(f"{self._url}/v3/logs", body, self._headers)
        return await ask(call, lambda answer: None if is_cut(answer) else _read_logs(answer))

    async def _reports(self, since: datetime, until: datetime, limit: int) -> list[object] | Failed:
        times = {"start_time": _seconds(since), "end_time": _seconds(until) + 1, "limit": limit}
        url = f"{self._url}/v3/suppression/spam_reports?{urlencode(times)}"
        return await ask(self._client.get(url, self._headers), _read_reports)


_ADDRESS = re.compile(r"[\w.!#$%&*+/=?^`{|}~-]+@[\w.-]+")
"""Addresses that can stand in a query, between double quotes."""


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _sent(begin: int, end: int) -> str:
    """Return the condition of a query for mails that were sent from *begin* until before *end*."""
    first, last = (datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for time in (begin, end))
    return f'sg_message_id_created_at >= TIMESTAMP "{first}" AND sg_message_id_created_at < TIMESTAMP "{last}"'


def _read_logs(answer: Answer) -> list[object] | Failed:
    """Return the mails in an answer of the logs, or why there are none."""
    return _listed(answer, get(answer.json(), "messages"), "email_activity")


def _read_reports(answer: Answer) -> list[object] | Failed:
    """Return the complaints in an answer, or why there are none."""
    return _listed(answer, answer.json(), "suppressions")


def _read_events(answer: Answer) -> bool | Failed:
    """Return whether a mail was reported as spam, or why that is not known."""
    events = _listed(answer, get(answer.json(), "events"), "email_activity")
    return events if isinstance(events, Failed) else any(get(event, "event") == "spamreport" for event in events)


def _listed(answer: Answer, found: object, right: str) -> list[object] | Failed:
    if answer.status == 200 and isinstance(found, list) and all(isinstance(item, dict) for item in found):  # noqa: PLR2004 - OK
        return found
    errors = get(answer.json(), "errors")
    return no_answer(answer, About.NOTHING if isinstance(errors, list) else None, right)


def _verdict(entry: object, sent: Mapping[str, UUID]) -> Verdict | None:
    """Return what *entry* reports of a mail of ours; None if it reports nothing of that kind."""
    delivery_id = _delivery(message_id(get(entry, "sg_message_id")) or "", sent)
    reason = text(get(entry, "reason"))
    if delivery_id is None:
        return None
    code, address = code_in(reason), recipient(get(entry, "to_email"))
    match get(entry, "status"):
        case "bounced":
            return Verdict(delivery_id, permanent(code), code, address)
        case "blocked":
            return Verdict(delivery_id, not_permanent(code), code, address)
        case "dropped" if reason.strip().lower() in ON_A_LIST:
            return Verdict(delivery_id, MailStatus.SUPPRESSED, "", address)
        case "dropped":
            return Verdict(delivery_id, MailStatus.REFUSED, code, address)
        case _:
            return None


def _delivery(named: str, sent: Mapping[str, UUID]) -> UUID | None:
    """Return the delivery of a mail by its id in the logs.

    That id begins with the X-Message-Id that SendGrid answered when it accepted the mail, and a dot
    (https://support.sendgrid.com/hc/en-us/articles/35804743679259). Such an id may itself have dots.
    """
    parts = named.split(".", LONGEST_ID)
    starts = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((sent[start] for start in starts if start in sent), None)


LONGEST_ID = 8
"""The parts of an id in the logs that are looked at; the longest ones have five."""
