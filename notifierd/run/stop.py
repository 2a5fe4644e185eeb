"""How a run stops: when it starts nothing new, and how long calls in flight may still take."""

from typing import Literal

import trio
from attrs import define, field

SETTLE_SECONDS = 10.0
"""Seconds that are granted at least for writing known outcomes, from a run's end or from the signal that stops it."""

EXIT_SLACK = 1.5
"""Seconds after a signal's grace by which the run is over, if SETTLE_SECONDS have passed since the signal."""


@define
class Stop:
    """Whether and why a run starts nothing new, and how long calls in flight may still take."""

    reason: Literal["signal", "window_ended"] | None = None
    _event: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around the run. Its deadline is when calls that are still in flight are cancelled."""
    over_by: float = float("inf")
    """When a run that a signal stops must be over, whatever it still waits for; by Trio's clock."""

    def set(self, reason: Literal["signal", "window_ended"], grace: float) -> None:
        """Start nothing new; after *grace* seconds, cancel calls in flight. A signal outranks the window's end."""
        cut = trio.current_time() + grace
        if self.reason != "signal":
            self.reason = reason
        if reason == "signal":
            self.over_by = min(self.over_by, max(cut + EXIT_SLACK, trio.current_time() + SETTLE_SECONDS))
        self.scope.deadline = min(self.scope.deadline, cut)
        self._event.set()

    def is_set(self) -> bool:
        """Whether the run must start nothing new."""
        return self._event.is_set()

    async def wait(self, seconds: float = float("inf")) -> bool:
        """Wait until stopped, at most *seconds*; return whether it is stopped."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        return self.is_set()
