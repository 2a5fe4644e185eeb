"""When the daemon asks providers what became of the mails: never during a run, and in one process at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

import structlog
import trio
from attrs import define, field

from notifierd.config.settings import Settings
from notifierd.model.errors import NotifierdError, first_of, frame_locations
from notifierd.rules.calendar import Calendar
from notifierd.rules.looks import last_look, next_look
from notifierd.run.context import Site
from notifierd.send.feedback import Looked
from notifierd.send.feedback.open import open_feedback
from notifierd.service.feedback.effects import Effects
from notifierd.service.feedback.look import OpenReader, ask_all, hold_look_lease, providers_set_up
from notifierd.service.site import holder_name
from notifierd.service.watch import Watch
from notifierd.store.feedback import Feedback, RunEnd

REFRESH = timedelta(minutes=5)
"""How often the ledger is asked whether a look is due: another process may have made a run, or the look."""

REMEMBERED = timedelta(days=31)
"""How far back runs are asked about."""

log = structlog.get_logger(__name__)


@define
class Looks:
    """Makes the looks of a daemon.

    Attributes:
        open_site: opens the database that a configuration names.
        settings: the configuration in force.
        now: the wall clock, in UTC.
        watch: gets the alarms.
        opens: when the next window opens; None while a run may be under way in this process.
        slice: the longest sleep in seconds.
    """

    open_site: Callable[[Settings], AbstractAsyncContextManager[Site]]
    settings: Callable[[], Settings]
    now: Callable[[], datetime]
    watch: Watch
    opens: Callable[[], datetime | None]
    slice: float
    open_reader: OpenReader = open_feedback
    holder: str = field(factory=holder_name)
    _effects: Effects = field(factory=Effects)
    _asked: datetime | None = None
    """When this process began its last look."""
    _idle_until: float = 0.0
    """When the ledger is asked next, by Trio's clock."""
    _results: Mapping[str, str] = field(factory=dict)
    _trouble: str = ""
    _look: trio.CancelScope = field(factory=trio.CancelScope)

    async def run(self) -> None:
        """Look whenever it is time, until cancelled. No error ends that."""
        while True:
            await trio.sleep(self.slice)
            with trio.CancelScope() as self._look:
                try:
                    await self._turn()
                except* Exception as group:  # noqa: BLE001 - a look must not end the daemon
                    self._note(first_of(group))

    def cut(self) -> None:
        """Cut off a look that is under way, because a run begins."""
        self._look.cancel()
        self._idle_until = 0.0

    def _note(self, error: BaseException) -> None:
        """Log why no look was possible; the same trouble again is not logged."""
        is_known = isinstance(error, NotifierdError)
        trouble = str(error) if is_known else type(error).__name__
        if trouble != self._trouble:
            if is_known:
                log.warning("not_looked", reason=trouble)
            else:
                log.error("looks_failed", error=trouble, where=frame_locations(error))
        self._trouble = trouble

    async def _turn(self) -> None:
        """Look, if it is time."""
        settings, opens = self.settings(), self.opens()
        if opens is None or trio.current_time() < self._idle_until or not providers_set_up(settings):
            return
        self._idle_until = trio.current_time() + REFRESH.total_seconds()
        async with self.open_site(settings) as site:
            runs = await runs_to_ask(site.feedback, settings, self.now())
            if not runs or any(run.running for run in runs):
                return
            ended = runs[0].ended
            if await self._is_due(site.feedback, settings, last_look(ended, opens, self.now())):
                await self._have_look(site.feedback, settings, runs)
            left = (next_look(ended, opens, self.now()) - self.now()).total_seconds()
            self._idle_until = min(self._idle_until, trio.current_time() + left)

    async def _is_due(self, feedback: Feedback, settings: Settings, due: datetime | None) -> bool:
        """Return whether no process has looked since *due*."""
        if due is None or (self._asked and due <= self._asked <= self.now()):
            return False
        looked = {state.provider: state.looked_at for state in await feedback.looks()}
        asked = [looked.get(name) for name in providers_set_up(settings) if name in settings.email.providers]
        return not asked or any(at is None or at < due for at in asked)

    async def _have_look(self, feedback: Feedback, settings: Settings, runs: Sequence[RunEnd]) -> None:
        async with hold_look_lease(feedback, self.holder, lambda: self.opens() is None) as is_ours:
            if is_ours:
                began = self.now()
                looked = await ask_all(feedback, settings, runs, self.open_reader, self.now)
                self._report(looked)
                for alarm in await self._effects.apply(feedback, settings, runs, looked, self.now()):
                    self.watch.tell(alarm)
                self._asked, self._trouble = began, ""

    def _report(self, looked: Mapping[str, Looked]) -> None:
        """Log how the look ended; a trouble that lasts once."""
        for provider, how in looked.items():
            if how.incomplete and self._results.get(provider) != how.incomplete:
                log.warning("look_incomplete", provider=provider, reason=how.incomplete)
        self._results = {provider: how.incomplete for provider, how in looked.items()}
        incomplete = sorted(provider for provider, reason in self._results.items() if reason)
        log.info("looked", providers=sorted(looked), incomplete=incomplete)


async def runs_to_ask(feedback: Feedback, settings: Settings, now: datetime) -> tuple[RunEnd, ...]:
    """Return the runs about whose mails providers are asked, the newest first."""
    return await feedback.runs(Calendar(settings.window).today(now) - REMEMBERED)
