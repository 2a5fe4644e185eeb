"""Render notices as messages. Pure: the same notice gives the same bytes, in any process.

Other programs write the names in the database, so every name passes through `text.clean` before it is used.
"""

import base64
import hashlib
import json
import re
import string
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from attrs import evolve, frozen
from markupsafe import escape

from notifierd.config.checks import ascii_url
from notifierd.config.settings import Settings
from notifierd.messages.languages import TONES, English, Japanese, Tone, count_tones, counts_of, tone_of
from notifierd.messages.text import clean, cut
from notifierd.model.address import Address, BadAddress, parse_address, parse_mailbox
from notifierd.model.delivery import LISTED, Channel, Delivery
from notifierd.model.errors import ConfigError
from notifierd.model.message import PUSH_BYTES, Mail, Push
from notifierd.model.office import Alert, Device, Kind, Notice, Staff
from notifierd.model.reasons import Reason

if TYPE_CHECKING:
    import jinja2

STAFF_ID = "{staff_id}"
"""The placeholder in ``email.list_unsubscribe`` for the staff member's id."""

NAME, SUBJECT = 60, 200
"""The most characters of a name and of a whole subject; longer ones are cut."""

AROUND = f"{string.whitespace}\u00a0\u3000\u200b\u2060\ufeff"
"""Characters that are pasted along with an address: they are stripped around it, and invalid inside it."""

NOBODY = UUID(int=0)

NEWS_LISTED = 10
"""Rule: a mail lists the first 10 changes since the last one, and counts the others: all are in the lists below them,
or counted there."""

RECENT = 16
"""The number of texts that are cached: the staff of an office mostly get the same one, one after the other."""

_A_DAY = date(2026, 11, 24)
_AN_ASSESSMENT = Alert(NOBODY, "-", Kind.ASSESSMENT, None, 1)
"""For messages that are made to see whether they can be made."""

_SOMEBODY = "\ufdd0"
"""The placeholder for the recipient's name in a cached text. It is a noncharacter, which `clean` removes from every
name."""

_ESCAPE = re.compile("%[0-9A-F]{2}")


@frozen
class Row:
    """One alert as a line of a mail: the date (empty for an assessment), the days left, and whose plan it is.

    ``cycle`` is empty where the application has no number.
    """

    when: str
    left: str
    name: str
    cycle: str


@frozen
class News:
    """What changed of one alert since the last notice: whose plan it is, and the words for it."""

    name: str
    cycle: str
    what: str


@frozen
class Group:
    """Alerts of one urgency: a heading, their number, and the ones that are listed."""

    tone: Tone
    title: str
    total: int
    rows: tuple[Row, ...]


class Renderer:
    """Renders messages in the operator's language, with the operator's own templates where there are some.

    Each of ``mail.<language>.html``, ``.txt``, ``.subject.txt`` and ``layout.html`` is looked up in
    ``content.templates`` first, then among the built-in ones.

    Raises:
        ConfigError: a template cannot be read or used, or ``push.icon`` and ``push.badge`` leave no room in a payload.
    """

    def __init__(self, settings: Settings) -> None:
        self._content, self._email, self._push, self._safety = (
            settings.content,
            settings.email,
            settings.push,
            settings.safety,
        )
        self._words: Japanese | English = English() if settings.content.language == "en" else Japanese()
        self._sender = settings.email.sender_mailbox
        self._reply_to = parse_mailbox(settings.email.reply_to) if settings.email.reply_to else None
        self._written = lru_cache(RECENT)(self._write)
        self._payloads = lru_cache(RECENT)(self._payload)
        self._details = lru_cache(RECENT)(self._audit)
        if settings.content.templates:
            self._try_out()
        self._require_room()

    @cached_property
    def _templates(self) -> "Mapping[str, jinja2.Template]":
        """The template of each part of a mail. They are loaded for the first mail, or by `load` before it."""
        from notifierd.messages.loading import load_templates  # noqa: PLC0415 - with its import, it takes 60 ms

        return load_templates(self._content.templates, self._content.language)

    def load(self) -> None:
        """Load the templates."""
        _ = self._templates

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        """Render *notice* as an email.

        Raises:
            BadAddress: no mail can be sent to the staff member.
        """
        to = self.address(notice.staff)
        name = _name(notice.staff.name, "")
        anybody = _anybody(_SOMEBODY if name else "", notice.staff.email_days)
        told = (anybody, notice.channel, notice.alerts, notice.news)
        subject, text, html = self._written(Notice(notice.day, notice.office_id, notice.office_name, *told))
        subject = subject.replace(_SOMEBODY, name)
        if self._safety.redirect_to:
            subject = f"[staff {notice.staff.id}] {subject}"
        return Mail(
            delivery_id=delivery.id,
            sender=self._sender,
            to=to,
            subject=cut(clean(subject).replace("=?", "= ?"), SUBJECT),  # RFC 2047: or a name could be an encoded word
            text=text.replace(_SOMEBODY, name),
            html=html.replace(_SOMEBODY, escape(name)),
            headers=self._headers(notice.staff, delivery),
            reply_to=self._reply_to,
        )

    def address(self, staff: Staff) -> Address:
        """Return the address for mail to *staff*.

        Raises:
            BadAddress: no mail can be sent to them.
        """
        to = (self._safety.redirect_to or staff.email or "").strip(AROUND)
        if not to:
            raise BadAddress(Reason.NO_ADDRESS)
        return parse_address(to)

    def _write(self, notice: Notice) -> tuple[str, str, str]:
        """Return subject, text and HTML for *notice*, with a placeholder for the recipient's name."""
        context = self._context(notice)
        subject, text, html = (template.render(context) for template in self._templates.values())
        return subject, text, html

    def _headers(self, staff: Staff, delivery: Delivery) -> dict[str, str]:
        key = str(delivery.id)
        headers = {
            "Message-ID": f"<{key}@{self._sender.address.rpartition('@')[2]}>",
            "X-Entity-Ref-ID": key,
            "Auto-Submitted": "auto-generated",  # RFC 3834, section 5: prevents out-of-office replies
        }
        url = self._email.list_unsubscribe
        is_personal = STAFF_ID in url
        if url and not (is_personal and self._safety.redirect_to):  # a tester must not unsubscribe another person
            url = ascii_url(url.replace(STAFF_ID, str(staff.id)))
            # RFC 3986, section 2.1: either case. SpamAssassin takes %AD for a variable of a template (3 points).
            url = _ESCAPE.sub(lambda escape: escape[0].lower(), url)
            headers["List-Unsubscribe"] = f"<{url}>"  # RFC 2369, section 3.2
            if is_personal and url.startswith("https:"):  # RFC 8058, section 3.1: the URL identifies the recipient
                headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        return headers

    def push(self, notice: Notice, delivery: Delivery, device: Device, ttl: int) -> Push:
        """Render *notice* for one device; *ttl* in seconds."""
        return Push(
            delivery_id=delivery.id,
            office_id=notice.office_id,
            device=device,
            payload=self._payload_of(notice),
            topic=_topic(notice.office_id, notice.staff.id),
            ttl=ttl,
            urgency=self._push.urgency,
        )

    def trial_mail(self, staff: Staff, day: date) -> Mail:
        """Render a mail to *staff* that says it is a trial, with alerts of invented people.

        Raises:
            BadAddress: no mail can be sent to the staff member.
        """
        mail = self.mail(self._trial_notice(NOBODY, staff, Channel.EMAIL, day), _trial(staff, Channel.EMAIL))
        return evolve(mail, subject=cut(f"{self._words.trial}{mail.subject}", SUBJECT))

    def trial_push(self, office_id: UUID, staff: Staff, device: Device, day: date, ttl: int) -> Push:
        """Render a push to *device* that says it is a trial. It replaces no other push, and *ttl* is in seconds."""
        notice = self._trial_notice(office_id, staff, Channel.PUSH, day)
        push = self.push(notice, _trial(staff, Channel.PUSH, device.id), device, ttl)
        payload = json.loads(push.payload)
        title = f"{self._words.trial}{payload['title']}"
        payload["title"] = title
        if self._push.declarative:
            payload["notification"]["title"] = title
        return evolve(push, payload=_json(payload), topic=_topic(push.delivery_id, staff.id))

    def _trial_notice(self, office_id: UUID, staff: Staff, channel: Channel, day: date) -> Notice:
        """Return a notice with one alert of each tone. The office's name says that it is a trial."""
        overdue, soon, missing = self._words.trial_names
        alerts = (
            Alert(NOBODY, overdue, Kind.RENEWAL, day - timedelta(3), 1),
            Alert(NOBODY, soon, Kind.RENEWAL, day + timedelta(7), 2),
            Alert(NOBODY, missing, Kind.ASSESSMENT, None, 1),
        )
        return Notice(day, office_id, self._words.trial_office, staff, channel, alerts)

    def audit(self, notice: Notice) -> Mapping[str, object]:
        """Return the details of the audit row: counts, threshold and office, but no address and no person's name.

        They are one object for staff with the same details, as the process remembers them for a while.
        """
        return self._details(notice.office_name, notice.threshold, notice.alerts, notice.day)

    def _audit(self, office_name: str, threshold: int, alerts: tuple[Alert, ...], day: date) -> Mapping[str, object]:
        counts = count_tones(alerts, day)
        return {
            "office_name": _name(office_name, self._words.nameless),
            "renewal_count": counts["overdue"] + counts["soon"],
            "overdue_count": counts["overdue"],
            "assessment_count": counts["missing"],
            "threshold_days": threshold,
        }

    def _payload_of(self, notice: Notice) -> bytes:
        return self._payloads(notice.office_id, notice.office_name, notice.threshold, notice.alerts, notice.day)

    def _payload(
        self, office_id: UUID, office_name: str, threshold: int, alerts: tuple[Alert, ...], day: date
    ) -> bytes:
        """Return the JSON for the application's service worker, always shorter than PUSH_BYTES."""
        office_name, counts = cut(clean(office_name), NAME), count_tones(alerts, day)
        renewals = counts["overdue"] + counts["soon"]
        pictures = {"icon": self._push.icon, "badge": self._push.badge}
        title = self._words.push_title(office_name)
        body = self._words.push_body(renewals, counts["missing"])
        payload = {
            "title": title,
            "body": body,
            **{key: url for key, url in pictures.items() if url},
            **(self._declaration(title, body, office_id) if self._push.declarative else {}),
            "requireInteraction": True,
            "data": {
                "type": "deadline_alert",
                "office_id": str(office_id),
                "office_name": office_name,
                "renewal_count": renewals,
                "assessment_count": counts["missing"],
                "push_threshold_days": threshold,
            },
        }
        return _json(payload)

    def _declaration(self, title: str, body: str, office_id: UUID) -> dict[str, object]:
        """Return what a browser needs to show the push without a service worker (Declarative Web Push).

        https://w3c.github.io/push-api/#declarative-push-message has the members, and
        https://webkit.org/blog/16535/meet-declarative-web-push/ says what they are for. Safari resolves no relative
        URL and rejects the message for one, so there is no icon: Safari shows the application's. Without ``mutable``,
        the service worker is not started. ``app_badge`` is a count of the application's own.
        """
        notification = {
            "title": title,
            "body": body,
            "navigate": self._content.dashboard_url,
            "lang": self._content.language,
            "tag": f"deadline_alert-{office_id}",  # one notification for an office, as in docs/service-worker.js
            "renotify": True,
            "requireInteraction": True,
        }
        return {"web_push": 8030, "notification": notification}

    def _context(self, notice: Notice) -> dict[str, object]:
        """Return the names that templates may use; an unknown name in a template is an error."""
        words, counts = self._words, counts_of(notice)
        listed = notice.alerts[:LISTED]
        groups = tuple(
            Group(
                tone,
                words.titles[tone],
                counts[tone],
                tuple(self._row(alert, notice.day) for alert in listed if tone_of(alert, notice.day) == tone),
            )
            for tone in TONES
            if counts[tone]
        )
        named = [alert for alert in notice.news if not alert.unlisted]
        news = tuple(self._news(alert, notice.day) for alert in named[:NEWS_LISTED])
        return {
            "office": _name(notice.office_name, words.nameless),
            "staff": notice.staff.name,
            "day": words.date(notice.day),
            "parts": words.parts(notice),
            "news": news,
            "news_unlisted": sum(alert.number for alert in notice.news) - len(news),
            "groups": groups,
            "unlisted": sum(counts.values()) - len(listed),
            "threshold": notice.threshold,
            "product": self._content.product,
            "dashboard_url": self._content.dashboard_url,
            "can_reply": bool(self._email.reply_to),
        }

    def _row(self, alert: Alert, day: date) -> Row:
        left = alert.days_left(day)
        return Row(
            when=self._words.date(alert.due_on) if alert.due_on else "",
            left="" if left is None else self._words.left(left),
            name=_name(alert.recipient_name, self._words.nameless),
            cycle="" if alert.cycle is None else self._words.cycle(alert.cycle),
        )

    def _news(self, alert: Alert, day: date) -> News:
        row = self._row(alert, day)
        return News(row.name, row.cycle, self._words.news(alert.days_left(day) or 0))

    def _try_out(self) -> None:
        """Render notices that take every branch, so that a bad template is found at start, and not during the run.

        Only the operator's own templates are tried out. Tests render the built-in ones.
        """
        from notifierd.messages.loading import complaining  # noqa: PLC0415 - see `_templates`

        days = (-1, 0, 1, *[9] * LISTED)
        renewals = tuple(Alert(NOBODY, "-", Kind.RENEWAL, _A_DAY + timedelta(left), 1) for left in days)
        staff = Staff(NOBODY, "-", "-@example.jp", email_enabled=True, email_days=30, push_enabled=True, push_days=10)
        for shown in (renewals, (_AN_ASSESSMENT,)):
            notice = Notice(_A_DAY, NOBODY, "-", staff, Channel.EMAIL, shown, shown)
            with complaining():
                self.mail(notice, Delivery(NOBODY, NOBODY, NOBODY, Channel.EMAIL))

    def _require_room(self) -> None:
        """Check that the longest payload fits: four bytes a character are the most, and a text may count both kinds."""
        alerts = Alert(NOBODY, "-", Kind.RENEWAL, _A_DAY, 1), _AN_ASSESSMENT
        longest = self._payload(NOBODY, "🌸" * NAME, 30, alerts, _A_DAY)
        if len(longest) > PUSH_BYTES - 100:  # room for the numbers
            keys = "push.icon, push.badge" + ", content.dashboard_url" * self._push.declarative
            raise ConfigError((f"{keys}: too long for a payload of {PUSH_BYTES} bytes",))


def _json(payload: object) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _trial(staff: Staff, channel: Channel, device_id: UUID | None = None) -> Delivery:
    """Return a delivery that is in no ledger, with an id of its own."""
    return Delivery(uuid4(), NOBODY, staff.id, channel, device_id)


@lru_cache
def _anybody(name: str, email_days: int) -> Staff:
    """Return a staff member with a placeholder name, who stands for all that get the same text."""
    return Staff(UUID(int=0), name, None, email_enabled=True, email_days=email_days, push_enabled=True, push_days=0)


def _topic(office_id: UUID, staff_id: UUID) -> str:
    """Return 32 characters of base64url: a later notice for the same office and staff member replaces this one."""
    digest = hashlib.sha256(office_id.bytes + staff_id.bytes).digest()
    return base64.urlsafe_b64encode(digest[:24]).decode()


def _name(text: str, nameless: str) -> str:
    return cut(clean(text), NAME) or nameless
