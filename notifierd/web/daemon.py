"""What of the daemon is shown: all that this package knows of it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from notifierd.config.settings import Settings
from notifierd.rules.calendar import Window
from notifierd.run.context import Site
from notifierd.service.state import Status


class Shown(Protocol):
    """The daemon, looked at."""

    @property
    def settings(self) -> Settings:
        """The configuration in force."""

    @property
    def status(self) -> Status:
        """What goes on."""

    @property
    def now(self) -> Callable[[], datetime]:
        """The wall clock, in UTC."""

    @property
    def open_site(self) -> Callable[[Settings], AbstractAsyncContextManager[Site]]:
        """Opens the database that a configuration names."""

    def next_window(self) -> Window:
        """The window that is open now and not done, else the next to open."""

    async def stirred(self) -> None:
        """Wait until a reload is over."""
