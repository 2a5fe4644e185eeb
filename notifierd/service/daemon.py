"""The daemon: waits for each day's window, starts its run, and obeys signals. It sends no message itself.

One loop decides from the clock, the configuration and the ledger what is next, and decides again after each slice of a
wait. So it notices in the same way that the clock was set, that the machine slept, a reload, and other processes.
"""

import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime

import structlog
import trio
from attrs import define, field

from notifierd.config.settings import Settings
from notifierd.model.errors import LedgerUnavailable, NotifierdError, SchemaNewer, first_of, unwrap_groups
from notifierd.rules.calendar import Calendar, Window
from notifierd.rules.exits import EXIT_INTERRUPTED, EXIT_OK
from notifierd.rules.report import RunResult
from notifierd.run.context import Site
from notifierd.run.day import run_day
from notifierd.run.progress import Progress
from notifierd.send.feedback.open import open_feedback
from notifierd.service import memory
from notifierd.service.feedback.look import OpenReader
from notifierd.service.feedback.schedule import Looks
from notifierd.service.reload import Configuration
from notifierd.service.state import Attempt, Status, in_zone, log_report
from notifierd.service.systemd import Notifier
from notifierd.service.upkeep import Upkeep
from notifierd.service.watch import ClaimAlarm, OpenClient, Watch, one_client, open_watch

PAUSE = 5.0
"""Seconds between tries, while another process holds the lease or the database is unreachable."""

GRACE = 30.0
"""Seconds of time that systemd is asked for at each step of a start, and in addition to those of a stop."""

log = structlog.get_logger(__name__)


@define
class Daemon:
    """``notifierd run``.

    Attributes:
        load: reads the configuration; raises ConfigError.
        open_site: opens the database that a configuration names; see ``site.open_site``.
        now: the wall clock, in UTC.
        notifier: tells systemd what the daemon does.
        in_force: is called with each configuration that comes into force.
        claim_alarm: see ``site.claim_alarm``.
        keep_serving: serves the page of a daemon until it is cancelled; called when the page is first switched on.
        slice: the longest sleep in seconds, after which the daemon looks at the clock again.
        give_back: returns memory to the system; called after a run.
        open_reader: opens what asks a provider what became of the mails.
    """

    load: Callable[[], Settings]
    open_site: Callable[[Settings], AbstractAsyncContextManager[Site]]
    now: Callable[[], datetime]
    notifier: Notifier
    in_force: Callable[[Settings], object]
    claim_alarm: ClaimAlarm
    keep_serving: Callable[["Daemon"], Awaitable[None]]
    slice: float = 20.0
    open_client: OpenClient = one_client
    give_back: Callable[[], None] = memory.give_back
    open_reader: OpenReader = open_feedback
    status: Status = field(init=False)
    watch: Watch = field(init=False)
    _config: Configuration = field(init=False)
    _upkeep: Upkeep = field(init=False)
    _looks: Looks = field(init=False)
    _done: date | None = None
    """The last day that has no work left."""
    _interrupted: bool = False
    _work: trio.CancelScope = field(factory=trio.CancelScope)

    async def run(self) -> int:
        """Serve until a signal ends it; return the exit code.

        Raises:
            ConfigError: the configuration cannot be used, or it does not match the database or its views.
            SchemaMissing: the schema of the ledger is missing, or older than this program.
            StatementRefused: the database refuses to let it be read.
        """
        began = self.now()
        self.status = Status(self.notifier, began)
        self._config = Configuration(self.load, self.open_site, self.now, self.in_force, self.status)
        self._config.load_first()
        with unwrap_groups():
            async with trio.open_nursery() as nursery:
                async with open_watch(lambda: self.settings, self.claim_alarm, self.open_client) as self.watch:
                    self._upkeep = Upkeep(self.open_site, self.now, self.status, self.watch, began)
                    self._looks = Looks(
                        self.open_site,
                        lambda: self.settings,
                        self.now,
                        self.watch,
                        self._free_until,
                        self.slice,
                        self.open_reader,
                    )
                    nursery.start_soon(self._config.keep_reloading)
                    await nursery.start(self._obey_signals)
                    nursery.start_soon(self._serve)
                    nursery.start_soon(self._looks.run)
                    with self._work:
                        await self._start()
                        while not self.status.stopping:
                            await self._go_on()
                nursery.cancel_scope.cancel()
        log.info("stopped", interrupted=self._interrupted)
        return EXIT_INTERRUPTED if self._interrupted else EXIT_OK

    # --------------------------------------------------------------------------------------------- what the page sees

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._config.settings

    def next_window(self) -> Window:
        """The window that is open now and has work left, else the next one."""
        calendar = Calendar(self.settings.window)
        window = calendar.next_window(self.now())
        return calendar.next_window(window.ends) if window.day == self._done else window

    async def wakeup(self) -> None:
        """Wait until the next reload is over."""
        await self._config.reloaded()

    async def _serve(self) -> None:
        while not self.settings.http.enabled:
            await self.wakeup()
        await self.keep_serving(self)

    # ------------------------------------------------------------------------------------------------------- the loop

    async def _start(self) -> None:
        """Wait until the database is reachable and its schema is for this program; check that a run is possible."""
        while not self.status.ready:
            self.notifier.starting(GRACE)
            self.status.tell()
            try:
                await self._config.require_fit(self.settings)
            except LedgerUnavailable as error:
                self.status.wait_for_database(error)
                await self._nap(PAUSE)
            except SchemaNewer as error:
                self.status.stand_by(error)
                await self._nap(PAUSE)
            else:
                self.status.ready = True
        self.notifier.ready()
        log.info("ready")

    async def _go_on(self) -> None:
        """Take the next step: run the day whose window is open, or sleep for one slice."""
        self._done = await self._upkeep.still_done(self.settings, self._done)
        window = self.next_window()
        await self._upkeep.close_past_days(self.settings)
        self._upkeep.announce_closed(self.settings)
        left = (window.opens - self.now()).total_seconds()
        if left <= 0:
            if await self._have_run(window):
                self.give_back()
        else:
            opens = in_zone(window.opens, self.settings.window.zone)
            self.status.enter(f"sleeping until {opens}", "sleeping", until=opens)
            await self._nap(left)

    async def _nap(self, seconds: float) -> None:
        """Sleep for one slice of *seconds*, or until a reload."""
        with trio.move_on_after(min(seconds, self.slice, self.notifier.watchdog / 3 or self.slice)):
            await self.wakeup()
        self.status.naps += 1
        self.status.tell()

    # ------------------------------------------------------------------------------------------------------- a day

    def _free_until(self) -> datetime | None:
        """Return when the next window opens; None while one is open, and while nothing new may begin."""
        opens = self.next_window().opens
        is_busy = self.status.stopping or not self.status.ready or self.status.attempt is not None
        return None if is_busy or opens <= self.now() else opens

    async def _have_run(self, window: Window) -> bool:
        """Run the day of *window*; return whether it was run. If it cannot be, say why, and wait a little."""
        self._looks.cut()
        day, result = window.day, None
        attempt = self.status.attempt = Attempt(window, progress=Progress(self.status.metrics))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.status.keep_telling)
                result = await self._run(attempt)
                nursery.cancel_scope.cancel()
        except* NotifierdError as group:
            self._put_off(day, first_of(group))
        except* Exception as group:
            self.watch.failed(day, first_of(group))
            raise
        finally:
            self._interrupted = self.status.stopping and attempt.context is not None and self._done != day
            self.status.leave_attempt(result)
            self.status.tell()
        if self._done != day and not self.status.stopping:
            await self._nap(PAUSE)
        return result is not None

    async def _run(self, attempt: Attempt) -> RunResult | None:
        """Try once to run the day; return None if another process has completed it.

        Raises:
            LeaseHeld: another process holds the day's lease.
            LedgerUnavailable, StatementRefused, SchemaMissing, ConfigError: the run could not begin, or was broken off.
        """
        window = attempt.window

        def window_left() -> float:
            return (window.ends - self.now()).total_seconds()

        async with self.open_site(self.settings) as site:
            run = await site.ledger.run(window.day)
            if run and run.state == "completed":
                self._done = window.day
                self.watch.ended(window.day, None)
                return None
            async with (
                site.open_context(
                    window_left=window_left, stop=attempt.stop, progress=attempt.progress
                ) as attempt.context,
                self.watch.over(window.day, attempt.context),
            ):
                result = await run_day(window.day, attempt.context)
        if result.state != "interrupted":
            self._done = window.day
        self.watch.ended(window.day, result if attempt.progress.leads else None)
        log_report(window.day, result)
        return result

    def _put_off(self, day: date, error: BaseException) -> None:
        """Say why *day* cannot be run now."""
        self._upkeep.note_trouble(day, error)
        self.status.put_off(day, error)
        self.watch.failed(day, error)

    # -------------------------------------------------------------------------------------------------------- signals

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as signals:
            task_status.started()
            async for received in signals:
                match received:
                    case signal.SIGHUP:
                        self._config.ask_for_reload()
                    case signal.SIGUSR1:
                        self.status.log_all()
                    case _:
                        self._stop(at_once=received == signal.SIGINT and self.status.stopping)

    def _stop(self, *, at_once: bool) -> None:
        """Begin nothing more. A run has its grace, or is cut *at_once*."""
        self.status.stopping = True
        if at_once:
            self.watch.close(0.0)
        attempt, ends = self.status.attempt, trio.current_time()
        if attempt is None or attempt.context is None:
            self._work.cancel()
        else:
            attempt.stop.set("signal", 0.0 if at_once else self.settings.limits.shutdown_grace)
            self._work.deadline = ends = attempt.stop.over_by
        self.notifier.stopping(ends - trio.current_time() + GRACE)
        self.status.enter("stopping", "stopping")
