"""How a channel's messages get out through one sender: its slots, its rate, and whose turn is next."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import trio
from attrs import define, field

from notifierd.send import Sender


@define(eq=False)
class Transport:
    """How a channel's messages get out through one sender.

    Attributes:
        limiter: one slot for each call.
        per_destination: how many of the slots one destination may have; None for all.
        interval: seconds between the beginnings of two calls; 0 for no such limit.
    """

    sender: Sender[Any]
    limiter: trio.CapacityLimiter
    per_destination: int | None = None
    interval: float = 0.0
    destinations: dict[str, trio.CapacityLimiter] = field(factory=dict)
    _in_turn: trio.Lock = field(factory=trio.Lock)
    _last_began: float = -float("inf")

    def limiter_for(self, destination: str) -> trio.CapacityLimiter:
        """The limiter of the slots that one destination may have."""
        if destination not in self.destinations:
            self.destinations[destination] = trio.CapacityLimiter(self.per_destination or self.limiter.total_tokens)
        return self.destinations[destination]

    def limit(self, calls: int, per_destination: int | None, interval: float) -> None:
        """Have other limits from now on, also for who is waiting already."""
        self.limiter.total_tokens = calls
        self.per_destination, self.interval = per_destination, interval
        for limiter in self.destinations.values():
            limiter.total_tokens = per_destination or calls

    def in_turn(self) -> AbstractAsyncContextManager[object]:
        """Be the one call whose turn is next, if there is a rate. A call that never begins leaves it to another."""
        return self._in_turn if self.interval else nullcontext()

    @property
    def turn(self) -> float:
        """When the rate lets the call whose turn is next begin, by Trio's clock; at once if there is no rate."""
        return max(trio.current_time(), self._last_began + self.interval)

    async def wait(self, ahead: float = 0.0) -> None:
        """Wait until *ahead* seconds before that turn. If it is there, no other task gets its turn meanwhile."""
        if self.interval and self.turn - ahead > trio.current_time():
            await trio.sleep_until(self.turn - ahead)

    def begin(self) -> None:
        """Note that a call begins: the turn is used."""
        self._last_began = trio.current_time()
