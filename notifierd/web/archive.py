"""Read the ledger for the page: over one connection at a time, with each answer cached for a few seconds.

Fifty pages that are opened at once cause one query. While the database is unreachable, it is queried once in a while,
not once for each page.
"""

from collections.abc import Awaitable, Callable, Hashable
from datetime import date, timedelta
from typing import Any, TypeVar
from uuid import UUID

import trio
from attrs import define, field, frozen

from notifierd.model.errors import DatabaseError, LedgerUnavailable
from notifierd.model.feedback import TROUBLE
from notifierd.model.reasons import Reason
from notifierd.store.database import open_database
from notifierd.store.feedback import Feedback, LookState, Loss
from notifierd.store.history import (
    ALL,
    Day,
    DeliveryLine,
    FailureFilter,
    FailureLine,
    MemberLine,
    OfficeDay,
    Overview,
    ReasonCount,
    TroubledOffice,
    UntoldOffice,
)
from notifierd.web.daemon import DaemonView
from notifierd.web.feedback import Became, Told, became

T = TypeVar("T")

KEPT_FOR = 5.0
"""Seconds for which an answer is cached. It is this short because other processes write to the ledger, too."""

FEEDBACK_KEPT_FOR = 60.0
"""Seconds for which the numbers of what became of mails are cached. Counting them reads every mail of the days: half a
second for seven days of 50,000 mails. They change when a provider is asked, which is every few minutes at most."""

FEEDBACK_DAYS = 7
"""The days whose mails are counted."""

SHARED_KEPT_FOR = 2.0
"""Seconds for which it is cached how far all processes are that share the day: they tell it every two seconds."""

MOST_LISTED_LIVE = 100_000
"""Deliveries. Of a day that goes on and has more, failures are listed only if a filter asks for them, and no offices:
each list reads all of them."""

MOST_KEPT = 32
LOOK_SECONDS = 10.0
DAYS = 30
LISTED = 200
"""The most lines of a list; a filter shows the others."""


RAN = ("running", "completed", "interrupted")

Question = Callable[[Overview, Feedback], Awaitable[T]]


@frozen
class Failures:
    """The deliveries of a day that reached nobody.

    Attributes:
        reasons: of all of them.
        total: how many match the filter.
        listed: those that match, up to LISTED.
    """

    day: date
    reasons: tuple[ReasonCount, ...]
    total: int
    listed: tuple[FailureLine, ...]


@frozen
class Shared:
    """A day that processes share: its counts so far, and who works on it, the eldest first."""

    day: Day | None
    members: tuple[MemberLine, ...]


@frozen
class Recent:
    """The last days, the failures of the last day with a run, and the untold alerts of the last day whose run ended."""

    days: tuple[Day, ...]
    failures: Failures | None
    untold_day: Day | None
    untold: tuple[UntoldOffice, ...]


@frozen
class WholeDay:
    """One day.

    Attributes:
        became: what became of its mails, by provider.
        looks: how far each provider was asked.
    """

    day: Day
    failures: Failures
    untold: tuple[UntoldOffice, ...]
    offices: tuple[TroubledOffice, ...]
    became: tuple[Became, ...]
    looks: tuple[LookState, ...]
    losses: tuple[Loss, ...]

    @property
    def lost_mails(self) -> int:
        """The number of *losses*, also of those beyond LISTED."""
        return sum(one.counts[status] or 0 for one in self.became for status in TROUBLE)


@frozen
class OneOffice:
    """One office: the days on which it had something due, and its deliveries and lost mails of *day*."""

    name: str | None
    days: tuple[OfficeDay, ...]
    day: date
    deliveries: tuple[DeliveryLine, ...]
    losses: tuple[Loss, ...]


@define
class Archive:
    """Queries the ledger that the present configuration names."""

    daemon: DaemonView
    _answers: dict[Hashable, tuple[float, Any]] = field(factory=dict)
    """The cached answers with their times, the oldest first; an answer may be an error."""
    _in_turn: trio.Lock = field(factory=trio.Lock)

    async def recent(self, today: date, of: FailureFilter, stamp: str) -> Recent:
        """Return what the overview shows. When *stamp* changes, older cached answers are not used any more.

        Raises:
            DatabaseError: the ledger cannot be read.
        """

        async def ask(overview: Overview, _: Feedback) -> Recent:
            days = await overview.days(today, DAYS, today - timedelta(days=DAYS - 1))
            ran = next((day for day in days if day.state in RAN), None)
            ended = next((day for day in days if day.untold), None)
            return Recent(
                days,
                await _failures(overview, ran, of) if ran else None,
                ended,
                await overview.untold(ended.day, LISTED) if ended else (),
            )

        return await self._ask(("recent", today, of, stamp), ask)

    async def day(self, day: date, of: FailureFilter, stamp: str) -> WholeDay | None:
        """Return everything about one day; None if the day has no record.

        Raises:
            DatabaseError: the ledger cannot be read.
        """

        async def ask(overview: Overview, feedback: Feedback) -> WholeDay | None:
            if (found := await overview.day(day)) is None:
                return None
            mails, looks = await feedback.days(day, 1), await feedback.looks()
            return WholeDay(
                found,
                await _failures(overview, found, of),
                await overview.untold(day, LISTED),
                () if _is_large(found) else await overview.troubled_offices(day, LISTED),
                became(mails, looks, {day: found.finished_at}),
                looks,
                await feedback.losses(day, limit=LISTED),
            )

        return await self._ask(("day", day, of, stamp), ask)

    async def office(self, office_id: UUID, day: date | None, today: date, stamp: str) -> OneOffice | None:
        """Return one office with its deliveries of *day*; None if there is no such office.

        If *day* is None, they are those of the last day on which the office had something due.

        Raises:
            DatabaseError: the ledger cannot be read.
        """

        async def ask(overview: Overview, feedback: Feedback) -> OneOffice | None:
            name, days = await overview.office_name(office_id), await overview.office_days(office_id, today, DAYS)
            shown = day or (days[0].day if days else today)
            deliveries = await overview.office(shown, office_id, LISTED)
            losses = await feedback.losses(shown, office_id, LISTED)
            return OneOffice(name, days, shown, deliveries, losses) if name is not None or days or deliveries else None

        return await self._ask(("office", office_id, day, today, stamp), ask)

    async def last_days(self, today: date, stamp: str) -> tuple[Day, ...] | None:
        """Return the last days, the newest first; None if the ledger cannot be read."""
        try:
            return await self._ask(("days", today, stamp), lambda overview, _: overview.days(today, DAYS))
        except DatabaseError:
            return None

    async def shared(self, day: date) -> Shared | None:
        """Return how far all processes are that share *day*; None if the ledger cannot be read."""

        async def ask(overview: Overview, _: Feedback) -> Shared:
            members = tuple(member for member in await overview.members() if member.day == day)
            return Shared(await overview.day(day), members)

        try:
            return await self._ask(("shared", day), ask, SHARED_KEPT_FOR)
        except DatabaseError:
            return None

    async def told(self, today: date, last_run: str) -> Told | None:
        """Return what providers told of the mails of the last FEEDBACK_DAYS days; None if the ledger cannot be read.

        When *last_run* changes, older cached answers are not used any more. While a run goes on, they are.
        """

        async def ask(_: Overview, feedback: Feedback) -> Told:
            mails = await feedback.days(today, FEEDBACK_DAYS)
            return Told(mails, await feedback.looks(), len(await feedback.held(today)))

        try:
            return await self._ask(("told", today, last_run), ask, FEEDBACK_KEPT_FOR)
        except DatabaseError:
            return None

    async def _ask(self, key: Hashable, question: Question[T], kept_for: float = KEPT_FOR) -> T:
        async with self._in_turn:
            if key not in self._answers or self._answers[key][0] + kept_for < trio.current_time():
                self._answers.pop(key, None)
                while len(self._answers) >= MOST_KEPT:
                    del self._answers[next(iter(self._answers))]
                answer = await self._look(question)
                self._answers[key] = trio.current_time(), answer
            kept = self._answers[key][1]
        if isinstance(kept, DatabaseError):
            raise kept
        answer_kept: T = kept
        return answer_kept

    async def _look(self, question: Question[T]) -> T | DatabaseError:
        database = self.daemon.settings.database
        patience = min(database.statement_timeout, LOOK_SECONDS)
        try:
            with trio.fail_after(LOOK_SECONDS):
                async with open_database(
                    database.dsn, pool_size=1, statement_timeout=patience, read_only=True, pooler=database.pooler
                ) as db:
                    return await question(Overview(db), Feedback(db))
        except DatabaseError as error:
            return error
        except trio.TooSlowError:
            return LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("timeout"))


async def _failures(overview: Overview, of_day: Day, of: FailureFilter) -> Failures:
    day = of_day.day
    reasons = await overview.reasons(day)
    asked_for = reasons if of == ALL else await overview.reasons(day, of)
    total = sum(reason.deliveries for reason in asked_for)
    later = of == ALL and _is_large(of_day)
    return Failures(day, reasons, total, () if later else await overview.failures(day, of, limit=LISTED))


def _is_large(day: Day) -> bool:
    """Whether *day* goes on, and has too many deliveries to read them all for one look."""
    return day.state == "running" and day.email.planned + day.push.planned > MOST_LISTED_LIVE
