"""``notifierd test``: send one message that says it is a trial, and report what the provider answered.

Nothing is written: no row of the ledger, no audit row, and a device that is gone stays in the application.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from typing import Any, assert_never
from uuid import UUID, uuid4

import trio
from attrs import evolve, frozen

from notifierd.commands.providers.connect import explained, reason_of
from notifierd.config.load import missing_for_sending
from notifierd.config.settings import Settings
from notifierd.messages.render import NOBODY, Renderer
from notifierd.model.address import BadAddress
from notifierd.model.errors import ConfigError
from notifierd.model.message import Message
from notifierd.model.office import OfficeWork, Staff
from notifierd.model.outcome import Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.rules.calendar import Calendar
from notifierd.rules.exits import EXIT_OK, EXIT_OUT_OF_REACH, EXIT_TROUBLE
from notifierd.run.calls import SHORTEST_TTL
from notifierd.send import Sender
from notifierd.send.open import open_email, open_push
from notifierd.service.site import open_site

MAIL_KEYS, PUSH_KEYS = ("email.sender", "email.{provider}."), ("push.",)
"""What the lines about missing keys begin with that concern a mail, or a push."""

PERSONAL_HEADERS = ("List-Unsubscribe", "List-Unsubscribe-Post")


@frozen
class Answer:
    """What a provider answered to one trial message.

    Attributes:
        message: the message, in words that name nobody.
        seconds: how long the call took.
    """

    message: str
    provider: str
    outcome: Outcome
    seconds: float

    @property
    def line(self) -> str:
        """The answer, as a line for people."""
        return f"{self.message} through {self.provider}: {_words(self.outcome)} ({self.seconds:.1f} s)"


@frozen
class Trial:
    """The result of a trial.

    Attributes:
        notes: what the configuration, or the staff member's own choice, has to do with it; a line each.
    """

    answers: tuple[Answer, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if every message was accepted, 3 if no provider was reached, else 1."""
        if all(isinstance(answer.outcome, Delivered) for answer in self.answers):
            return EXIT_OK
        return EXIT_OUT_OF_REACH if all(map(_out_of_reach, self.answers)) else EXIT_TROUBLE


async def try_address(settings: Settings, address: str) -> Trial:
    """Send a trial mail to *address*. No database is needed.

    Raises:
        ConfigError: a key is missing, or no mail can be sent to the address.
    """
    _require(settings, *MAIL_KEYS)
    notes = list(_redirection(settings))
    if settings.safety.only_offices:
        notes.append("safety.only_offices: does not apply, as an address belongs to no office")
    if settings.safety.database_id:
        notes.append("safety.database_id: not compared, as no database is needed")
    return Trial((await _mail(settings, _nobody(address), "--to"),), tuple(notes))


async def try_staff(settings: Settings, staff_id: UUID, *, push: bool) -> Trial:
    """Send a trial mail to a staff member, or a trial *push* to each device of theirs that gets pushes.

    Raises:
        ConfigError: a key is missing, `[safety]` forbids it, or there is no such staff member, address or device; or
            see `open_site`.
        SchemaMissing: see `open_site`.
        LedgerUnavailable: the database could not be reached.
    """
    _require(settings, *(PUSH_KEYS if push else MAIL_KEYS))
    if push and not settings.push.enabled:
        raise ConfigError(("push.enabled: is false, so no push is sent",))
    if push and settings.safety.redirect_to:
        raise ConfigError(("safety.redirect_to: is set, and then no push is sent",))
    work = await _office_of(settings, staff_id)
    staff = work.staff[staff_id]
    if push:
        off = () if staff.push_enabled else ("the staff member has pushes switched off: a run sends them none",)
        return Trial(tuple([answer async for answer in _pushes(settings, work, staff)]), off)
    off = () if staff.email_enabled else ("the staff member has mails switched off: a run sends them none",)
    return Trial((await _mail(settings, staff, "--staff"),), (*_redirection(settings), *off))


def _require(settings: Settings, *starts: str) -> None:
    begin = tuple(start.format(provider=settings.email.provider) for start in starts)
    if missing := [line for line in missing_for_sending(settings) if line.startswith(begin)]:
        raise ConfigError(tuple(missing))


def _redirection(settings: Settings) -> Iterator[str]:
    if settings.safety.redirect_to:
        yield "safety.redirect_to: is set, so the mail goes to that one address"


async def _office_of(settings: Settings, staff_id: UUID) -> OfficeWork:
    """Return the first office of a staff member that may be notified."""
    async with open_site(settings, read_only=True) as site:
        offices = await site.source.works_of(staff_id, _today(settings))
    if not offices:
        raise ConfigError((f"--staff: {staff_id} is not in the view notifierd.staff",))
    only = settings.safety.only_offices
    allowed = [office for office in offices if not only or office.id in only]
    if not allowed:
        raise ConfigError((f"safety.only_offices: has no office of {staff_id}; nothing was sent",))
    return allowed[0]


async def _mail(settings: Settings, staff: Staff, option: str) -> Answer:
    try:
        mail = Renderer(settings).trial_mail(staff, _today(settings))
    except BadAddress as bad:
        raise ConfigError((f"{option}: {explained(bad.reason)}",)) from None
    if staff.id == NOBODY:
        mail = evolve(mail, headers={key: text for key, text in mail.headers.items() if key not in PERSONAL_HEADERS})
    async with open_email(settings.email.provider, settings, now=_now) as sender:
        return await _send("a mail", sender, mail, settings)


async def _pushes(settings: Settings, work: OfficeWork, staff: Staff) -> AsyncIterator[Answer]:
    devices = list(work.devices.values())[: settings.push.devices_per_person]
    if not devices:
        raise ConfigError((f"--push: {staff.id} has no device",))
    renderer, day = Renderer(settings), _today(settings)
    async with open_push(settings, now=_now) as sender:
        for device in devices:
            push = renderer.trial_push(work.id, staff, device, day, SHORTEST_TTL)
            yield await _send(f"a push to device {device.id}", sender, push, settings)


async def _send(what: str, sender: Sender[Any], message: Message, settings: Settings) -> Answer:
    """Make one call, without a retry."""
    began = trio.current_time()
    outcome: Outcome = Unknown(Reason.TIMEOUT)
    with trio.move_on_after(settings.limits.send_timeout):
        (outcome,) = await sender.send([message], sender.encode([message]), str(uuid4()))
    return Answer(what, sender.name, outcome, trio.current_time() - began)


def _words(outcome: Outcome) -> str:
    match outcome:
        case Delivered(provider_message_id):
            return f"accepted, message id {provider_message_id}" if provider_message_id else "accepted"
        case Rejected():
            return f"rejected: {reason_of(outcome)}"
        case Gone(reason):
            return f"the device is gone ({reason}); a run would delete it"
        case Deferred():
            return f"not accepted now: {reason_of(outcome)}"
        case Blocked():
            return f"the provider rejects our key or account: {reason_of(outcome)}"
        case Unknown(reason):
            return f"no usable answer: {explained(reason)}"
    assert_never(outcome)


def _out_of_reach(answer: Answer) -> bool:
    reasons = {Reason.CONNECTION_FAILED.value, Reason.TOKEN.before(Reason.CONNECTION_FAILED)}
    return isinstance(answer.outcome, Deferred) and answer.outcome.reason in reasons


def _nobody(address: str) -> Staff:
    """Return a staff member without a name at *address*."""
    return Staff(NOBODY, "", address, email_enabled=True, email_days=30, push_enabled=False, push_days=10)


def _today(settings: Settings) -> date:
    return Calendar(settings.window).today(_now())


def _now() -> datetime:
    return datetime.now(UTC)
