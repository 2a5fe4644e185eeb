"""What follows from what providers told: mails that are held back, alerts that reached nobody after all, alarms."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import structlog
from attrs import define, field

from notifierd.config.settings import Settings
from notifierd.model.counts import Untold
from notifierd.model.feedback import MailStatus
from notifierd.model.message import Alarm
from notifierd.rules import alarms
from notifierd.rules.due import Rules
from notifierd.rules.looks import SETTLED
from notifierd.send.feedback import Looked
from notifierd.store.feedback import RATE_DAYS, Feedback, RunEnd

RECOUNTED = timedelta(days=4)
"""How old a day is at most whose alerts are reckoned again: by then, a final failure is known."""

MOST_LOGGED = 50

log = structlog.get_logger(__name__)

Troubles = Mapping[date, Counter[MailStatus]]


@define
class Effects:
    """Acts upon what was kept. Each of its steps can be repeated.

    It remembers what it acted upon, so that a look acts only upon the days of which something new is known. A new
    process knows of no day, and acts upon all of them.
    """

    _held: Troubles = field(factory=dict)
    _counted: dict[date, Counter[MailStatus]] = field(factory=dict)

    async def apply(
        self,
        feedback: Feedback,
        settings: Settings,
        runs: Sequence[RunEnd],
        looked: Mapping[str, Looked],
        now: datetime,
    ) -> list[Alarm]:
        """Act upon what was told of the mails of *runs*, the newest first; return the alarms.

        Raises:
            DatabaseError: a statement was not carried out; the next call makes up for it.
        """
        last = runs[0].day
        troubles = await feedback.troubles(runs[-1].day)
        for day in sorted({day for day in troubles if troubles[day] != self._held.get(day)} | {last}):
            await feedback.hold_again(day)  # the newest day last, as of which the holds are decided
        self._held = troubles
        untold = await self._recount(feedback, Rules.of(settings), runs, troubles, now)
        bounces = await feedback.bounces(last)
        complaints = {
            day: counts[MailStatus.COMPLAINED]
            for day, counts in troubles.items()
            if counts[MailStatus.COMPLAINED] and day > last - timedelta(days=RATE_DAYS)
        }
        silent = await self._silent(feedback, runs, looked, now)
        return [
            *(alarms.untold_later(day, offices) for day, offices in untold.items()),
            *alarms.bounces(last, bounces.mails, bounces.bounced, settings.watch),
            *(alarms.complaint(day, count) for day, count in complaints.items()),
            *(alarms.no_feedback(last, provider, reason) for provider, reason in silent.items()),
            *(alarms.enforcement(last, name, how.enforcement) for name, how in looked.items() if how.enforcement),
        ]

    async def _recount(
        self, feedback: Feedback, rules: Rules, runs: Sequence[RunEnd], troubles: Troubles, now: datetime
    ) -> dict[date, tuple[Untold, ...]]:
        """Reckon again which alerts reached nobody; return the offices that were added, by day."""
        found: dict[date, tuple[Untold, ...]] = {}
        settled = [run for run in runs if SETTLED <= now - run.ended <= RECOUNTED]
        for run in settled:
            known = troubles.get(run.day, Counter())
            if run is not runs[0] and self._counted.get(run.day) == known:
                continue
            if offices := await feedback.recount(run.day, rules):
                found[run.day] = offices
                if self._counted.get(run.day) != known:
                    named = [str(office.office_id) for office in offices[:MOST_LOGGED]]
                    log.error("untold_later", run=str(run.day), offices=named, offices_total=len(offices))
            self._counted[run.day] = known
        self._counted = {run.day: self._counted[run.day] for run in settled}
        return found

    @staticmethod
    async def _silent(
        feedback: Feedback, runs: Sequence[RunEnd], looked: Mapping[str, Looked], now: datetime
    ) -> dict[str, str]:
        """Return the providers of which no look was complete for too long, with the reason of the last one.

        If no look ever was, that counts from the end of the oldest run.
        """
        until = {state.provider: state.complete_until for state in await feedback.looks()}
        return {
            provider: how.incomplete
            for provider, how in looked.items()
            if how.incomplete and now - (until.get(provider) or runs[-1].ended) >= alarms.SILENT
        }
