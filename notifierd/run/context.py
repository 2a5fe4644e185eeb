"""What a run works with, put together by whoever starts it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from typing import Protocol

import trio
from attrs import define, field

from notifierd.model.address import Address
from notifierd.model.counts import Room
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.message import Mail, Message, Push
from notifierd.model.office import Device, Notice, Staff
from notifierd.rules.breaker import Breakers
from notifierd.rules.due import Rules
from notifierd.rules.lifecycle import Policy
from notifierd.run.progress import Progress
from notifierd.run.stop import SETTLE_SECONDS, Stop
from notifierd.run.transport import Transport
from notifierd.store.ledger import Ledger
from notifierd.store.source import Source

SETTLE_SLACK = 10.0
"""Seconds from a call's end by which its outcome is written, or the process that made it is taken for dead."""


class Renderer(Protocol):
    """What makes messages of notices. Pure: the same notice gives the same bytes, in any process."""

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        """The mail that tells *notice*.

        Raises:
            BadAddress: no mail can be sent to its staff member.
        """
        ...

    def address(self, staff: Staff) -> Address:
        """Where a mail to *staff* goes.

        Raises:
            BadAddress: no mail can be sent to them.
        """
        ...

    def push(self, notice: Notice, delivery: Delivery, device: Device, ttl: int) -> Push:
        """The push that tells *notice* to one device, kept by the push service for *ttl* seconds."""

    def audit(self, notice: Notice) -> Mapping[str, object]:
        """The details of the audit row: counts and thresholds; no address, no person's name."""


@define
class RunContext:
    """What a run works with. Only limits change while it goes on.

    Attributes:
        offices: one slot for each office that is worked on.
        transports: how each channel's messages get out: the preferred transport, then those that are used while it is
            out. A channel without any is not served.
        email_per_day: mails in a day; 0 for no such limit.
        send_timeout: seconds for one call.
        holder: this process' name in the lease.
        window_left: seconds from now to the end of the run's window, by the clock that decides it.
        day_ends: the moment until which a push service may keep a push of that day.
    """

    ledger: Ledger
    source: Source
    transports: Mapping[Channel, Sequence[Transport]]
    policies: Mapping[Channel, Policy]
    offices: trio.CapacityLimiter
    renderer: Renderer
    rules: Rules
    breakers: Breakers
    email_per_day: int
    send_timeout: float
    holder: str
    window_left: Callable[[], float]
    day_ends: Callable[[date], datetime]
    now: Callable[[], datetime]
    stop: Stop = field(factory=Stop)
    progress: Progress = field(factory=Progress)

    @property
    def call_expires(self) -> float:
        """Seconds after a reservation at which another process may take it up: those of the call and of settling it."""
        return self.send_timeout + SETTLE_SLACK

    def transport(self, channel: Channel, message: Message) -> Transport:
        """The transport for a new call with *message*: the preferred one; while that is out, another that is usable."""
        preferred, *others = self.transports[channel]
        if self.breakers.out(preferred.sender.destination(message)):
            for other in others:
                if self.breakers.usable(other.sender.destination(message)):
                    return other
        return preferred

    def room(self) -> Room:
        """What the limits leave of the day for mails, from now to the window's end."""
        transport = self.transports[Channel.EMAIL][0]
        per_second = 1.0 / transport.interval if transport.interval else 0.0
        batch = transport.sender.max_batch
        return Room.of(self.window_left(), per_day=self.email_per_day, per_second=per_second, batch=batch)

    async def rest(self, seconds: float) -> bool:
        """Wait, at most *seconds*, until stopped; whether it was. Each slice of it counts as progress."""
        with trio.move_on_after(seconds):
            while not await self.stop.wait(self.progress.slice_seconds):
                self.progress.slices += 1
        return self.stop.is_set()

    def last_moment(self, ended: float) -> float:
        """Until when, by Trio's clock, what is known of a run that *ended* may take to be written.

        That is the window's end, and SETTLE_SECONDS at least. A signal's bound goes before both.
        """
        return min(max(ended + SETTLE_SECONDS, trio.current_time() + self.window_left()), self.stop.over_by)

    def limiters(self) -> dict[str, trio.CapacityLimiter]:
        """Every limiter, by its name."""
        named = {"offices": self.offices}
        for channel, transports in self.transports.items():
            for transport in transports:
                named[channel.value] = transport.limiter
                named |= {
                    f"{channel} {destination}": limiter for destination, limiter in transport.destinations.items()
                }
        return named


class Site(Protocol):
    """A database that is open and fit for runs, and the senders that a configuration names."""

    @property
    def ledger(self) -> Ledger:
        """The ledger there."""

    def open_context(
        self, *, window_left: Callable[[], float], stop: Stop, progress: Progress
    ) -> AbstractAsyncContextManager[RunContext]:
        """Open the senders, and put the parts of one run together.

        Raises:
            ConfigError: they cannot be made of this configuration.
        """
        ...


def lasting(seconds: float) -> Callable[[], float]:
    """What is left of *seconds* that begin now, for ``RunContext.window_left``."""
    ends = trio.current_time() + seconds
    return lambda: ends - trio.current_time()
