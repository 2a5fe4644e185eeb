"""What a run tells of itself while it goes on."""

from collections import Counter
from collections.abc import Callable, Mapping
from uuid import UUID

import trio
from attrs import define, field

from notifierd.model import Channel, Planned, Settlement, State

SLICE = 1.0
"""Seconds for which a run waits at once, so that a wait is seen to go on."""


@define
class Progress:
    """What a run has done so far in this process."""

    has_day: bool = False
    """Whether the day is ours: its lease was had."""
    planned: Planned | None = None
    offices_done: int = 0
    """Those that were worked on to their end, counted again in each pass."""
    offices_failed: int = 0
    in_flight: dict[UUID, float] = field(factory=dict)
    """The offices that are worked on, and when that began by Trio's clock."""
    settled: Counter[tuple[Channel, State]] = field(factory=Counter)
    written: int = 0
    """Settlements that the recorder wrote, whatever they came to."""
    slices: int = 0
    """How many slices of a wait are over."""
    withheld: int = 0
    """Mails that the pass had to leave alone, as they are beyond the day's quota."""
    waiting_for: str = ""
    """What nothing goes on without at the moment, in words."""
    channels: Callable[[], Mapping[str, int]] = dict
    """What lies in the recorder's channels."""

    @property
    def steps(self) -> int:
        """A number that grows as long as anything goes on."""
        return self.slices + self.offices_done + self.written

    def settle(self, settlement: Settlement) -> None:
        """Count a settlement that was written, and the delivery, if it ended that."""
        self.written += 1
        if settlement.state not in (State.PLANNED, State.SENDING):
            self.settled[settlement.delivery.channel, settlement.state] += 1

    def done(self, channel: Channel) -> int:
        """How many deliveries ended on *channel*."""
        return sum(n for (on, _), n in self.settled.items() if on is channel)

    async def wait(self, seconds: float, reason: str) -> None:
        """Wait *seconds* for the database, which did not do what it should for a *reason*."""
        self.waiting_for = f"the database ({reason})"
        await self.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        """Sleep slice by slice, and count each."""
        ends = trio.current_time() + seconds
        while (left := ends - trio.current_time()) > 0:
            await trio.sleep(min(SLICE, left))
            self.slices += 1
