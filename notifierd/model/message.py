"""Messages that are ready for a provider; an alarm, and its message that is ready for the operator's webhook."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import date
from uuid import UUID

from attrs import Factory, field, frozen

from notifierd.model.address import Address, Mailbox
from notifierd.model.office import Device

PUSH_BYTES = 2641
"""The longest plaintext that every device accepts: its encrypted record has 2,744 bytes. Push services must accept
4,096 (RFC 8291, section 4), but those for Firefox on Android do not:
https://mozilla-services.github.io/autopush-rs/http.html"""

PUSH_SIZES = (560, 1280, PUSH_BYTES)
"""The lengths that pushes are padded to: a push service cannot read them, but sees how long they are.

Measured: payloads have 298 to 552 bytes for office names of 1 to 35 characters, and with ``push.declarative`` 574 to
1,185 for names of 3 to 60. Emoji, long URLs and the longest names without it take more.
"""


@frozen
class Mail:
    """One email, ready for a provider.

    Attributes:
        to: the staff member's address, or ``safety.redirect_to``.
        headers: further headers, as ``Message-ID`` and ``Auto-Submitted``; ASCII, one line each.
    """

    delivery_id: UUID
    sender: Mailbox
    to: Address = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    headers: Mapping[str, str]
    reply_to: Mailbox | None = None


@frozen
class Push:
    """One Web Push message before encryption.

    Attributes:
        payload: UTF-8 JSON, at most 3,993 bytes (RFC 8291 in one 4,096-byte record); PUSH_BYTES is stricter.
        topic: at most 32 characters of base64url (RFC 8030, section 5.4): a later message replaces an earlier one.
        ttl: seconds for which the push service keeps it (RFC 8030, section 5.2).
    """

    delivery_id: UUID
    office_id: UUID
    device: Device
    payload: bytes = field(repr=False)
    topic: str
    ttl: int
    urgency: str = "normal"


Message = Mail | Push


@frozen
class Alarm:
    """An alarm about a day, before it is put into words. It names offices by their ids, and no person.

    Attributes:
        cause: a code; a day has at most one alarm of each cause.
        kind: the name of its text in messages/alarms.py.
        values: what the text mentions, by name.
        offices: the offices that it concerns, the worst first.
        fails: whether the day has no completed run; the dead man's switch is then told, too.
    """

    day: date
    cause: str
    kind: str
    values: Mapping[str, object] = Factory(dict)
    offices: tuple[UUID, ...] = ()
    fails: bool = False


@frozen
class AlarmMessage:
    """An alarm in the operator's language, ready for the webhook.

    Attributes:
        host: the machine that raised it.
        title: what happened, in a few words.
        text: what happened and how many it concerns, then what to do.
        offices: a heading, the ids of the first offices, and how many more there are; empty if it concerns none.
        look: where to look.
        labels: the names of the day, the cause and the host.
    """

    alarm: Alarm
    host: str
    title: str
    text: str
    offices: tuple[str, ...]
    look: str
    labels: tuple[str, str, str]

    @property
    def words(self) -> str:
        """The text, with the ids of the offices."""
        return "\n".join([self.text, *self.offices])

    @property
    def facts(self) -> Mapping[str, str]:
        """The day, the cause and the host, by their labels."""
        return dict(zip(self.labels, (str(self.alarm.day), self.alarm.cause, self.host), strict=True))

    def body(self, longest: int, write: Callable[[str], str] = str) -> str:
        """Return the words and where to look, as *write* makes them, with at most *longest* characters.

        If there are more, the text is cut: the offices and where to look have at most 1,200.
        """
        after = "".join(f"\n{line}" for line in (*self.offices, self.look))
        whole = write(self.text + after)
        if len(whole) <= longest:
            return whole
        room = longest - len(write(f"…{after}"))
        fitting = bisect_right(range(1, len(self.text) + 1), room, key=lambda end: len(write(self.text[:end])))
        return write(f"{self.text[:fitting]}…{after}")
