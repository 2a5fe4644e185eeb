"""One run now: ``notifierd once``."""

import signal
from datetime import date

import structlog
import trio
from attrs import define, field, frozen

from notifierd.assemble import open_deps, require_fit, rules_of, utc_now
from notifierd.config import missing_for_sending
from notifierd.db import Database, open_database
from notifierd.deps import Deps, Progress, Stop
from notifierd.errors import ConfigError, LeaseHeld, LeaseLost, plain_errors
from notifierd.ledger import LEASE_SECONDS, PostgresLedger
from notifierd.report import RunReport, RunResult
from notifierd.run import run_day
from notifierd.schedule import Calendar
from notifierd.settings import Settings

LEASE_POLL = 1.0

log = structlog.get_logger(__name__)


@frozen
class Options:
    """What the command line asks of one run.

    Attributes:
        seconds: how long it may take; what is open then expires.
    """

    day: date | None = None
    force: bool = False
    seconds: float = 900.0
    dry_run: bool = False


@define
class Once:
    """One run, from the connection to the report."""

    settings: Settings
    options: Options
    progress: Progress = field(factory=Progress)
    stop: Stop = field(factory=Stop)
    day: date = field(init=False)

    def __attrs_post_init__(self) -> None:
        calendar, options = Calendar(self.settings.window), self.options
        today = calendar.today(utc_now())
        self.day = options.day or today
        if self.day != today and not (options.force or options.dry_run):
            raise ConfigError(
                (f"--day: {self.day} is not today ({today}); add --force to run as if it were, or --dry-run to look",)
            )
        missing = () if options.dry_run else tuple(missing_for_sending(self.settings))
        if missing:
            raise ConfigError(missing)

    async def run(self) -> RunReport:
        """Run, and report.

        Raises:
            ConfigError: the database or its views are not what the configuration says.
            SchemaMissing: the ledger is not there.
            LedgerUnavailable: the database could not be reached.
            LeaseHeld: another process runs the day.
        """
        began = trio.current_time()
        database = self.settings.database
        with plain_errors():
            async with (
                open_database(
                    database.dsn, pool_size=database.pool_size, statement_timeout=database.statement_timeout
                ) as db,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._obey_signals)
                await require_fit(db, self.settings)
                result = await self._result(db)
                nursery.cancel_scope.cancel()
        seconds = trio.current_time() - began
        return RunReport(str(self.day), result, db.statements.read, db.statements.write, seconds)

    async def _result(self, db: Database) -> RunResult:
        ledger = PostgresLedger(db, self.settings.database.plan_timeout)
        closed = None if self.options.force else Calendar(self.settings.window).closed(self.day)
        if closed:
            if not self.options.dry_run:
                await ledger.skip(self.day, closed)
            return RunResult("skipped", closed, None)
        if self.options.dry_run:
            return RunResult("dry-run", None, await ledger.rehearse(self.day, rules_of(self.settings)))
        async with open_deps(
            self.settings, db, window_left=self.options.seconds, stop=self.stop, progress=self.progress
        ) as deps:
            return await self._outwait_lease(deps)

    async def _outwait_lease(self, deps: Deps) -> RunResult:
        """Run the day; if another process has it, try for as long as a dead one's lease would last."""
        give_up = trio.current_time() + LEASE_SECONDS + LEASE_POLL
        while True:
            try:
                return await run_day(self.day, deps)
            except LeaseLost:
                raise
            except LeaseHeld as held:
                if trio.current_time() > give_up or await self.stop.wait(LEASE_POLL):
                    raise
                if not self.progress.waiting_for:
                    log.warning("waiting_for_lease", holder=held.holder)
                self.progress.waiting_for = held.holder

    async def _obey_signals(self) -> None:
        """The first signal drains the run; a second SIGINT stops it at once."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for received in signals:
                if received == signal.SIGINT and self.stop.reason == "signal":
                    self.stop.scope.cancel()
                self.stop.set("signal", self.settings.limits.shutdown_grace)
