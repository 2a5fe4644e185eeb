"""Divide the deliveries of a large office into portions, so that few messages are held in memory. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from uuid import UUID

from attrs import frozen

from notifierd.model.address import BadAddress
from notifierd.model.delivery import Delivery, State
from notifierd.model.message import Message
from notifierd.model.office import OfficeWork
from notifierd.rules.due import Skip, notice_for
from notifierd.run.calls import Content, batches, describe, former_calls
from notifierd.run.context import RunContext
from notifierd.run.transport import Transport

AT_ONCE = 100
"""The most deliveries of an office whose messages are all made before the first is sent. In a larger office, the
messages of a call are made when it is the next one to its destination."""

Portion = Sequence[Delivery]
"""Deliveries that give the same calls by themselves as together with all others of the office."""


@frozen(eq=False)
class Route:
    """The transport that a message leaves through, and where that takes it."""

    transport: Transport
    destination: str


def route_of(delivery: Delivery, message: Message, context: RunContext) -> Route:
    """The route of a new call with *delivery*, whose content is *message*."""
    transport = context.transports.for_new_call(delivery, message)
    return Route(transport, transport.destination(message))


def sample(
    delivery: Delivery, work: OfficeWork, day: date, context: RunContext, mail: Message | None
) -> Message | None:
    """A message of the same route as that of *delivery*; None if *delivery* has no content.

    Args:
        mail: another mail of the office, if one was made. It has the same route, so no further mail has to be made.
    """
    if mail is None or delivery.device_id is not None:
        content = describe(delivery, work, day, context)
        return content.message if isinstance(content, Content) else None
    notice = notice_for(delivery, work, day, context.rules)
    if isinstance(notice, Skip):
        return None
    try:
        context.renderer.address(notice.staff)
    except BadAddress:
        return None
    return mail


def by_destination(
    deliveries: Iterable[Delivery], routes: Mapping[UUID, Route], context: RunContext
) -> list[list[Portion]]:
    """Divide *deliveries* into portions, a list for each destination, in the order of its calls.

    Args:
        routes: by the ids of the deliveries that have something to say.
    """
    destinations: dict[str, list[Portion]] = {}
    again = [
        former if context.transports.for_repeated_call(former[0]) else [d for d in former if d.state is State.SENDING]
        for former in former_calls(deliveries)
    ]
    kept = {delivery.id for former in again for delivery in former}
    left = [delivery for delivery in deliveries if delivery.id not in kept]
    anew = [d for d in left if d.id in routes and d.due and d.state is State.PLANNED]
    for _, batch in batches(anew, lambda delivery: routes[delivery.id].transport):
        destinations.setdefault(routes[batch[0].id].destination, []).append(batch)
    for former in again:
        destination = next((routes[delivery.id].destination for delivery in former if delivery.id in routes), "")
        destinations.setdefault(destination, []).append(former)
    if others := [delivery for delivery in left if delivery.id not in routes]:
        destinations.setdefault("", []).append(others)
    return list(destinations.values())
