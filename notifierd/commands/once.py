"""One run now: ``notifierd once``."""

import signal
from datetime import date

import structlog
import trio
from attrs import define, evolve, field, frozen

from notifierd.config.load import missing_for_sending
from notifierd.config.settings import Settings
from notifierd.model.errors import (
    ConfigError,
    DatabaseError,
    LeaseHeld,
    LeaseLost,
    LeaseNotRenewed,
    LedgerUnavailable,
    first_of,
    unwrap_groups,
)
from notifierd.model.feedback import DayFeedback
from notifierd.rules.calendar import Calendar
from notifierd.rules.due import Rules
from notifierd.rules.report import ALREADY_COMPLETED, RunReport, RunResult
from notifierd.run.context import RunContext, lasting
from notifierd.run.day import run_day
from notifierd.run.progress import Progress
from notifierd.run.record.planning import report_excess
from notifierd.run.stop import Stop
from notifierd.send.open import mail_capacity
from notifierd.service.site import PostgresSite, claim_alarm, open_site, utc_now
from notifierd.service.watch import Watch, open_watch
from notifierd.store.ledger import LEASE_SECONDS

LEASE_POLL = 1.0
DATABASE_POLL = 2.0
"""Seconds before a run that a database failure ended is started again."""

log = structlog.get_logger(__name__)


@frozen
class Options:
    """The command line's options for one run.

    Attributes:
        seconds: the longest time it may take; what is open then expires.
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
    _was_completed: bool = field(init=False, default=False)
    _feedback: DayFeedback | None = field(init=False, default=None)
    _watched: Settings = field(init=False)

    def __attrs_post_init__(self) -> None:
        calendar, options = Calendar(self.settings.window), self.options
        today = calendar.today(utc_now())
        self.day = options.day or today
        # The dead man's switch expects only today's run.
        watch = self.settings.watch if self.day == today else evolve(self.settings.watch, ping_url="")
        self._watched = evolve(self.settings, watch=watch)
        if self.day != today and not (options.force or options.dry_run):
            raise ConfigError(
                (f"--day: {self.day} is not today ({today}); add --force to run as if it were, or --dry-run to count",)
            )
        missing = () if options.dry_run else tuple(missing_for_sending(self.settings))
        if missing:
            raise ConfigError(missing)

    async def run(self) -> RunReport:
        """Run, and return the report.

        Raises:
            ConfigError: the database or its views do not match the configuration.
            SchemaMissing: the ledger does not exist.
            LedgerUnavailable: the database could not be reached.
            LeaseHeld: another process runs the day.
        """
        began = trio.current_time()
        with unwrap_groups():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey_signals)
                async with open_watch(lambda: self._watched, claim_alarm) as watch:
                    async with open_site(self.settings, read_only=self.options.dry_run) as site:
                        result = await self._watched_result(site, watch)
                    seconds = trio.current_time() - began
                nursery.cancel_scope.cancel()
        feedback = None
        if self._was_completed and result.state == "completed" and not self.progress.settled:
            result, feedback = evolve(result, reason=ALREADY_COMPLETED), self._feedback
        return RunReport(str(self.day), result, site.statements.read, site.statements.write, seconds, feedback)

    async def _watched_result(self, site: PostgresSite, watch: Watch) -> RunResult:
        """Return the result; report it to the operator, unless this is a dry run."""
        if self.options.dry_run:
            return await self._result(site, watch)
        try:
            result = await self._result(site, watch)
        except Exception as error:
            watch.failed(self.day, first_of(error))
            raise
        watch.ended(self.day, result if self.progress.leads or result.counts is None else None)
        return result

    async def _result(self, site: PostgresSite, watch: Watch) -> RunResult:
        closed = None if self.options.force else Calendar(self.settings.window).closed(self.day)
        if closed:
            if not self.options.dry_run:
                await site.ledger.record({self.day: ("skipped", closed)})
            return RunResult("skipped", closed, None)
        if self.options.dry_run:
            capacity = mail_capacity(self.settings, self.options.seconds)
            counts = await site.ledger.count_due(self.day, Rules.of(self.settings), capacity)
            report_excess(counts.excess)
            return RunResult("dry-run", None, counts)
        before = await site.ledger.run(self.day)
        self._was_completed = before is not None and before.state == "completed"
        if self._was_completed:
            self._feedback = await self._became(site)
        async with (
            site.open_context(
                window_left=lasting(self.options.seconds), stop=self.stop, progress=self.progress
            ) as context,
            watch.over(self.day, context),
        ):
            return await self.run_with(context)

    async def _became(self, site: PostgresSite) -> DayFeedback | None:
        """Return what became of the day's mails since it was completed."""
        from notifierd.service.feedback.known import feedback_of  # noqa: PLC0415 - most runs find work to do

        day = await site.overview.day(self.day)
        return (await feedback_of(site.feedback, [day])).get(self.day) if day else None

    async def run_with(self, context: RunContext) -> RunResult:
        """Run the day. While another process holds the lease, retry for as long as a dead process' lease would last.

        A lost lease is retried, too: a database may have lost its last renewals in a failover. If the database failed
        for longer than the lease, after the day was planned, the run continues when the database is back, while there
        is time.
        """
        give_up = trio.current_time() + LEASE_SECONDS + LEASE_POLL
        while True:
            if context.progress.planned is None:
                left = lasting(self.options.seconds)  # counted from the run's own beginning
                context = evolve(context, clock=evolve(context.clock, window_left=left))
            try:
                return await run_day(self.day, context)
            except LeaseLost:
                if context.clock.window_left() <= 0.0 or await self.stop.wait(LEASE_POLL):
                    raise
                context = self._anew(context)
                give_up = trio.current_time() + LEASE_SECONDS + LEASE_POLL
            except LeaseHeld as held:
                if trio.current_time() > give_up or await self.stop.wait(LEASE_POLL):
                    raise
                if not self.progress.waiting_for:
                    log.warning("waiting_for_lease", holder=held.holder)
                self.progress.waiting_for = held.holder
            except DatabaseError as error:
                if context.progress.planned is None or error.about_row:
                    raise
                await self._await_database(context, error)
                context = self._anew(context)
                give_up = trio.current_time() + LEASE_SECONDS + LEASE_POLL

    async def _await_database(self, context: RunContext, error: DatabaseError) -> None:
        """Wait a little before the run starts again, without the error that ended it.

        Raises:
            LedgerUnavailable: a signal came, or the time is up.
        """
        what, pause = "the run", min(DATABASE_POLL, context.clock.window_left())
        if not isinstance(error, LeaseNotRenewed):  # else the refusals were counted already
            self.progress.trouble.met(what, error.reason)
        with self.progress.trouble.place(what):
            self.progress.waits(what, error.reason)
            if pause <= 0.0 or await self.stop.wait(pause):
                raise LedgerUnavailable(error.reason) from None

    def _anew(self, context: RunContext) -> RunContext:
        """*context* for another try."""
        self.stop = Stop()  # a scope can be entered once
        return evolve(context, stop=self.stop)

    async def _obey_signals(self) -> None:
        """Drain the run at the first signal; stop it at once at a second SIGINT."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for received in signals:
                if received == signal.SIGINT and self.stop.reason == "signal":
                    self.stop.scope.cancel()
                self.stop.set("signal", self.settings.limits.shutdown_grace)


def failed_report(day: date, error: DatabaseError | LeaseHeld) -> RunReport:
    """Return the report of a run that could not start, or whose end is unknown."""
    result = RunResult("interrupted" if isinstance(error, LeaseHeld) else "failed", str(error), None)
    return RunReport(str(day), result, 0, 0, 0.0)
