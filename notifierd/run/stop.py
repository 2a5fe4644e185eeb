"""The end of a run: when it begins nothing more, and how long what is in flight may still take."""

from typing import Literal

import trio
from attrs import define, field

SETTLE_SECONDS = 10.0
"""How long what is known may take to be written at least: once a run is over, or from the signal that stops it."""

EXIT_SLACK = 1.5
"""Seconds from the end of a signal's grace by which the run is over, if it had SETTLE_SECONDS until then."""


@define
class Stop:
    """When a run begins nothing more, why, and how long what is in flight may still take."""

    reason: Literal["signal", "window_ended"] | None = None
    _event: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around the run: its deadline is when what is still in flight is cut."""
    over_by: float = float("inf")
    """When a run that was told to stop by a signal is over, whatever it waits for; by Trio's clock."""

    def set(self, reason: Literal["signal", "window_ended"], grace: float) -> None:
        """Begin nothing more; after *grace* seconds, cut what is in flight. A signal outranks the window's end."""
        cut = trio.current_time() + grace
        if self.reason != "signal":
            self.reason = reason
        if reason == "signal":
            self.over_by = min(self.over_by, max(cut + EXIT_SLACK, trio.current_time() + SETTLE_SECONDS))
        self.scope.deadline = min(self.scope.deadline, cut)
        self._event.set()

    def is_set(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._event.is_set()

    async def wait(self, seconds: float = float("inf")) -> bool:
        """Wait until stopped, at most *seconds*; whether it was."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        return self.is_set()
