"""Through which sender a message leaves now, when its call may begin, and how many calls there are at once."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from math import inf
from typing import Any

import trio
from attrs import define, field, frozen

from notifierd.model.delivery import Channel, Delivery
from notifierd.model.message import Message
from notifierd.rules.breaker import Breakers
from notifierd.send import Sender


@frozen
class CallLimits:
    """How many calls one channel may make.

    Attributes:
        at_once: through all transports of the channel together.
        per_destination: how many of them may go to one destination at once; None: all of them.
        per_second: through each transport; 0: no limit.
    """

    at_once: int
    per_destination: int | None = None
    per_second: float = 0.0


@define(eq=False)
class Transport:
    """One sender, its slots and its rate.

    Attributes:
        limiter: one slot for each call; the transports of a channel share it.
        destinations: the limiter of each destination that was called, or that a call waits for.
    """

    sender: Sender[Any]
    limiter: trio.CapacityLimiter
    limits: CallLimits
    destinations: dict[str, trio.CapacityLimiter] = field(factory=dict)
    _in_turn: trio.Lock = field(factory=trio.Lock)
    _last_began: float = -inf

    def destination(self, message: Message) -> str:
        """Where the transport takes *message*: see `Sender.destination`."""
        return str(self.sender.destination(message))

    def limiter_for(self, destination: str) -> trio.CapacityLimiter:
        """The limiter of the slots that one destination may have."""
        if destination not in self.destinations:
            self.destinations[destination] = trio.CapacityLimiter(self._per_destination)
        return self.destinations[destination]

    def limit(self, limits: CallLimits) -> None:
        """Replace the limits, also for calls that wait already."""
        self.limits = limits
        self.limiter.total_tokens = limits.at_once
        for limiter in self.destinations.values():
            limiter.total_tokens = self._per_destination

    @property
    def _per_destination(self) -> int:
        return self.limits.per_destination or self.limits.at_once

    def in_turn(self) -> AbstractAsyncContextManager[object]:
        """If there is a rate, hold the next turn during the block. A call that never begins leaves it to another."""
        return self._in_turn if self.limits.per_second else nullcontext()

    @property
    def turn(self) -> float:
        """When the rate lets the call whose turn is next begin, by Trio's clock; at once if there is no rate."""
        now, rate = trio.current_time(), self.limits.per_second
        return max(now, self._last_began + 1.0 / rate) if rate else now

    async def wait(self, ahead: float = 0.0) -> None:
        """Wait until *ahead* seconds before that turn. If that moment is past, do not yield to other tasks."""
        if self.turn - ahead > trio.current_time():
            await trio.sleep_until(self.turn - ahead)

    def begin(self) -> None:
        """Note that a call begins: the turn is used."""
        self._last_began = trio.current_time()


@frozen
class Transports:
    """Which transport a message leaves through now: the one place that decides it.

    The first transport of a channel is the preferred one. The others are used while the preferred one is out, for
    messages that it certainly did not accept. A channel without a transport is not served.

    Attributes:
        breakers: the circuit breaker of each destination.
    """

    breakers: Breakers
    _by_channel: Mapping[Channel, Sequence[Transport]]

    @classmethod
    def of(
        cls, senders: Mapping[Channel, Sequence[Sender[Any]]], limits: Mapping[Channel, CallLimits], breakers: Breakers
    ) -> "Transports":
        """One transport for each of *senders*; the preferred one of a channel comes first."""
        slots = {channel: trio.CapacityLimiter(limits[channel].at_once) for channel in senders}
        return cls(
            breakers,
            {
                channel: [Transport(sender, slots[channel], limits[channel]) for sender in beside]
                for channel, beside in senders.items()
            },
        )

    def serve(self, channel: Channel) -> bool:
        """Whether messages of *channel* are sent."""
        return channel in self._by_channel

    def preferred(self, channel: Channel) -> Transport:
        """The transport that messages of *channel* leave through as long as it is not out."""
        return self._by_channel[channel][0]

    def for_new_call(self, delivery: Delivery, message: Message) -> Transport:
        """The transport for a call with *delivery* that is not a repetition.

        A delivery that a transport perhaps carried goes through that transport again. Any other delivery goes through
        the preferred transport or, while that one is out, through the first other transport that may be used now.
        """
        if tried := self._in_doubt(delivery):
            return tried
        preferred, *others = self._eligible(delivery.channel, message)
        return next((other for other in others if self.breakers.usable(other.destination(message))), preferred)

    def for_repeated_call(self, delivery: Delivery) -> Transport | None:
        """The transport that *delivery* was tried by last, if a call can be repeated there under its key."""
        transport = self._last(delivery)
        return transport if transport and transport.sender.honours_keys else None

    def other_opens_in(self, transport: Transport, delivery: Delivery, message: Message) -> float:
        """Seconds until a new call with *delivery* may leave through another transport than *transport*.

        Infinite if it may leave through no other: the delivery is in doubt, or the preferred transport is not out.
        """
        if self._in_doubt(delivery):
            return inf
        others = (other for other in self._eligible(delivery.channel, message) if other is not transport)
        return min((self.breakers[other.destination(message)].retry_in() for other in others), default=inf)

    def _in_doubt(self, delivery: Delivery) -> Transport | None:
        """The transport that perhaps carried *delivery*, if it did and still exists."""
        return self._last(delivery) if delivery.doubts else None

    def _last(self, delivery: Delivery) -> Transport | None:
        """The transport that *delivery* was tried by last, if it still exists."""
        beside = self._by_channel.get(delivery.channel, ())
        return next((transport for transport in beside if transport.sender.name == delivery.provider), None)

    def _eligible(self, channel: Channel, message: Message) -> Sequence[Transport]:
        """The preferred transport and, while that one is out, the others."""
        transports = self._by_channel[channel]
        return transports if self.breakers.out(transports[0].destination(message)) else transports[:1]

    # Limits, and what others are shown ----------------------------------------------------------------------------

    def limit(self, limits: Mapping[Channel, CallLimits]) -> None:
        """Replace the limits of each channel, also for calls that wait already."""
        for channel, transport in self:
            transport.limit(limits[channel])

    def __iter__(self) -> Iterator[tuple[Channel, Transport]]:
        """Every transport, with its channel."""
        return ((channel, transport) for channel, beside in self._by_channel.items() for transport in beside)

    def blocked(self) -> Counter[Channel]:
        """How many destinations of each channel reject our credentials or account."""
        refusals = self.breakers.blocked()
        return Counter(channel for channel, transport in self for _ in refusals.keys() & transport.destinations.keys())

    def limiters(self) -> dict[str, trio.CapacityLimiter]:
        """The limiter of each channel and of each of its destinations, by name."""
        named = {}
        for channel, transport in self:
            named[channel.value] = transport.limiter
            named |= {f"{channel} {destination}": limiter for destination, limiter in transport.destinations.items()}
        return named
