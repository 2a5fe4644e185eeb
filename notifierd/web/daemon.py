"""The part of the daemon that the web room sees."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from notifierd.config.settings import Settings
from notifierd.rules.calendar import Window
from notifierd.run.context import Site
from notifierd.service.state import Status


class DaemonView(Protocol):
    """A read-only view of the daemon."""

    @property
    def settings(self) -> Settings:
        """The present configuration."""

    @property
    def status(self) -> Status:
        """What the daemon does now."""

    @property
    def now(self) -> Callable[[], datetime]:
        """Return the wall clock, in UTC."""

    @property
    def open_site(self) -> Callable[[Settings], AbstractAsyncContextManager[Site]]:
        """Open the database that a configuration names."""

    def next_window(self) -> Window:
        """Return the window that is open and not done, else the next one."""

    async def wakeup(self) -> None:
        """Wait until a reload is over."""
