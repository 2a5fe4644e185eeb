"""A daemon that does what a test says, as the page sees it."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, date, datetime, timedelta

import trio
from attrs import define, field

from notifierd.config.settings import Settings
from notifierd.model.counts import Planned
from notifierd.rules.calendar import Calendar, Window
from notifierd.run.context import Site
from notifierd.service.state import Attempt, Status
from notifierd.service.systemd import Notifier

NINE = datetime(2026, 11, 24, tzinfo=UTC)
"""Nine o'clock in Tokyo, when Trio's clock is 0."""

WINDOW = Window(date(2026, 11, 24), NINE, NINE + timedelta(hours=3))


@define
class Daemon:
    """Satisfies notifierd.web.daemon.DaemonView. It has no database."""

    settings: Settings = field(factory=Settings)
    status: Status = field(factory=lambda: Status(Notifier(), NINE))

    def now(self) -> datetime:
        return NINE + timedelta(seconds=trio.current_time())

    def next_window(self) -> Window:
        return Calendar(self.settings.window).next_window(self.now())

    def open_site(self, settings: Settings) -> AbstractAsyncContextManager[Site]:
        raise NotImplementedError

    async def wakeup(self) -> None:
        await trio.sleep_forever()

    def begin(self, offices: int, email: int, push: int) -> Attempt:
        """A run, planned."""
        self.status.attempt = attempt = Attempt(WINDOW)
        attempt.progress.has_day, attempt.progress.planned = True, Planned(offices, email, push)
        return attempt
