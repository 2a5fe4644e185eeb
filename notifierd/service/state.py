"""The daemon's status: in words for systemd, in the log at each change, and in full on SIGUSR1."""

from collections.abc import Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import structlog
import trio
from attrs import asdict, define, field

from notifierd.model.counts import counted
from notifierd.model.delivery import Channel
from notifierd.model.errors import LeaseHeld, LedgerUnavailable, NotifierdError, SchemaNewer
from notifierd.rules.calendar import Window
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.run.progress import ProcessMetrics, Progress
from notifierd.run.stop import Stop
from notifierd.service.systemd import Notifier
from notifierd.store.connection.advice import advice

TELL_EVERY = 1.0

MOST_NAMED = 50
"""The most offices that one log line names."""

log = structlog.get_logger(__name__)


@define
class Attempt:
    """One try to run a day.

    Attributes:
        context: the parts that the run works with; None until they are open.
        began: when the try began, by Trio's clock.
    """

    window: Window
    stop: Stop = field(factory=Stop)
    progress: Progress = field(factory=Progress)
    context: RunContext | None = None
    began: float = field(factory=trio.current_time)

    def words(self) -> str:
        """Return in words how far the run is."""
        progress, day = self.progress, self.window.day
        if progress.planned is None:
            done = f"{day}: planning"
        else:
            offices = min(progress.offices_done, progress.planned.offices)
            done = f"{day}: {offices:,} of {counted(progress.planned.offices, 'office')}"
            mails, pushes = (channel.counted(progress.done(channel)) for channel in Channel)
            done += f", {mails}" + (f", {pushes}" if progress.planned.push else "")
        if self.stop.reason == "signal":
            left = max(0.0, self.stop.scope.deadline - trio.current_time())
            return f"stopping {done}, {counted(len(progress.in_flight), 'office')} in flight, {left:.0f} s left"
        outages = self.context.transports.breakers.outages() if self.context else {}
        out = "".join(f"; {destination} is unavailable ({reason})" for destination, reason in outages.items())
        waiting = f"; waiting for {progress.waiting_for}" if progress.waiting_for else ""
        excess = progress.planned.excess if progress.planned else ()
        beyond = "".join(f"; over the limit: {over.words}" for over in excess)
        shared = f"; {progress.members} daemons share the day" if progress.members > 1 else ""
        led = ", led by this one" if shared and progress.leads else ""
        return f"running {done}{shared}{led}{waiting}{out}{beyond}"

    def limiters(self) -> Mapping[str, str]:
        """Return for each limiter how many tokens are borrowed, and how many tasks wait for one."""
        limiters = self.context.limiters() if self.context else {}
        seen = ((name, limiter.statistics()) for name, limiter in limiters.items())
        return {name: f"{it.borrowed_tokens} of {it.total_tokens:g}, {it.tasks_waiting} waiting" for name, it in seen}


@define
class Status:
    """What the daemon is doing, and what systemd was told of it.

    Attributes:
        loaded_at: when the configuration in force was loaded, in UTC.
        ready: whether a run was possible at the start.
        stopping: whether a signal is ending the daemon.
        state: what the daemon does while no run is under way, in words.
        event, labels: the same as a log event.
        last: how the last run ended.
        refused: why the last reload was refused; "" if it was not.
        away: why the ledger could not be read at the last try; "" if it could.
        left_open: which deliveries wait for `notifierd once`, in words.
        unserved: why the page is not served; "" if it is served, or not wanted.
        naps: the number of slices of sleep that are over.
        attempt: the run that is under way.
        metrics: the counts of all runs of this process.
    """

    notifier: Notifier
    loaded_at: datetime
    ready: bool = False
    stopping: bool = False
    state: str = "starting"
    event: str = "starting"
    labels: Mapping[str, str] = field(factory=dict)
    last: str = ""
    refused: str = ""
    away: str = ""
    left_open: str = ""
    unserved: str = ""
    naps: int = 0
    attempt: Attempt | None = None
    metrics: ProcessMetrics = field(factory=ProcessMetrics)
    _told: str = ""
    _steps: int = 0
    """The steps of earlier attempts."""
    _fed: int = -1

    def enter(self, state: str, event: str, *, error: bool = False, **labels: str) -> None:
        """Enter a *state*; log it if it differs from the last one."""
        if state != self.state:
            self.state, self.event, self.labels = state, event, labels
            (log.error if error else log.info)(event, **labels)
        self.tell()

    def wait_for_database(self, error: LedgerUnavailable) -> None:
        """Enter the state of waiting for an unreachable database."""
        words = f"waiting for the database ({error})"
        self.enter(words, "waiting_for_database", error=True, reason=error.reason, advice=advice(error.sqlstate))

    def stand_by(self, error: SchemaNewer) -> None:
        """Enter the state of a program that is too old for the schema: newer ones run the days meanwhile."""
        self.enter(f"standing by: {error}", "schema_newer", error=True, reason=str(error))

    def put_off(self, day: date, error: BaseException) -> None:
        """Enter the state of waiting until *day* can be run, which *error* prevents."""
        match error:
            case LeaseHeld():
                self.enter(f"standing by: {error}", "standing_by", run=str(day), holder=error.holder)
            case LedgerUnavailable():
                self.wait_for_database(error)
            case SchemaNewer():
                self.stand_by(error)
            case _:
                words = f"cannot run {day}: {error}"
                self.enter(words, "cannot_run", error=True, run=str(day), reason=str(error))

    def ledger_not_seen(self, error: NotifierdError) -> None:
        """Note that the ledger could not be read; log each new reason once."""
        if str(error) != self.away:
            log.warning("ledger_not_seen", reason=str(error))
        self.away = str(error)

    def leave_open(self, day: date, deliveries: int, sent_by: str, until: str) -> None:
        """Note how many *deliveries* of a past *day* wait for the command *sent_by*, and log it."""
        log.warning("left_open", run=str(day), deliveries=deliveries, sent_by=sent_by, until=until)
        wait = "waits" if deliveries == 1 else "wait"
        left = counted(deliveries, "delivery", "deliveries")
        self.left_open = f"{left} of {day} {wait} for `{sent_by}`, until {until}"

    def leave_attempt(self, result: RunResult | None) -> None:
        """Count the attempt that ended, with a *result* or without, and forget it."""
        if self.attempt is None:
            return
        if self.attempt.progress.has_day:
            self.metrics.runs[result.state if result else "interrupted"] += 1
            self.metrics.run_seconds.observe(trio.current_time() - self.attempt.began)
        if result and (counts := result.counts):
            lost = counts.email.lost + counts.push.lost
            mails, pushes = Channel.EMAIL.counted(counts.email.sent), Channel.PUSH.counted(counts.push.sent)
            sent = f"{mails}, {pushes} sent, {lost:,} not"
            self.last = f"{self.attempt.window.day} {result.state}: {sent}"
        self._steps += self.attempt.progress.steps
        self.attempt = None

    def words(self) -> str:
        """Return the status in words."""
        doing = self.attempt.words() if self.attempt and self.attempt.progress.has_day else self.state
        away = self.away and f"the ledger cannot be read ({self.away})"
        last = self.last and f"last run {self.last}"
        return "; ".join(filter(None, [doing, away, self.left_open, last, self.refused, self.unserved]))

    def tell(self) -> None:
        """Tell systemd what is new: the words, and a sign of life if something was done since the last one."""
        if (words := self.words()) != self._told:
            self.notifier.status(words)
            self._told = words
        steps = self.naps + self._steps + (self.attempt.progress.steps if self.attempt else 0)
        if steps != self._fed:
            self.notifier.alive()
            self._fed = steps

    async def keep_telling(self) -> None:
        """Tell systemd again and again, until cancelled."""
        while True:
            self.tell()
            await trio.sleep(min(TELL_EVERY, self.notifier.watchdog / 4 or TELL_EVERY))

    def log_all(self) -> None:
        """Log what every limiter, channel and office is doing."""
        attempt, now = self.attempt, trio.current_time()
        progress = attempt.progress if attempt else Progress()
        log.info(
            "state",
            status=self.words(),
            limiters=attempt.limiters() if attempt else {},
            channels=dict(progress.channels()),
            offices={str(office): round(now - began, 1) for office, began in progress.in_flight.items()},
            tasks=trio.lowlevel.current_statistics().tasks_living,
        )


def in_zone(moment: datetime, zone: ZoneInfo) -> str:
    """Format *moment* for a person in *zone*: ``Tue 24 Nov 09:00 JST``."""
    return f"{moment.astimezone(zone):%a %d %b %H:%M %Z}"


def log_report(day: date, result: RunResult) -> None:
    """Log the result of *day*."""
    if (counts := result.counts) is None:
        return
    log.info(
        "report",
        run=str(day),
        status=result.state,
        reason=result.reason,
        offices=counts.offices,
        offices_failed=counts.offices_failed,
        email=asdict(counts.email),
        push=asdict(counts.push),
    )
    if counts.untold_alerts and not result.will_be_resumed:  # otherwise the next start may still notify them
        log.error(
            "untold",
            run=str(day),
            alerts=counts.untold_alerts,
            overdue=counts.untold_overdue,
            offices=[str(office) for office in counts.untold_offices[:MOST_NAMED]],
            offices_total=len(counts.untold_offices),
        )
