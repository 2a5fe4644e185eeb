"""A daemon in virtual time: the real one, over a ledger in memory, scripted providers and a settable wall clock."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import trio
from attrs import define, evolve, field, frozen

from notifierd.config.settings import HttpSettings, Settings, WindowSettings
from notifierd.model.errors import ConfigError, LedgerUnavailable, SchemaNewer, StatementRefused
from notifierd.rules.cluster.membership import ALONE, Standing, Terms
from notifierd.run.context import RunContext
from notifierd.run.progress import Progress
from notifierd.run.stop import Stop
from notifierd.service.daemon import Daemon
from notifierd.service.systemd import Notifier
from notifierd.web.service import keep_serving
from tests.support.memory import Application
from tests.support.memory_feedback import MemoryFeedback, ScriptedProvider
from tests.support.receivers import Receivers
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, a_run, between


def in_zone(text: str, zone: str = "Asia/Tokyo") -> datetime:
    """A moment as the clocks of *zone* show it."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@frozen
class Heard(Notifier):
    """Keeps what systemd would be told, with Trio's time."""

    lines: list[tuple[float, str]] = field(factory=list, eq=False)

    def _send(self, *lines: str) -> None:
        self.lines.append((trio.current_time(), "\n".join(lines)))

    def statuses(self) -> list[str]:
        """Each status, in order."""
        return [line.removeprefix("STATUS=") for _, line in self.lines if line.startswith("STATUS=")]

    def when(self, start: str) -> list[float]:
        """When lines that start so were said."""
        return [at for at, line in self.lines if line.startswith(start)]


@define
class Diary(ShakyLedger):
    """A ledger that notes when leases were taken, by the wall clock."""

    taken: list[tuple[date, datetime]] = field(factory=list)
    refuses_alarms: bool = False

    async def take_lease(self, day: date, holder: str, terms: Terms = ALONE) -> Standing:
        standing = await super().take_lease(day, holder, terms)
        self.taken.append((day, self.now()))
        return standing

    async def claim_alarm(self, day: date, cause: str) -> bool:
        if self.refuses_alarms:
            raise StatementRefused("database_refused:42P01")
        return await super().claim_alarm(day, cause)


@define
class World:
    """A daemon, and all that is around it.

    Attributes:
        start: what the wall clock shows when Trio's virtual time is 0.
        skew: how far it was set since.
        away: whether the database is unreachable.
        newer: whether its schema is too new for this program.
        broken: what is wrong with the configuration that lies there.
        unfit: what is wrong with the database.
        terms: what the daemon says about itself when it joins a day.
        opening: seconds that it takes to open the database.
        provider: tells what became of the mails.
        slice: the daemon's; its own 20 s would make thousands of naps of a day.
        given_back: when it gave memory back.
    """

    start: datetime
    settings: Settings = field(factory=Settings)
    app: Application = field(factory=Application)
    email: ScriptedSender = field(factory=ScriptedSender)
    skew: timedelta = timedelta()
    away: Callable[[], bool] = field(factory=between)
    newer: Callable[[], bool] = field(factory=between)
    broken: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    terms: Terms = ALONE
    opening: float = 0.0
    slice: float = 300.0
    holder: str = "me"
    given_back: list[datetime] = field(factory=list)
    notifier: Heard = field(factory=Heard)
    ledger: Diary = field(init=False)
    in_force: list[Settings] = field(factory=list)
    receivers: Receivers = field(factory=Receivers)
    provider: ScriptedProvider = field(init=False)
    feedback: MemoryFeedback = field(init=False)
    context: RunContext | None = None
    daemon: Daemon = field(init=False)
    exit_code: int | None = None

    def __attrs_post_init__(self) -> None:
        self.ledger = Diary(self.app, now=self.now)
        self.provider = ScriptedProvider(lambda: self.now().astimezone(UTC))
        self.feedback = MemoryFeedback(self.ledger)
        self.daemon = self.another()

    def another(self) -> Daemon:
        """One more daemon on the same ledger, as this world is now."""
        return Daemon(
            self.load,
            self.open_site,
            self.now,
            self.notifier,
            self.in_force.append,
            self.claim_alarm,
            keep_serving,
            self.slice,
            self.receivers.client,
            lambda: self.given_back.append(self.now()),
            self.provider.open,
        )

    def beside(self, holder: str, terms: Terms) -> "World":
        """Another machine: a daemon of its own on the same ledger, with the same provider and receivers."""
        other = evolve(self, holder=holder, terms=terms)
        other.ledger, other.feedback = evolve(self.ledger), self.feedback
        return other

    def now(self) -> datetime:
        return self.start + timedelta(seconds=trio.current_time()) + self.skew

    def load(self) -> Settings:
        if self.broken:
            raise ConfigError(self.broken)
        return evolve(self.settings, http=HttpSettings(enabled=False))  # real sockets know no virtual time

    @asynccontextmanager
    async def open_site(self, settings: Settings) -> AsyncIterator["FakeSite"]:
        await trio.sleep(self.opening)
        if self.away():
            raise LedgerUnavailable("database_unavailable:ConnectionRefusedError")
        if self.newer():
            raise SchemaNewer("the schema is too new: upgrade notifierd")
        if self.unfit:
            raise ConfigError(self.unfit)
        yield FakeSite(self, settings)

    async def claim_alarm(self, _settings: Settings, day: date, cause: str) -> bool:
        if self.away():
            raise LedgerUnavailable("database_unavailable:ConnectionRefusedError")
        return await self.ledger.claim_alarm(day, cause)

    @asynccontextmanager
    async def serving(self, stop: signal.Signals = signal.SIGTERM) -> AsyncIterator[None]:
        """Have the daemon serve for the block, and *stop* it then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.serve)
            yield
            tell(stop)

    async def serve(self) -> None:
        self.exit_code = await self.daemon.run()

    async def until(self, moment: datetime) -> None:
        """Let time go on to a *moment* of the wall clock."""
        await trio.sleep((moment - self.now()).total_seconds())

    def window(self, **changes: Any) -> None:
        """Change [window] of the configuration that lies there."""
        self.settings = evolve(self.settings, window=evolve(self.settings.window, **changes))

    def states(self) -> dict[str, tuple[str, str | None]]:
        """Each day of the ledger, with its state and reason."""
        return {str(day): (run.state, run.reason) for day, run in sorted(self.ledger.runs.items())}


@frozen
class FakeSite:
    """The world's ledger, open."""

    world: World
    settings: Settings

    @property
    def ledger(self) -> Diary:
        return self.world.ledger

    @property
    def feedback(self) -> MemoryFeedback:
        return self.world.feedback

    def open_context(
        self, *, window_left: Callable[[], float], stop: Stop, progress: Progress
    ) -> AbstractAsyncContextManager[RunContext]:
        return self._open(window_left, stop, progress)

    @asynccontextmanager
    async def _open(
        self, window_left: Callable[[], float], stop: Stop, progress: Progress
    ) -> AsyncIterator[RunContext]:
        world, limits = self.world, self.settings.limits
        context = a_run(
            world.ledger,
            world.email,
            offices=limits.offices,
            send_timeout=limits.send_timeout,
            window_left=window_left,
            holder=world.holder,
            terms=world.terms,
            stop=stop,
            progress=progress,
        )
        world.context = context
        yield context


def tell(signum: signal.Signals) -> None:
    """Send this process a signal, which somebody must be receiving for."""
    assert signal.getsignal(signum) not in {signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler}
    os.kill(os.getpid(), signum)


def in_window(zone: str = "Asia/Tokyo", **window: Any) -> Settings:
    """The defaults, with this [window]."""
    return Settings(window=WindowSettings(timezone=zone, **window))
