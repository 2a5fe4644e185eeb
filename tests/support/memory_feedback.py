"""What became of mails, in memory, beside the ledger in memory; and a provider that tells it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import trio
from attrs import define, evolve, field

from notifierd.config.settings import Settings
from notifierd.model.counts import Untold
from notifierd.model.delivery import Channel, State
from notifierd.model.feedback import TROUBLE, UNREACHED, MailStatus, Verdict
from notifierd.rules.due import Rules
from notifierd.send.feedback import FeedbackReader, Keep, Look, Looked
from notifierd.store.feedback import (
    LOOK_LEASE_SECONDS,
    MOST_MAILS,
    RATE_DAYS,
    Asked,
    Bounces,
    Feedback,
    LookState,
    Mails,
    RunEnd,
)
from tests.support.memory import Hold, MemoryLedger


class MemoryFeedback(Feedback):
    """Feedback over a ledger in memory. Each mail's provider is "resend", and its id the delivery's."""

    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.of(ledger)

    def of(self, ledger: MemoryLedger) -> None:
        """Begin with nothing known."""
        object.__setattr__(self, "it", _Kept(ledger))

    it: "_Kept"

    async def take_look_lease(self, holder: str) -> bool:
        await trio.lowlevel.checkpoint()
        free = self.it.holder in (None, holder) or self.it.lease_until <= trio.current_time()
        return free and await self._lease(holder)

    async def renew_look_lease(self, holder: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self.it.holder == holder and self.it.lease_until > trio.current_time() and await self._lease(holder)

    async def _lease(self, holder: str) -> bool:
        self.it.holder, self.it.lease_until = holder, trio.current_time() + LOOK_LEASE_SECONDS
        return True

    async def release_look_lease(self, holder: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.it.holder == holder:
            self.it.holder = None

    async def runs(self, first: date) -> tuple[RunEnd, ...]:
        await trio.lowlevel.checkpoint()
        ledger = self.it.ledger
        return tuple(
            RunEnd(day, run.finished_at or ledger.now(), run.state == "running" and run.lease_until > ledger.clock())
            for day, run in sorted(ledger.runs.items(), reverse=True)
            if day >= first and run.state not in ("skipped", "missed")
        )

    async def is_running(self) -> bool:
        return any(run.running for run in await self.runs(date.min))

    async def sent(self, days: Sequence[date], most: int = MOST_MAILS) -> Mails:
        await trio.lowlevel.checkpoint()
        return Mails({"resend": Asked({str(key): key for day in days for key in self.it.sent(day)})}, complete=True)

    async def keep(self, provider: str, verdicts: Sequence[Verdict]) -> None:
        await trio.lowlevel.checkpoint()
        for one in verdicts:
            known = self.it.statuses.get(one.delivery_id)
            if known is None or known.severity < one.status.severity:
                self.it.statuses[one.delivery_id] = one.status
                if one.status in UNREACHED:
                    self.it.ledger.not_reached.add(one.delivery_id)

    async def note_look(self, provider: str, complete_until: datetime | None, result: str) -> None:
        await trio.lowlevel.checkpoint()
        known = self.it.looks.get(provider)
        until = complete_until or (known.complete_until if known else None)
        self.it.looks[provider] = LookState(provider, until, self.it.ledger.now(), result)

    async def troubles(self, first: date) -> dict[date, Counter[MailStatus]]:
        await trio.lowlevel.checkpoint()
        found: dict[date, Counter[MailStatus]] = {}
        for key, status in self.it.statuses.items():
            if status in TROUBLE:
                found.setdefault(self.it.ledger.rows[key].day, Counter())[status] += 1
        return found

    async def hold_again(self, day: date) -> None:
        """Hold back who complained; the rest of the rule is the database's."""
        await trio.lowlevel.checkpoint()
        people = {staff.id: staff for _, staff in self.it.ledger.app.staff}
        for key, status in self.it.statuses.items():
            row = self.it.ledger.rows[key]
            someone = people[row.delivery.staff_id]
            if status is MailStatus.COMPLAINED and row.day == day and someone.email:
                last = day + timedelta(days=30)
                hold = Hold(someone.id, someone.email, "complained", day + timedelta(days=1), last)
                if hold not in self.it.ledger.holds:
                    self.it.ledger.holds.append(hold)

    async def recount(self, day: date, rules: Rules) -> tuple[Untold, ...]:
        ledger = self.it.ledger
        now = (await ledger.counts(day, rules)).untold
        lost, ledger.not_reached = ledger.not_reached, set()
        before = {office.office_id for office in (await ledger.counts(day, rules)).untold}
        ledger.not_reached = lost
        return tuple(office for office in now if office.office_id not in before)

    async def looks(self) -> tuple[LookState, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self.it.looks.values())

    async def bounces(self, last: date, days: int = RATE_DAYS) -> Bounces:
        recent = [last - timedelta(days=n) for n in range(days)]
        keys = [key for day in recent for key in self.it.sent(day)]
        statuses = Counter(map(self.it.statuses.get, keys))
        return Bounces(len(keys) - statuses[MailStatus.SUPPRESSED], statuses[MailStatus.BOUNCED])


@define
class _Kept:
    ledger: MemoryLedger
    holder: str | None = None
    lease_until: float = 0.0
    looks: dict[str, LookState] = field(factory=dict)
    statuses: dict[UUID, MailStatus] = field(factory=dict)

    def sent(self, day: date) -> list[UUID]:
        rows = ((key, row) for key, row in self.ledger.rows.items() if row.day == day)
        return [key for key, row in rows if row.delivery.channel is Channel.EMAIL and row.delivery.state is State.SENT]


@define
class ScriptedProvider:
    """A provider that tells what *tells* says of each mail, page by page.

    Attributes:
        seconds: how long each page takes.
        fails: why a look is not complete now; "" if it is.
        looks: when each look began, by the wall clock, and what it asked.
        done: when a look came to its end.
        enforcement: what it says of the account.
    """

    now: Callable[[], datetime]
    tells: Callable[[UUID], MailStatus | None] = lambda _: None
    seconds: float = 1.0
    fails: Callable[[], str] = lambda: ""
    raises: Callable[[], Exception | None] = lambda: None
    looks: list[tuple[datetime, Look]] = field(factory=list)
    done: list[datetime] = field(factory=list)
    enforcement: str = ""
    page: int = 100

    @asynccontextmanager
    async def open(self, provider: str, settings: Settings, **_: Any) -> AsyncIterator[FeedbackReader]:
        assert getattr(settings.email, provider).feedback_key
        yield _Reader(provider, frozenset(MailStatus), self)

    async def look(self, look: Look, keep: Keep) -> Looked:
        self.looks.append((self.now(), evolve(look, sent={})))
        for page in _pages(list(look.sent.values()), self.page):
            await trio.sleep(self.seconds)
            if error := self.raises():
                raise error
            if reason := self.fails():
                return Looked(reason)
            if verdicts := [Verdict(key, status) for key in page if (status := self.tells(key))]:
                await keep(verdicts)
        self.done.append(self.now())
        return Looked(enforcement=self.enforcement)

    def at(self) -> list[str]:
        """When looks began, by the clocks of Tokyo."""
        return [f"{at + timedelta(hours=9):%d %H:%M}" for at, _ in self.looks]


@define
class _Reader:
    name: str
    tells: Any
    provider: ScriptedProvider

    async def look(self, look: Look, keep: Keep) -> Looked:
        return await self.provider.look(look, keep)

    async def probe(self) -> str:
        return self.provider.fails()


def _pages(keys: list[UUID], size: int) -> Iterator[list[UUID]]:
    yield from (keys[start : start + size] for start in range(0, max(1, len(keys)), size))
