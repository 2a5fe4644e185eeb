"""Compose the HTTP calls for an office's open deliveries. Pure.

A call's id is its idempotency key, and is derived from its deliveries and its body. A database may forget reservations
in a failover or a restore. The deliveries of the forgotten calls are then planned again, and give exactly the same
calls under the same keys.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from uuid import UUID

from attrs import evolve, field, frozen

from notifierd.model.address import BadAddress
from notifierd.model.delivery import OPEN, Delivery, Reservation, State, call_id
from notifierd.model.message import Message, Push
from notifierd.model.office import OfficeWork
from notifierd.model.reasons import Reason
from notifierd.rules.due import Skip, notice_for
from notifierd.run.context import RunContext
from notifierd.run.transport import Transport

NIL = UUID(int=0)

SHORTEST_TTL = 3600
"""The shortest time to live of a push, in seconds. It applies when a day is run late, or a past day is forced."""


@frozen
class Content:
    """The content of one delivery: its message, and the details of its audit row.

    Attributes:
        as_of: when the facts that it is made from were read; see `OfficeWork`.
    """

    message: Message
    audit: Mapping[str, object] = field(repr=False)
    as_of: float


@frozen
class Undeliverable:
    """A delivery to an address that no mail can be sent to."""

    reason: Reason


Description = Content | Skip | Undeliverable
"""What is to be done with a delivery: send the content, let it expire, or have it fail."""


@frozen(eq=False)
class Call:
    """One HTTP request to make.

    Attributes:
        id: its idempotency key.
        deliveries: the deliveries that it carries, in order.
        digest: SHA-256 of the body.
        repeat: whether it was made before and its answer was lost. *deliveries* may then include settled ones.
    """

    id: UUID
    transport: Transport
    deliveries: tuple[Delivery, ...]
    contents: tuple[Content, ...]
    body: bytes = field(repr=False)
    digest: bytes
    repeat: bool = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages, in the order of the deliveries."""
        return tuple(content.message for content in self.contents)

    @property
    def as_of(self) -> float:
        """When the facts that it is made from were read; see `OfficeWork`."""
        return self.contents[0].as_of

    @property
    def tried(self) -> tuple[Delivery, ...]:
        """The deliveries. Those that a repeated call carries only to stay the same call are marked as not due."""
        return tuple(
            evolve(delivery, due=False) if self.repeat and delivery.state is not State.SENDING else delivery
            for delivery in self.deliveries
        )

    @cached_property
    def destination(self) -> str:
        """The destination of the call."""
        return self.transport.destination(self.contents[0].message)

    def says_the_same(self, other: "Call") -> bool:
        """Whether it carries the same content as *other* to the same targets."""
        return _lasting(self.messages) == _lasting(other.messages)

    def reservation(self, expires: float) -> Reservation:
        """The reservation for the ledger: each open delivery as it is to be recorded while the call is made."""
        name = self.transport.sender.name
        marked = tuple(
            delivery.in_call(self.id, position, self.digest, name, repeat=self.repeat)
            for position, delivery in enumerate(self.deliveries)
            if not self.repeat or delivery.state in OPEN
        )
        return Reservation(self.id, marked, self.digest, name, expires)


@frozen
class Prepared:
    """What to do for an office.

    Attributes:
        calls: the calls to make.
        expired: planned deliveries that no longer have any content, with the reason.
        failed: planned deliveries to an address that no mail can be sent to, with the reason.
        lost: tries whose answer stays lost, because their call cannot be repeated unchanged.
        waiting: whether a call must wait because another try still holds one of its deliveries.
    """

    calls: tuple[Call, ...]
    expired: Mapping[Delivery, Reason]
    failed: Mapping[Delivery, Reason]
    lost: tuple[Delivery, ...]
    waiting: bool = False


def prepare(work: OfficeWork, described: Mapping[Delivery, Description], context: RunContext) -> Prepared:
    """Compose the calls for the deliveries that are due; *described* has the description of each delivery."""
    contents = {delivery: content for delivery, content in described.items() if isinstance(content, Content)}
    planned = [delivery for delivery in work.deliveries if delivery.due and delivery.state is State.PLANNED]
    repeats: list[Call] = []
    lost: list[Delivery] = []
    kept: set[Delivery] = set()  # in a call that is repeated whole, even the deliveries of it that were put back
    waiting = False
    for former in former_calls(work.deliveries):
        sending = [delivery for delivery in former if delivery.state is State.SENDING]
        if not all(delivery.due for delivery in sending):
            waiting = waiting or any(delivery.due for delivery in former)
            kept.update(former if context.transports.for_repeated_call(former[0]) else ())
        elif call := same_call(former, contents, context):
            repeats.append(call)
            kept.update(former)
        else:
            lost += sending
    anew = [delivery for delivery in planned if delivery in contents and delivery not in kept]
    calls = [*first_calls(anew, contents, context), *repeats]
    expired = {delivery: skip.reason for delivery in planned if isinstance(skip := described[delivery], Skip)}
    failed = {delivery: bad.reason for delivery in planned if isinstance(bad := described[delivery], Undeliverable)}
    return Prepared(tuple(calls), expired, failed, tuple(lost), waiting)


def describe(delivery: Delivery, work: OfficeWork, day: date, context: RunContext) -> Description:
    """Describe *delivery*: its content, or why it has none, or what is wrong with its address."""
    if not context.transports.serve(delivery.channel):
        return Skip(Reason.CHANNEL_DISABLED)
    notice = notice_for(delivery, work, day, context.rules)
    if isinstance(notice, Skip):
        return notice
    if delivery.device_id is None:
        try:
            return Content(context.renderer.mail(notice, delivery), context.renderer.audit(notice), work.as_of)
        except BadAddress as bad:
            return Undeliverable(bad.reason)
    ttl = max(SHORTEST_TTL, int((context.clock.day_ends(day) - context.clock.now()).total_seconds()))
    push = context.renderer.push(notice, delivery, work.devices[delivery.device_id], ttl)
    return Content(push, context.renderer.audit(notice), work.as_of)


def first_calls(
    planned: Iterable[Delivery], contents: Mapping[Delivery, Content], context: RunContext
) -> Iterator[Call]:
    """Compose calls for deliveries that belong to no call yet, each call as full as the sender allows.

    A delivery that was refused, or that lost an attempt, goes alone: it may be the reason why a whole batch is refused.
    A delivery that a provider perhaps accepted goes through no other provider.

    Deliveries share a call only if they were put back equally often, and every call for them is full except the last.
    So the deliveries of any of these calls give the same calls if they are composed again.
    """

    def transport_of(delivery: Delivery) -> Transport:
        return context.transports.for_new_call(delivery, contents[delivery].message)

    for transport, batch in batches(planned, transport_of):
        yield from _fitting(transport, batch, contents)


def batches(
    planned: Iterable[Delivery], transport_of: Callable[[Delivery], Transport]
) -> Iterator[tuple[Transport, Sequence[Delivery]]]:
    """Divide *planned* into the batches of `first_calls`, each with its transport. A batch may need several calls."""
    groups: dict[tuple[Transport, int], list[Delivery]] = {}
    for delivery in sorted(planned, key=_order):
        groups.setdefault((transport_of(delivery), delivery.put_back), []).append(delivery)
    for (transport, _), deliveries in groups.items():
        together = [delivery for delivery in deliveries if not goes_alone(delivery)]
        size = transport.sender.max_batch
        full = [together[start : start + size] for start in range(0, len(together), size)]
        for batch in [*full, *([delivery] for delivery in deliveries if goes_alone(delivery))]:
            yield transport, batch


def goes_alone(delivery: Delivery) -> bool:
    """Whether *delivery*, judged by its earlier tries, may be the reason why a whole batch is refused."""
    said = delivery.reason
    return delivery.attempts > 0 or (said is not None and any(reason.begins(said) for reason in REFUSALS))


REFUSALS = (Reason.BATCH, Reason.REJECTED, Reason.REFUSED)
"""The reasons of a delivery that a provider refused, alone or in a batch, and may accept alone."""


def _order(delivery: Delivery) -> tuple[str, int, int, UUID, UUID]:
    """A sort key that no two deliveries of an office share, so that the order of reading does not matter."""
    return delivery.channel, delivery.doubts, delivery.put_back, delivery.staff_id, delivery.device_id or NIL


def _fitting(transport: Transport, batch: Sequence[Delivery], contents: Mapping[Delivery, Content]) -> Iterator[Call]:
    """Compose one call for *batch*, or calls for its halves if the sender cannot put it all into one."""
    try:
        call = _call(None, transport, batch, contents)
    except ValueError:
        if len(batch) == 1:
            raise
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            yield from _fitting(transport, part, contents)
    else:
        yield call


def former_calls(deliveries: Iterable[Delivery]) -> Iterator[list[Delivery]]:
    """Find the calls whose answer was lost: the deliveries of each, in the order in which the call carried them."""
    by_call: dict[UUID, list[Delivery]] = {}
    for delivery in deliveries:
        if delivery.call_id is not None:
            by_call.setdefault(delivery.call_id, []).append(delivery)
    for former in by_call.values():
        if any(delivery.state is State.SENDING for delivery in former):
            yield sorted(former, key=lambda delivery: delivery.position)


def same_call(former: Sequence[Delivery], contents: Mapping[Delivery, Content], context: RunContext) -> Call | None:
    """Compose a call again, whole and byte for byte; None if that is impossible, or would not be safe."""
    first = former[0]
    transport = context.transports.for_repeated_call(first)
    if transport is None or first.call_id is None or any(delivery not in contents for delivery in former):
        return None
    call = _call(first.call_id, transport, former, contents)
    return call if call.digest == first.payload_hash else None


def _call(
    former: UUID | None, transport: Transport, deliveries: Sequence[Delivery], contents: Mapping[Delivery, Content]
) -> Call:
    """Compose the call with *deliveries*: a new one, or *former* again."""
    said = tuple(contents[delivery] for delivery in deliveries)
    body = transport.sender.encode([content.message for content in said])
    digest = hashlib.sha256(body).digest()
    key = former or call_id(deliveries, digest)
    return Call(key, transport, tuple(deliveries), said, body, digest, repeat=former is not None)


def _lasting(messages: Iterable[Message]) -> list[Message]:
    """*messages* without the time to live of pushes, which is computed anew for each call."""
    return [evolve(message, ttl=0) if isinstance(message, Push) else message for message in messages]
