"""What the daemon tells of itself: to systemd in words, to the log at each change, and in full when asked."""

from collections.abc import Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import structlog
import trio
from attrs import asdict, define, field

from notifierd.model.delivery import Channel
from notifierd.model.errors import LeaseHeld, LedgerUnavailable, NotifierdError
from notifierd.rules.calendar import Window
from notifierd.rules.report import RunResult
from notifierd.run.context import Deps
from notifierd.run.progress import Progress, Tally
from notifierd.run.stop import Stop
from notifierd.service.systemd import Notifier

TELL_EVERY = 1.0

MOST_NAMED = 50
"""Offices in one log line."""

log = structlog.get_logger(__name__)


@define
class Attempt:
    """One try at having a day run.

    Attributes:
        deps: what it works with, once that is put together.
        began: by Trio's clock.
    """

    window: Window
    stop: Stop = field(factory=Stop)
    progress: Progress = field(factory=Progress)
    deps: Deps | None = None
    began: float = field(factory=trio.current_time)

    def words(self) -> str:
        """How far it is, in words."""
        progress, day = self.progress, self.window.day
        if progress.planned is None:
            done = f"{day}: planning"
        else:
            offices = min(progress.offices_done, progress.planned.offices)
            done = f"{day}: {offices:,} of {progress.planned.offices:,} offices"
            mails, pushes = (progress.done(channel) for channel in Channel)
            done += f", {mails:,} mails" + (f", {pushes:,} pushes" if progress.planned.push else "")
        if self.stop.reason == "signal":
            left = max(0.0, self.stop.scope.deadline - trio.current_time())
            return f"stopping {done}, {len(progress.in_flight)} offices in flight, {left:.0f} s left"
        outages = self.deps.breakers.outages() if self.deps else {}
        out = "".join(f"; {lane} is unavailable ({reason})" for lane, reason in outages.items())
        waiting = f"; waiting for {progress.waiting_for}" if progress.waiting_for else ""
        overflows = progress.planned.overflows if progress.planned else ()
        beyond = "".join(f"; over the limit: {over.words}" for over in overflows)
        return f"running {done}{waiting}{out}{beyond}"

    def limiters(self) -> Mapping[str, str]:
        """Each limiter: how many of its tokens are borrowed, and how many tasks wait for one."""
        limiters = self.deps.limiters() if self.deps else {}
        seen = ((name, limiter.statistics()) for name, limiter in limiters.items())
        return {name: f"{it.borrowed_tokens} of {it.total_tokens:g}, {it.tasks_waiting} waiting" for name, it in seen}


@define
class Status:
    """What goes on, and what of it systemd knows.

    Attributes:
        loaded_at: when the configuration in force was loaded, in UTC.
        ready: whether everything was there for a run, once.
        stopping: whether a signal ends the daemon.
        state: what the daemon does when no run is under way, in words.
        event, labels: the same for programs, as the log has it.
        last: how the last run ended.
        refused: why the configuration that lies there is not the one in force.
        away: why the ledger could not be looked at when that was last tried.
        left_open: what waits for `notifierd once`, in words.
        unserved: why there is no page, though there should be.
        naps: how many slices of sleep are over.
        attempt: the run that is under way.
        tally: what all runs of this process came to.
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
    tally: Tally = field(factory=Tally)
    _told: str = ""
    _steps: int = 0
    """Those of earlier attempts."""
    _fed: int = -1

    def enter(self, state: str, event: str, *, error: bool = False, **labels: str) -> None:
        """Be in a *state* from now on; the log hears of it once."""
        if state != self.state:
            self.state, self.event, self.labels = state, event, labels
            (log.error if error else log.info)(event, **labels)
        self.tell()

    def wait_for_database(self, error: LedgerUnavailable) -> None:
        """Be waiting for a database that is unreachable."""
        words = f"waiting for the database ({error})"
        self.enter(words, "waiting_for_database", error=True, reason=error.reason)

    def put_off(self, day: date, error: BaseException) -> None:
        """Be waiting because of *error* until *day* can be run."""
        match error:
            case LeaseHeld():
                self.enter(f"standing by: {error}", "standing_by", run=str(day), holder=error.holder)
            case LedgerUnavailable():
                self.wait_for_database(error)
            case _:
                words = f"cannot run {day}: {error}"
                self.enter(words, "cannot_run", error=True, run=str(day), reason=str(error))

    def ledger_not_seen(self, error: NotifierdError) -> None:
        """Note that the ledger could not be read; the log has the same reason once."""
        if str(error) != self.away:
            log.warning("ledger_not_seen", reason=str(error))
        self.away = str(error)

    def leave_open(self, day: date, deliveries: int, sent_by: str, until: str) -> None:
        """Say of a *day* whose window is over what of it waits for the command *sent_by*."""
        log.warning("left_open", run=str(day), deliveries=deliveries, sent_by=sent_by, until=until)
        self.left_open = f"{deliveries:,} deliveries of {day} wait for `{sent_by}`, until {until}"

    def leave_attempt(self, result: RunResult | None) -> None:
        """The attempt is over, with a *result* or without."""
        if self.attempt is None:
            return
        if self.attempt.progress.has_day:
            self.tally.runs[result.state if result else "interrupted"] += 1
            self.tally.run_seconds.observe(trio.current_time() - self.attempt.began)
        if result and (counts := result.counts):
            lost = counts.email.lost + counts.push.lost
            sent = f"{counts.email.sent:,} mails, {counts.push.sent:,} pushes sent, {lost:,} not"
            self.last = f"{self.attempt.window.day} {result.state}: {sent}"
        self._steps += self.attempt.progress.steps
        self.attempt = None

    def words(self) -> str:
        """What goes on, in words."""
        doing = self.attempt.words() if self.attempt and self.attempt.progress.has_day else self.state
        away = self.away and f"the ledger cannot be read ({self.away})"
        last = self.last and f"last run {self.last}"
        return "; ".join(filter(None, [doing, away, self.left_open, last, self.refused, self.unserved]))

    def tell(self) -> None:
        """Tell systemd what is new: the words, and that something went on."""
        if (words := self.words()) != self._told:
            self.notifier.status(words)
            self._told = words
        steps = self.naps + self._steps + (self.attempt.progress.steps if self.attempt else 0)
        if steps != self._fed:
            self.notifier.alive()
            self._fed = steps

    async def keep_telling(self) -> None:
        """Tell as long as a run is under way."""
        while True:
            self.tell()
            await trio.sleep(min(TELL_EVERY, self.notifier.watchdog / 4 or TELL_EVERY))

    def log_all(self) -> None:
        """What every limiter, channel and office is doing."""
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
    """*moment* as a person in *zone* reads it: ``Tue 24 Nov 09:00 JST``."""
    return f"{moment.astimezone(zone):%a %d %b %H:%M %Z}"


def log_report(day: date, result: RunResult) -> None:
    """Log how *day* stands."""
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
    if counts.untold_alerts and result.state != "interrupted":  # else the next start may still tell them
        log.error(
            "untold",
            run=str(day),
            alerts=counts.untold_alerts,
            overdue=counts.untold_overdue,
            offices=[str(office) for office in counts.untold_offices[:MOST_NAMED]],
            offices_total=len(counts.untold_offices),
        )
