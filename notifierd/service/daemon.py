"""The daemon: waits for each day's window, has the day run, and obeys signals. Sends nothing itself.

One loop decides what is next from the clock, the configuration and the ledger, and looks anew after each slice of a
wait: so a clock that was set, a machine that slept, a reload and another process' doings are all noticed the same way.
"""

import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import date, datetime, timedelta

import structlog
import trio
from attrs import define, field

from notifierd.config.settings import Settings
from notifierd.model.errors import ConfigError, LeaseHeld, LedgerUnavailable, NotifierdError, first_of, plain_errors
from notifierd.rules import alarms
from notifierd.rules.calendar import Calendar, Window
from notifierd.rules.report import EXIT_INTERRUPTED, EXIT_OK, RunResult
from notifierd.run.context import Site
from notifierd.run.day import run_day
from notifierd.run.progress import Progress
from notifierd.run.stop import Stop
from notifierd.service import memory
from notifierd.service.reckoning import Unfinished, without_run
from notifierd.service.site import limit
from notifierd.service.state import Attempt, Status, log_report
from notifierd.service.systemd import Notifier
from notifierd.service.watch import FirstToTell, OpenClient, Watch, one_client, open_watch

PAUSE = 5.0
"""Seconds until what could not be done is tried again: a lease that another process has, a database that is away."""

GRACE = 30.0
"""Seconds that systemd is asked for at each step of a start, and beyond the end of a stop."""

_DAY = timedelta(days=1)

log = structlog.get_logger(__name__)


@define
class Daemon:
    """``notifierd run``.

    Attributes:
        load: reads the configuration; raises ConfigError.
        open_site: opens the database that a configuration names; see ``site.open_site``.
        now: the wall clock, in UTC.
        notifier: who is told what goes on.
        in_force: is told of each configuration from when on it is the one.
        first_to_tell: see ``site.first_to_tell``.
        keep_serving: serves the page of a daemon, from when it is first switched on, until it is cancelled.
        slice: seconds for which anybody sleeps at once, so that a clock that was set is noticed.
        give_back: called after a run, which leaves memory that nobody needs.
    """

    load: Callable[[], Settings]
    open_site: Callable[[Settings], AbstractAsyncContextManager[Site]]
    now: Callable[[], datetime]
    notifier: Notifier
    in_force: Callable[[Settings], object]
    first_to_tell: FirstToTell
    keep_serving: Callable[["Daemon"], Awaitable[None]]
    slice: float = 20.0
    open_client: OpenClient = one_client
    give_back: Callable[[], None] = memory.give_back
    settings: Settings = field(init=False)
    status: Status = field(init=False)
    watch: Watch = field(init=False)
    _began: datetime = field(init=False)
    _done: date | None = None
    """The last day of which there is nothing left to do."""
    _reckoned: tuple[date, date] | None = None
    """The day before which each has its line in the ledger, and the one before which nothing is open."""
    _unfinished: Unfinished | None = None
    """The day before, if its run did not come to its end."""
    _troubles: dict[date, str] = field(factory=dict)
    """Why a day could not be run when that was last tried."""
    _interrupted: bool = False
    _work: trio.CancelScope = field(factory=trio.CancelScope)
    _stirred: trio.Event = field(factory=trio.Event)

    async def run(self) -> int:
        """Serve until a signal ends it; the exit code.

        Raises:
            ConfigError: the configuration cannot be used, or the database or its views are not what it says.
            SchemaMissing: the ledger is not there.
            StatementRefused: the database does not let it be looked at.
        """
        self._began = self.now()
        self.status = Status(self.notifier, self._began)
        self._put_in_force(self.load())
        with plain_errors():
            async with trio.open_nursery() as nursery:
                async with open_watch(lambda: self.settings, self.first_to_tell, self.open_client) as self.watch:
                    await nursery.start(self._obey_signals)
                    nursery.start_soon(self._serve)
                    with self._work:
                        await self._start()
                        while not self.status.stopping:
                            await self._go_on()
                nursery.cancel_scope.cancel()
        log.info("stopped", interrupted=self._interrupted)
        return EXIT_INTERRUPTED if self._interrupted else EXIT_OK

    async def _start(self) -> None:
        """Wait until the database can be reached, and see that everything is there for a run."""
        while not self.status.ready:
            self.notifier.starting(GRACE)
            self.status.tell()
            try:
                await self._require_fit(self.settings)
            except LedgerUnavailable as error:
                self._await_database(error)
                await self._nap(PAUSE)
            else:
                self.status.ready = True
        self.notifier.ready()
        log.info("ready")

    async def _go_on(self) -> None:
        """Do what the moment asks for: have the day run whose window is open, or sleep a slice."""
        await self._look_again()
        window = self.next_window()
        await self._reckon()
        self._skip()
        left = (window.opens - self.now()).total_seconds()
        if left <= 0:
            if await self._have_run(window):
                self.give_back()
        else:
            opens = self._local(window.opens)
            self.status.enter(f"sleeping until {opens}", "sleeping", until=opens)
            await self._nap(left)

    def next_window(self) -> Window:
        """The window that is open now and not done, else the next to open."""
        calendar = Calendar(self.settings.window)
        window = calendar.next_window(self.now())
        return calendar.next_window(window.ends) if window.day == self._done else window

    async def _look_again(self) -> None:
        """See whether there is something left to do of the day that is done, as long as its window is open."""
        window = Calendar(self.settings.window).next_window(self.now())
        if window.day != self._done or window.opens > self.now():
            return
        with suppress(NotifierdError):  # the next slice tries again
            async with self.open_site(self.settings) as site:
                run = await site.ledger.run(window.day)
                if run and run.state == "interrupted":  # by `retry`, or as `once` was
                    self._done = None

    def _skip(self) -> None:
        """Say of a closed day, from when its window would open, that it has come."""
        calendar = Calendar(self.settings.window)
        day = calendar.today(self.now())
        if (closed := calendar.closed(day)) and calendar.window(day)[0] <= self.now():
            self.watch.skipped(day, closed)

    async def _nap(self, seconds: float) -> None:
        """Sleep one slice of *seconds*, or until something stirs."""
        with trio.move_on_after(min(seconds, self.slice, self.notifier.watchdog / 3 or self.slice)):
            await self._stirred.wait()
        self.status.naps += 1
        self.status.tell()

    async def _require_fit(self, settings: Settings) -> None:
        """Open all that a run with *settings* would work with, and close it again.

        Raises:
            LedgerUnavailable, StatementRefused, SchemaMissing, ConfigError: what is not as it should be.
        """
        async with (
            self.open_site(settings) as site,
            site.open_deps(window_left=lambda: 0.0, stop=Stop(), progress=Progress()),
        ):
            pass

    def _local(self, moment: datetime, form: str = "%a %d %b %H:%M %Z") -> str:
        """*moment* as the window's zone has it."""
        return moment.astimezone(self.settings.window.zone).strftime(form)

    # ------------------------------------------------------------------------------------------------------- a day

    async def _have_run(self, window: Window) -> bool:
        """Have the day of *window* run, and say whether it was; if that cannot be, say why, and wait a little."""
        day, result = window.day, None
        attempt = self.status.attempt = Attempt(window, progress=Progress(self.status.tally))
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
            self._interrupted = self.status.stopping and attempt.deps is not None and self._done != day
            self.status.leave_attempt(result)
            self.status.tell()
        if self._done != day and not self.status.stopping:
            await self._nap(PAUSE)
        return result is not None

    async def _run(self, attempt: Attempt) -> RunResult | None:
        """One try, to its end; None if another process has done the day.

        Raises:
            LeaseHeld: another process has the day.
            LedgerUnavailable, StatementRefused, SchemaMissing, ConfigError: it could not be run, or not to its end.
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
                site.open_deps(window_left=window_left, stop=attempt.stop, progress=attempt.progress) as attempt.deps,
                self.watch.over(window.day, attempt.deps),
            ):
                result = await run_day(window.day, attempt.deps)
        if result.state != "interrupted":
            self._done = window.day
        self.watch.ended(window.day, result)
        log_report(window.day, result)
        return result

    def _put_off(self, day: date, error: BaseException) -> None:
        """Say why *day* cannot be run now, and remember it, should its window end so."""
        self._troubles[day] = str(error)
        match error:
            case LeaseHeld():
                self.status.enter(f"standing by: {error}", "standing_by", run=str(day), holder=error.holder)
            case LedgerUnavailable():
                self._await_database(error)
            case _:
                words = f"cannot run {day}: {error}"
                self.status.enter(words, "cannot_run", error=True, run=str(day), reason=str(error))
                self.watch.failed(day, error)

    def _await_database(self, error: LedgerUnavailable) -> None:
        words = f"waiting for the database ({error})"
        self.status.enter(words, "waiting_for_database", error=True, reason=error.reason)

    async def _reckon(self) -> None:
        """Write of the days whose window is over what became of them; what is open expires only with its date."""
        calendar = Calendar(self.settings.window)
        day, today = calendar.first_to_come(self.now()), calendar.today(self.now())
        if self._reckoned == (day, today):
            return
        try:
            async with self.open_site(self.settings) as site:
                last = await site.ledger.last_day(day - _DAY)
                runs = without_run(calendar, last, day, self._began, self._troubles)
                new = {each: runs[each] for each in await site.ledger.record(runs)}
                for each, (state, reason) in new.items():
                    (log.error if state == "missed" else log.info)(state, run=str(each), reason=reason)
                    self.status.tally.runs[state] += 1
                if missed := {each: reason for each, (state, reason) in new.items() if state == "missed"}:
                    self.watch.tell(alarms.missed(missed))
                self.status.tally.deliveries.update(await site.ledger.close_earlier(today))
                left = await site.ledger.leave_open(last) if last else 0
                before = await site.ledger.run(last) if last else None
        except NotifierdError as error:  # the next slice tries again
            if str(error) != self.status.away:
                log.warning("ledger_not_seen", reason=str(error))
            self.status.away = str(error)
        else:
            self.status.away = ""
            if before and before.state == "running":
                return  # by a process that had the lease, and may still end it
            run = before if before and before.state == "interrupted" else None
            self._tell_unfinished(Unfinished(last, str(run.reason), left) if last and run else None, today)
            self._reckoned = None if left else (day, today)  # looked at anew as long as it waits for `once`
            self._troubles = {known: why for known, why in self._troubles.items() if known >= day}

    def _tell_unfinished(self, found: Unfinished | None, today: date) -> None:
        """Say once of the day before that its run did not come to its end, and what of it waits for `once`."""
        if found != self._unfinished:
            self._unfinished, self.status.left_open = found, ""
            if found and (alarm := found.alarm(today)):
                self.watch.tell(alarm)
            if found and found.left:
                calendar = Calendar(self.settings.window)
                until = self._local(calendar.day_ends(found.day))
                self.status.leave_open(found.day, found.left, found.sent_by(calendar), until)

    # ------------------------------------------------------------------------------------------------- being looked at

    async def stirred(self) -> None:
        """Wait until a reload is over."""
        await self._stirred.wait()

    async def _serve(self) -> None:
        while not self.settings.http.enabled:
            await self.stirred()
        await self.keep_serving(self)

    # ------------------------------------------------------------------------------------------ signals and reload

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        reload = trio.Event()

        async def keep_reloading() -> None:
            nonlocal reload
            while True:
                await reload.wait()
                reload = trio.Event()  # what comes from now on asks for another
                await self._reload()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_reloading)
            with trio.open_signal_receiver(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as signals:
                task_status.started()
                async for received in signals:
                    match received:
                        case signal.SIGHUP:
                            reload.set()
                        case signal.SIGUSR1:
                            self.status.log_all()
                        case _:
                            self._stop(at_once=received == signal.SIGINT and self.status.stopping)

    def _stop(self, *, at_once: bool) -> None:
        """Begin nothing more; a run that goes on has its grace, or is cut *at_once*."""
        self.status.stopping = True
        if at_once:
            self.watch.close(0.0)
        attempt, ends = self.status.attempt, trio.current_time()
        if attempt is None or attempt.deps is None:
            self._work.cancel()
        else:
            attempt.stop.set("signal", 0.0 if at_once else self.settings.limits.shutdown_grace)
            self._work.deadline = ends = attempt.stop.over_by
        self.notifier.stopping(ends - trio.current_time() + GRACE)
        self.status.enter("stopping", "stopping")

    async def _reload(self) -> None:
        """Load and check the configuration; if it is good, it is the one from now on, else nothing changes."""
        if self.status.stopping:
            return
        if self.status.ready:
            self.notifier.reloading()
        try:
            settings = self.load()
            await self._require_reloadable(settings)
        except NotifierdError as error:
            lines = error.problems if isinstance(error, ConfigError) else (str(error),)
            self.status.refused = f"reload refused at {self._local(self.now(), '%H:%M')}: {lines[0]}"
            self.status.refused += f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            log.error("reload_refused", problems=list(lines))  # noqa: TRY400 - a line each, and no traceback
        else:
            self._put_in_force(settings)
            log.info("reloaded")
        if self.status.ready and not self.status.stopping:
            self.notifier.ready()
        self.status.tell()
        self._stirred.set()  # whoever naps looks anew
        self._stirred = trio.Event()

    async def _require_reloadable(self, settings: Settings) -> None:
        """See that a run could be made with *settings*; a database that is away is no fault of theirs if it was ours.

        Raises:
            LedgerUnavailable: they name another database, and it cannot be reached.
            StatementRefused, SchemaMissing, ConfigError: what is not as it should be.
        """
        try:
            await self._require_fit(settings)
        except LedgerUnavailable as error:
            if settings.database != self.settings.database:
                raise
            log.warning("reloaded_unchecked", reason=error.reason)

    def _put_in_force(self, settings: Settings) -> None:
        self.settings, self.status.loaded_at, self.status.refused = settings, self.now(), ""
        self.in_force(settings)
        if self.status.attempt and self.status.attempt.deps:
            limit(self.status.attempt.deps, settings.limits)
        longest = max(settings.database.plan_timeout, settings.limits.send_timeout)
        if 0 < self.notifier.watchdog <= longest:
            log.warning("watchdog_short", seconds=self.notifier.watchdog, one_step_may_take=longest)
