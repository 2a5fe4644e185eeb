"""Providers that follow a script, a ledger with bad days, and runs put together of them: all in virtual time."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import trio
from attrs import define, evolve, field, frozen

from notifierd.model.address import Address
from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State, delivery_id
from notifierd.model.errors import LedgerUnavailable, StatementRefused
from notifierd.model.message import Mail, Message, Push
from notifierd.model.office import Device, Notice, Staff
from notifierd.model.outcome import Blame, Deferred, Delivered, Outcome, Unknown
from notifierd.rules.breaker import Breakers
from notifierd.rules.due import Rules
from notifierd.run.context import Limits, RunClock, RunContext, lasting
from notifierd.run.transport import CallLimits, Transports
from notifierd.send import Sender
from notifierd.store.source import CHUNK, Chunk, Claim, Place
from tests.support.memory import Application, MemoryLedger
from tests.support.messages import SENDER
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_id

NINE_O_CLOCK = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
"""The wall clock when a run's virtual time is 0."""

TAKEN = Delivered()
DOWN = Deferred("connection_failed", blame=Blame.PROVIDER)


@frozen
class Swallowed:
    """The provider takes the message, and its answer is lost."""

    reason: str = "cut"


@frozen
class Try:
    """One message of one call, as a script sees it.

    Attributes:
        to: the mail address, or the push endpoint.
        nth: how often this message was tried, this time included.
        at: when the answer is made.
    """

    to: str
    nth: int
    at: float


Script = Callable[[Try], Outcome | Swallowed]


@define
class Made:
    """A call as the provider saw it; ``ended`` is None while it is under way, and for one that was cut."""

    began: float
    key: str
    body: bytes
    to: tuple[str, ...]
    deliveries: tuple[UUID, ...]
    destination: str
    ended: float | None = None
    cut: float | None = None


def _take(_: Try) -> Outcome:
    return TAKEN


@define
class ScriptedSender:
    """A provider: each call takes *seconds*, and *script* says how each message of it ends.

    Attributes:
        calls: every call that was begun.
        accepted: when the provider took what for whom. Not twice under one key, where keys are honoured.
        meanwhile: is called at the beginning of each call.
    """

    name: str = "scripted"
    max_batch: int = 1
    honours_keys: bool = False
    seconds: float | Callable[[str], float] = 1.0
    script: Script = _take
    meanwhile: Callable[[], object] = field(default=lambda: None)
    calls: list[Made] = field(factory=list)
    accepted: list[tuple[float, UUID, str]] = field(factory=list)
    _answers: dict[str, tuple[bytes, list[Outcome]]] = field(factory=dict)
    _tries: Counter[UUID] = field(factory=Counter)

    def destination(self, message: Message) -> str:
        return self.name if isinstance(message, Mail) else message.device.endpoint.split("/")[2]

    def encode(self, messages: Sequence[Message]) -> bytes:
        return "\n".join(f"{m.delivery_id} {_to(m)} {_text(m)}" for m in messages).encode()

    async def send(self, messages: Sequence[Message], body: bytes, idempotency_key: str) -> list[Outcome]:
        assert body == self.encode(messages)
        to = tuple(map(_to, messages))
        ids = tuple(message.delivery_id for message in messages)
        made = Made(trio.current_time(), idempotency_key, body, to, ids, self.destination(messages[0]))
        self.calls.append(made)
        self.meanwhile()
        try:
            await trio.sleep(self.seconds if isinstance(self.seconds, float | int) else self.seconds(to[0]))
        except trio.Cancelled:
            made.cut = trio.current_time()
            raise
        made.ended = trio.current_time()
        if idempotency_key in self._answers:
            body_then, outcomes = self._answers[idempotency_key]
            return outcomes if body == body_then else [Unknown("key_conflict", key_usable=False)] * len(messages)
        return self._carry_out(messages, body, idempotency_key)

    def _carry_out(self, messages: Sequence[Message], body: bytes, key: str) -> list[Outcome]:
        self._tries.update(message.delivery_id for message in messages)
        said = [self.script(Try(_to(m), self._tries[m.delivery_id], trio.current_time())) for m in messages]
        real: list[Outcome] = [TAKEN if isinstance(answer, Swallowed) else answer for answer in said]
        for message, outcome in zip(messages, real, strict=True):
            if isinstance(outcome, Delivered):
                self.accepted.append((trio.current_time(), message.delivery_id, _to(message)))
        if self.honours_keys and any(isinstance(outcome, Delivered) for outcome in real):
            self._answers[key] = body, real
        return [Unknown(answer.reason) if isinstance(answer, Swallowed) else answer for answer in said]

    def mistake(self, key: str) -> None:
        """From now on, know *key* with another content."""
        _, answers = self._answers[key]
        self._answers[key] = b"other content", answers

    def take(self, call: Made) -> None:
        """Take a call that was cut, as an API does that was still at work on it."""
        self._answers[call.key] = call.body, [TAKEN] * len(call.to)
        self.accepted += [(trio.current_time(), *who) for who in zip(call.deliveries, call.to, strict=True)]

    @property
    def told(self) -> list[str]:
        """To whom messages went, sorted: a name that stands here twice was told twice."""
        return sorted(to for _, _, to in self.accepted)

    @property
    def began(self) -> list[float]:
        """When calls began, each moment once."""
        return sorted({call.began for call in self.calls})


def _to(message: Message) -> str:
    return message.to if isinstance(message, Mail) else message.device.endpoint


def _text(message: Message) -> str:
    return message.text if isinstance(message, Mail) else message.payload.decode()


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many of *spans* (beginning, end) overlap at most."""
    steps = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    now = most = 0
    for _, step in steps:  # at one moment what ends comes first
        now += step
        most = max(most, now)
    return most


def spans(calls: Sequence[Made]) -> list[tuple[float, float]]:
    """The beginnings and ends of calls that all came to their end."""
    return [(call.began, call.ended) for call in calls if call.ended is not None]


@define
class PlainRenderer:
    """Messages that say who is due, and nothing more; *poisoned* offices cannot be rendered."""

    poisoned: set[UUID] = field(factory=set)

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        text = self._text(notice)
        return Mail(delivery.id, SENDER, Address(notice.staff.email or ""), "due", text, text, {})

    def address(self, staff: Staff) -> Address:
        return Address(staff.email or "")

    def push(self, notice: Notice, delivery: Delivery, device: Device, ttl: int) -> Push:
        return Push(delivery.id, notice.office_id, device, self._text(notice).encode(), "topic", ttl)

    def audit(self, notice: Notice) -> Mapping[str, object]:
        return {"alerts": len(notice.alerts)}

    def _text(self, notice: Notice) -> str:
        if notice.office_id in self.poisoned:
            raise ValueError(f"no template for {notice.staff.name}")
        return f"{notice.office_name}: {', '.join(alert.recipient_name for alert in notice.alerts)}"


def _up() -> bool:
    return False


@define
class ShakyLedger(MemoryLedger):
    """A ledger over a database with bad days. ``evolve`` makes another process' connection to the same tables.

    Attributes:
        latency: seconds of each statement.
        down: whether the database is unreachable, so that a statement is not carried out.
        deaf: whether its answers get lost, once a statement is carried out.
        refuses: whether it refuses to settle this (with its extras, or bare), with the reason *refusal*.
        reads: when each chunk was read.
        reserved: when which calls were granted.
        written: when how many settlements were written in one statement.
    """

    latency: float = 0.0
    down: Callable[[], bool] = _up
    deaf: Callable[[], bool] = _up
    refuses: Callable[[Sequence[Settlement], bool], bool] = field(default=lambda _settlements, _without_audit: False)
    refusal: str = "database_refused:23503:audit_log_office_id_fkey"
    reads: list[float] = field(factory=list)
    reserved: list[tuple[float, int]] = field(factory=list)
    written: list[tuple[float, int]] = field(factory=list)

    async def read(self, day: date, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
        chunk = await super().read(day, after, rules, claim, most)
        self.reads.append(self.clock())
        return chunk

    async def reserve(self, day: date, holder: str, reservations: Sequence[Reservation]) -> set[UUID]:
        granted = await super().reserve(day, holder, reservations)
        self.reserved.append((self.clock(), len(reservations)))
        self._answer()
        return granted

    async def settle(self, settlements: Sequence[Settlement], *, without_audit: bool = False) -> set[UUID]:
        if self.refuses(settlements, without_audit):
            await self._statement()
            raise StatementRefused(self.refusal)
        late = await super().settle(settlements, without_audit=without_audit)
        self.written.append((self.clock(), len(settlements)))
        self._answer()
        return late

    async def _statement(self) -> None:
        await trio.sleep(self.latency)
        if self.down():
            raise LedgerUnavailable("database_unavailable:08006")

    def _answer(self) -> None:
        if self.deaf():
            raise LedgerUnavailable("database_unavailable:08006")

    def state(self, delivery: UUID) -> tuple[State, str | None]:
        """Where a delivery stands, and why."""
        row = self.rows[delivery].delivery
        return row.state, row.reason

    def states(self, channel: Channel | None = None) -> Counter[State]:
        """How many deliveries stand where."""
        rows = [row.delivery for row in self.rows.values()]
        return Counter(row.state for row in rows if channel in (None, row.channel))

    def reasons(self) -> Counter[tuple[State, str | None]]:
        """How many deliveries stand where, and why."""
        return Counter((row.delivery.state, row.delivery.reason) for row in self.rows.values())


def between(*outages: tuple[float, float]) -> Callable[[], bool]:
    """Whether virtual time, as a run's test began at 0, lies in one of *outages*."""
    return lambda: any(start <= trio.current_time() < end for start, end in outages)


@frozen
class Limited:
    """The sender of a channel, and the limits of the channel's calls."""

    sender: Sender[Any]
    limits: CallLimits


def limited(sender: Sender[Any], slots: int, per_destination: int | None = None, per_second: float = 0.0) -> Limited:
    """*sender* with *slots* for calls at once."""
    return Limited(sender, CallLimits(slots, per_destination, per_second))


def a_run(
    ledger: MemoryLedger,
    email: ScriptedSender | Limited | Sequence[Limited],
    push: ScriptedSender | Limited | None = None,
    *,
    offices: int = 10,
    email_per_day: int = 0,
    send_timeout: float = 30.0,
    attempts: int = 3,
    window_left: float | Callable[[], float] = 900.0,
    now: Callable[[], datetime] = lambda: NINE_O_CLOCK + timedelta(seconds=trio.current_time()),
    **changes: Any,
) -> RunContext:
    """What a run works with: the limits are those of ``config.toml``, where not said otherwise."""
    if isinstance(email, ScriptedSender):
        email = limited(email, 5)
    channels: dict[Channel, Sequence[Limited]] = {Channel.EMAIL: [email] if isinstance(email, Limited) else email}
    if push is not None:
        channels[Channel.PUSH] = [push if isinstance(push, Limited) else limited(push, 20, per_destination=5)]
    calls = {channel: beside[0].limits for channel, beside in channels.items()}
    senders = {channel: [each.sender for each in beside] for channel, beside in channels.items()}
    parts: dict[str, Any] = {
        "ledger": ledger,
        "source": ledger,
        "renderer": PlainRenderer(),
        "rules": Rules(push=push is not None),
        "on_unknown": "repeat",
        "transports": Transports.of(senders, calls, Breakers(trio.current_time)),
        "clock": RunClock(
            now,
            lasting(window_left) if isinstance(window_left, float) else window_left,
            lambda day: datetime(day.year, day.month, day.day, 15, 0, tzinfo=UTC),
        ),
        "holder": "me",
        "limits": Limits(offices, calls, email_per_day, send_timeout, attempts),
    }
    return RunContext(**parts | changes)


# Small applications --------------------------------------------------------------------------------------------------


@frozen
class Member:
    """A staff member with their office, as the tests speak of them."""

    office: UUID
    staff: Staff
    devices: tuple[Device, ...] = ()

    @property
    def address(self) -> str:
        assert self.staff.email
        return self.staff.email

    @property
    def mail(self) -> UUID:
        """The id of their mail."""
        return delivery_id(DAY, self.office, self.staff.id, Channel.EMAIL)

    def push(self, device: int = 0) -> UUID:
        """The id of the push to one of their devices."""
        return delivery_id(DAY, self.office, self.staff.id, Channel.PUSH, self.devices[device].id)


def a_member(app: Application, name: str, *, office: str = "", hosts: Sequence[str] = (), left: int = 5) -> Member:
    """Add a staff member, of an office of their own if none is named, who is due a mail and a push for each of *hosts*.

    Args:
        left: how many days the office's nearest deadline is away.
    """
    place = an_id(office or f"office of {name}")
    if place not in app.offices:
        app.offices[place] = office or f"office of {name}"
        app.alerts.append((place, a_renewal(left, f"recipient of {office or name}")))
    staff = a_staff(name, push_enabled=bool(hosts), push_days=30)
    app.staff.append((place, staff))
    phones = [(host, a_device(staff, f"phone {number}")) for number, host in enumerate(hosts)]
    devices = tuple(evolve(phone, endpoint=f"https://{host}/{phone.id}") for host, phone in phones)
    app.devices.update({device.id: device for device in devices})
    return Member(place, staff, devices)
