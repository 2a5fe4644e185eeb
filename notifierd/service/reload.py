"""The configuration in force, and its reload: load and check the new one first, then put it in force."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime

import structlog
import trio
from attrs import define, field

from notifierd.config.settings import Settings
from notifierd.model.errors import ConfigError, LedgerUnavailable, NotifierdError
from notifierd.run.context import Limits, Site
from notifierd.run.progress import Progress
from notifierd.run.stop import Stop
from notifierd.service.state import Status

log = structlog.get_logger(__name__)


@define
class Configuration:
    """The configuration in force.

    Attributes:
        load: reads the configuration; raises ConfigError.
        open_site: opens the database that a configuration names.
        now: the wall clock, in UTC.
        in_force: is called with each configuration that comes into force.
    """

    load: Callable[[], Settings]
    open_site: Callable[[Settings], AbstractAsyncContextManager[Site]]
    now: Callable[[], datetime]
    in_force: Callable[[Settings], object]
    status: Status
    settings: Settings = field(init=False)
    _asked: trio.Event = field(factory=trio.Event)
    _reloaded: trio.Event = field(factory=trio.Event)

    def load_first(self) -> None:
        """Load the first configuration and put it in force.

        Raises:
            ConfigError: it cannot be used.
        """
        self._put_in_force(self.load())

    async def require_fit(self, settings: Settings) -> None:
        """Open everything that a run with *settings* needs, and close it again.

        Raises:
            LedgerUnavailable, StatementRefused, SchemaMissing, ConfigError: what a run would fail with.
        """
        async with (
            self.open_site(settings) as site,
            site.open_context(window_left=lambda: 0.0, stop=Stop(), progress=Progress()),
        ):
            pass

    def ask_for_reload(self) -> None:
        """Request a reload. Requests share a reload that has not begun; a later request causes another one."""
        self._asked.set()

    async def keep_reloading(self) -> None:
        """Reload after each request, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            await self._reload()

    async def reloaded(self) -> None:
        """Wait until the next reload is over."""
        await self._reloaded.wait()

    async def _reload(self) -> None:
        """Load and check the configuration, and put it in force; if it cannot be used, change nothing."""
        if self.status.stopping:
            return
        if self.status.ready:
            self.status.notifier.reloading()
        try:
            settings = self.load()
            await self._require_reloadable(settings)
        except NotifierdError as error:
            self._refuse(error)
        else:
            self._put_in_force(settings)
            log.info("reloaded")
        if self.status.ready and not self.status.stopping:
            self.status.notifier.ready()
        self.status.tell()
        self._reloaded.set()
        self._reloaded = trio.Event()

    async def _require_reloadable(self, settings: Settings) -> None:
        """Check that a run is possible with *settings*. The database in force may be unreachable.

        Raises:
            LedgerUnavailable: *settings* name another database, which is unreachable.
            StatementRefused, SchemaMissing, ConfigError: what a run would fail with.
        """
        try:
            await self.require_fit(settings)
        except LedgerUnavailable as error:
            if settings.database != self.settings.database:
                raise
            log.warning("reloaded_unchecked", reason=error.reason)

    def _refuse(self, error: NotifierdError) -> None:
        lines = error.problems if isinstance(error, ConfigError) else (str(error),)
        at = self.now().astimezone(self.settings.window.zone)
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        self.status.refused = f"reload refused at {at:%H:%M}: {lines[0]}{more}"
        log.error("reload_refused", problems=list(lines))

    def _put_in_force(self, settings: Settings) -> None:
        self.settings, self.status.loaded_at, self.status.refused = settings, self.now(), ""
        self.in_force(settings)
        if self.status.attempt and self.status.attempt.context:
            self.status.attempt.context.limit(Limits.of(settings.limits))
        watchdog = self.status.notifier.watchdog
        longest = max(settings.database.plan_timeout, settings.limits.send_timeout)
        if 0 < watchdog <= longest:
            log.warning("watchdog_short", seconds=watchdog, one_step_may_take=longest)
