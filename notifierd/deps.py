"""What a run works with, put together by whoever starts it; and what it tells of itself while it goes on."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import trio
from attrs import define, field, frozen

from notifierd.choose import Rules
from notifierd.gate import Gates
from notifierd.ledger import Ledger
from notifierd.life import Policy
from notifierd.model import Channel, Delivery, Device, Mail, Notice, Planned, Push, Settlement, State
from notifierd.send import Sender
from notifierd.source import Source

SETTLE_SLACK = 10.0
"""Seconds from a call's end by which its outcome is written, or the process that made it is taken for dead."""


class Renderer(Protocol):
    """What makes messages of notices. Pure: the same notice gives the same bytes, in any process."""

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        """The mail that tells *notice*."""

    def push(self, notice: Notice, delivery: Delivery, device: Device, ttl: int) -> Push:
        """The push that tells *notice* to one device, kept by the push service for *ttl* seconds."""

    def audit(self, notice: Notice) -> Mapping[str, object]:
        """The details of the audit row: counts and thresholds; no address, no person's name."""


@define
class Line:
    """How one channel's messages get out.

    Attributes:
        limiter: one slot for each call; as wide as the sender's connection pool.
        lane_share: how many of the slots one lane may have; None for all.
        interval: seconds between the beginnings of two calls; 0 for no such limit.
    """

    sender: Sender[Any]
    limiter: trio.CapacityLimiter
    lane_share: int | None = None
    interval: float = 0.0
    in_turn: trio.Lock = field(factory=trio.Lock)
    _lanes: dict[str, trio.CapacityLimiter] = field(factory=dict)
    _last_began: float = -float("inf")

    def lane_limiter(self, lane: str) -> trio.CapacityLimiter:
        """The limiter of one lane's share."""
        share = self.lane_share or self.limiter.total_tokens
        return self._lanes.setdefault(lane, trio.CapacityLimiter(share))

    async def pace(self) -> None:
        """Wait until the line's rate lets a call begin; to be called by whoever has ``in_turn``."""
        if self.interval:
            await trio.sleep_until(self._last_began + self.interval)
            self._last_began = trio.current_time()


@define
class Stop:
    """When a run begins nothing more, why, and how long what is in flight may still take."""

    reason: Literal["signal", "window_ended"] | None = None
    _event: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around the run: its deadline is when what is still in flight is cut."""

    def set(self, reason: Literal["signal", "window_ended"], grace: float) -> None:
        """Begin nothing more; after *grace* seconds, cut what is in flight. A signal outranks the window's end."""
        if self.reason != "signal":
            self.reason = reason
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + grace)
        self._event.set()

    def is_set(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._event.is_set()

    async def wait(self, seconds: float = float("inf")) -> bool:
        """Wait until stopped, at most *seconds*; whether it was."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        return self.is_set()


@define
class Progress:
    """What a run has done so far in this process, to be looked at while it goes on."""

    planned: Planned | None = None
    offices_done: int = 0
    offices_failed: int = 0
    settled: Counter[tuple[Channel, State]] = field(factory=Counter)
    waiting_for: str = ""
    """The process that holds the day, while it does."""

    def settle(self, settlement: Settlement) -> None:
        """Count a settlement that ended its delivery."""
        if settlement.state not in (State.PLANNED, State.SENDING):
            self.settled[settlement.delivery.channel, settlement.state] += 1

    def done(self, channel: Channel) -> int:
        """How many deliveries ended on *channel*."""
        return sum(n for (on, _), n in self.settled.items() if on is channel)


@frozen
class Deps:
    """What a run works with.

    Attributes:
        offices: one slot for each office that is worked on.
        lines: how each channel's messages get out; a channel without one is not served.
        send_timeout: seconds for one call.
        holder: this process' name in the lease.
        window_left: seconds from the run's start to the end of its window.
        day_ends: the moment until which a push service may keep a push of that day.
    """

    ledger: Ledger
    source: Source
    lines: Mapping[Channel, Line]
    policies: Mapping[Channel, Policy]
    offices: trio.CapacityLimiter
    renderer: Renderer
    rules: Rules
    gates: Gates
    send_timeout: float
    holder: str
    window_left: float
    day_ends: Callable[[date], datetime]
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    stop: Stop = field(factory=Stop)
    progress: Progress = field(factory=Progress)

    @property
    def call_expires(self) -> float:
        """Seconds after a reservation at which another process may take it up: those of the call and of settling it."""
        return self.send_timeout + SETTLE_SLACK
