"""The context of a run: its parts, its limits and its clock. The caller of a run assembles it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol

import trio
from attrs import Factory, define, field, frozen, setters

from notifierd.config.settings import LimitsSettings
from notifierd.model.address import Address
from notifierd.model.counts import Capacity
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.message import Mail, Push
from notifierd.model.office import Device, Notice, Staff
from notifierd.rules.cluster.grants import ClusterLimits
from notifierd.rules.cluster.membership import ALONE, Terms
from notifierd.rules.due import Rules
from notifierd.rules.lifecycle import Policy
from notifierd.run.progress import Progress
from notifierd.run.stop import SETTLE_SECONDS, Stop
from notifierd.run.transport import CallLimits, Transports
from notifierd.store.ledger import Ledger
from notifierd.store.source import Source

if TYPE_CHECKING:
    from notifierd.store.feedback import Feedback

PUSH_SERVICE_SHARE = 4
"""One push service gets at most a quarter of the push slots, so that a service that hangs does not delay the others."""

SETTLE_SLACK = 10.0
"""Seconds from a call's end in which its outcome must be written. After that, its process is considered dead."""


class Renderer(Protocol):
    """Turns notices into messages. Pure: the same notice gives the same bytes in any process."""

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        """Render the mail for *notice*.

        Raises:
            BadAddress: no mail can be sent to its staff member.
        """
        ...

    def address(self, staff: Staff) -> Address:
        """The address for mails to *staff*.

        Raises:
            BadAddress: no mail can be sent to them.
        """
        ...

    def push(self, notice: Notice, delivery: Delivery, device: Device, ttl: int) -> Push:
        """Render the push for *notice* to one device. The push service keeps it for *ttl* seconds."""

    def audit(self, notice: Notice) -> Mapping[str, object]:
        """The details of the audit row: counts and thresholds; no address, no person's name."""


@frozen
class Limits:
    """What a run may do at once, for how long and how often. A reload replaces it whole: see `RunContext.limit`.

    Attributes:
        offices: offices worked on at once.
        calls: how many calls each channel may make.
        email_per_day: mails in a day; 0: no limit.
        send_timeout: seconds for one call.
        attempts: how many tries of a delivery may be deferred, while other messages pass, before it fails.
    """

    offices: int
    calls: Mapping[Channel, CallLimits]
    email_per_day: int
    send_timeout: float
    attempts: int

    @classmethod
    def of(cls, settings: LimitsSettings) -> "Limits":
        """The limits of the table [limits]."""
        calls = {
            Channel.EMAIL: CallLimits(settings.email, per_second=settings.email_per_second),
            Channel.PUSH: CallLimits(settings.push, per_destination=max(1, settings.push // PUSH_SERVICE_SHARE)),
        }
        return cls(settings.offices, calls, settings.email_per_day, settings.send_timeout, settings.attempts)

    def for_cluster(self) -> ClusterLimits:
        """The limits that all members of a day keep together."""
        mail, push = self.calls[Channel.EMAIL], self.calls.get(Channel.PUSH, CallLimits(1))
        at_once = push.per_destination or push.at_once
        return ClusterLimits(mail.at_once, push.at_once, at_once, mail.per_second, self.email_per_day)

    def mails_left(self, given: int) -> float:
        """How many more mails a provider may get on a day on which it got *given*."""
        return max(0, self.email_per_day - given) if self.email_per_day else inf

    @property
    def call_expires(self) -> float:
        """Seconds from a reservation until another process may take it over: enough to make and settle the call."""
        return self.send_timeout + SETTLE_SLACK


@frozen
class RunClock:
    """The times of a run.

    Attributes:
        now: the wall clock, in UTC.
        window_left: seconds from now to the end of the run's window, by the clock that decides it.
        day_ends: the moment until which a push service may keep a push of that day.
    """

    now: Callable[[], datetime]
    window_left: Callable[[], float]
    day_ends: Callable[[date], datetime]


@define(on_setattr=setters.frozen)
class RunContext:
    """What a run works with. Only its limits are replaced while it goes on.

    Attributes:
        on_unknown: what to do with a mail whose answer was lost, if no idempotency key makes a repetition safe.
        holder: this process' name in the lease.
        terms: what it says about itself when it joins a day, without its limits.
        renew_seconds: how often the lease is renewed.
        retention_days: how old a day is when it is deleted.
        loads: what is loaded for the first messages, while the day is planned.
        offices: one slot for each office that is worked on.
    """

    ledger: Ledger
    source: Source
    renderer: Renderer
    rules: Rules
    on_unknown: Literal["repeat", "hold"]
    transports: Transports
    clock: RunClock
    holder: str
    limits: Limits = field(on_setattr=setters.NO_OP)
    terms: Terms = ALONE
    renew_seconds: float = 2.0
    retention_days: int = 400
    loads: Sequence[Callable[[], object]] = ()
    stop: Stop = field(factory=Stop)
    progress: Progress = field(factory=Progress)
    offices: trio.CapacityLimiter = field(
        default=Factory(lambda self: trio.CapacityLimiter(self.limits.offices), takes_self=True)
    )

    def limit(self, limits: Limits) -> None:
        """Replace the limits, also for calls and offices that wait already.

        If the day is shared, they come into force with the next renewals of the leases.
        """
        self.limits = limits
        if not self.terms.shares:
            self.offices.total_tokens = limits.offices
            self.transports.limit(limits.calls)

    def policy(self, channel: Channel) -> Policy:
        """How tries of *channel* are settled."""
        return Policy(self.limits.attempts, self.on_unknown if channel is Channel.EMAIL else "repeat")

    def capacity(self) -> Capacity:
        """How many mails the limits allow, in the day and from now to the window's end."""
        return Capacity.of(
            self.clock.window_left(),
            per_day=self.limits.email_per_day,
            per_second=self.limits.calls[Channel.EMAIL].per_second,
            batch=self.transports.preferred(Channel.EMAIL).sender.max_batch,
        )

    async def pause(self, seconds: float) -> bool:
        """Wait *seconds*, or until the run is stopped; return whether it is. Each slice of it counts as progress."""
        with trio.move_on_after(seconds):
            while not await self.stop.wait(self.progress.slice_seconds):
                self.progress.slices += 1
        return self.stop.is_set()

    def last_moment(self, ended: float) -> float:
        """The last moment, by Trio's clock, for writing the known outcomes of a run that *ended*.

        That is the window's end, but no sooner than SETTLE_SECONDS after *ended*. The bound of a signal overrides both.
        """
        return min(max(ended + SETTLE_SECONDS, trio.current_time() + self.clock.window_left()), self.stop.over_by)

    def limiters(self) -> dict[str, trio.CapacityLimiter]:
        """Every limiter, by its name."""
        return {"offices": self.offices} | self.transports.limiters()


class Site(Protocol):
    """A database that is open and fit for runs, and the senders that a configuration names."""

    @property
    def ledger(self) -> Ledger:
        """The ledger in the database."""

    @property
    def feedback(self) -> "Feedback":
        """The part of the ledger that is about mails after they were accepted."""

    def open_context(
        self, *, window_left: Callable[[], float], stop: Stop, progress: Progress
    ) -> AbstractAsyncContextManager[RunContext]:
        """Open the senders, and assemble the context of one run.

        Raises:
            ConfigError: a sender cannot be made from this configuration.
        """
        ...


def lasting(seconds: float) -> Callable[[], float]:
    """A `RunClock.window_left` for a window that lasts *seconds* from now."""
    ends = trio.current_time() + seconds
    return lambda: ends - trio.current_time()
