"""What became of mails after they were accepted: what providers are asked about, what they said, and what follows.

A look at a provider may be cut off after any statement. Each of them can be repeated, so the next look makes up for it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Literal
from uuid import UUID

from attrs import asdict, field, frozen

from notifierd.config.settings import Audit
from notifierd.model.counts import Untold
from notifierd.model.errors import StatementRefused
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.rules.due import Rules
from notifierd.store.database import Connection, Database, columns
from notifierd.store.postgres import reminder_keys, scope, untold_offices
from notifierd.store.sql import counts, feedback

LOOK_LEASE_SECONDS = 30.0
CHUNK = 5000
MOST_MAILS = 500_000
"""Rule: a look asks about at most 500,000 mails, those of the first days that it names. They take 130 MB of memory."""
KEPT_AT_ONCE = 1000
ROWS = 1000
RATE_DAYS = 7
NIL = UUID(int=0)

_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
"""An enhanced status code (RFC 3463, section 2)."""

_MESSAGE_ID = re.compile(r"[!-~]{1,200}")

_ADDRESS = re.compile(r"(?!.*xn--)[!-~]{1,320}", re.IGNORECASE)
"""An address that can be compared with the application's. One with an internationalized domain cannot: the provider may
name the domain in A-labels (RFC 5890, section 2.3.2.1) that the application has in Unicode."""


@frozen
class Asked:
    """The mails that one provider can be asked about.

    Attributes:
        sent: those that it accepted, by its message id.
        unknown: those whose answer was lost.
    """

    sent: dict[str, UUID] = field(factory=dict, repr=False)
    unknown: set[UUID] = field(factory=set)


@frozen
class Mails:
    """The mails of some days, by provider.

    Attributes:
        complete: whether these are all; False if there are more than MOST_MAILS.
    """

    by_provider: Mapping[str, Asked]
    complete: bool


@frozen
class RunEnd:
    """When the run of a day ended; while it is *running*, until when it has its lease."""

    day: date
    ended: datetime
    running: bool


@frozen
class LookState:
    """How far a provider has been asked.

    Attributes:
        complete_until: until then every answer was read; None if no look was complete.
        result: why the last look was not complete; "" if it was.
    """

    provider: str
    complete_until: datetime | None
    looked_at: datetime
    result: str

    def as_json(self) -> dict[str, object]:
        """Return the state as one JSON object."""
        until = self.complete_until and self.complete_until.isoformat()
        return {"provider": self.provider, "complete_until": until, "result": self.result}


@frozen
class Held:
    """A staff member whose mails are held back, from the day *since* to the day *until*."""

    staff_id: UUID
    reason: Literal["complained", "suppressed"]
    since: date
    until: date

    def as_json(self) -> dict[str, object]:
        """Return the hold as one JSON object."""
        return {key: str(value) for key, value in asdict(self).items()}


@frozen
class FeedbackDay:
    """What became of one provider's mails of a day.

    Attributes:
        not_known: the mails of which the provider has told nothing.
    """

    day: date
    provider: str
    delivered: int
    delayed: int
    bounced: int
    refused: int
    suppressed: int
    complained: int
    not_known: int

    def as_json(self) -> dict[str, object]:
        """Return the day as one JSON object."""
        return asdict(self) | {"day": str(self.day)}


@frozen
class Loss:
    """A mail that was accepted, and then reached nobody or was complained of.

    Attributes:
        office_name: None if the office no longer exists.
        code: the enhanced status code; "" if the provider gave none.
        changed: whether the application has another address for the staff member now.
        carrier: whether the address is one of a Japanese mobile carrier.
    """

    delivery_id: UUID
    office_id: UUID
    office_name: str | None
    staff_id: UUID
    status: MailStatus
    code: str
    changed: bool
    carrier: bool


@frozen
class Bounces:
    """How many mails of some days left a provider, and how many of those bounced."""

    mails: int
    bounced: int

    @property
    def ratio(self) -> float:
        """The part that bounced; 0 without mails."""
        return self.bounced / self.mails if self.mails else 0.0


@frozen
class Feedback:
    """The part of the ledger that is about mails after they were accepted.

    Every method raises LedgerUnavailable if the database gave no answer, and StatementRefused if it refused the
    statement. Repeating a call is harmless.

    Attributes:
        audit: `content.audit`.
        chunk: how many mails are read at once.
    """

    _db: Database
    audit: Audit = "each"
    chunk: int = CHUNK

    # A look ----------------------------------------------------------------------------------------------------------

    async def take_look_lease(self, holder: str) -> bool:
        """Take the lease for asking, for LOOK_LEASE_SECONDS; return False if another process has it."""
        return bool(await self._db.fetch(feedback.TAKE_LEASE, holder, LOOK_LEASE_SECONDS))

    async def renew_look_lease(self, holder: str) -> bool:
        """Renew the lease for LOOK_LEASE_SECONDS from now; return False if it expired, or another process has it."""
        return bool(await self._db.fetch(feedback.RENEW_LEASE, holder, LOOK_LEASE_SECONDS))

    async def release_look_lease(self, holder: str) -> None:
        """Release the lease of *holder* before it expires."""
        await self._db.fetch(feedback.RELEASE_LEASE, holder)

    async def runs(self, first: date) -> tuple[RunEnd, ...]:
        """Return the runs since the day *first*, the newest first."""
        return tuple(RunEnd(**dict(row)) for row in await self._db.read(feedback.RUNS, first))

    async def is_running(self) -> bool:
        """Return whether any process has a run under way."""
        (row,) = await self._db.fetch(feedback.IS_RUNNING)
        return bool(row["running"])

    async def sent(self, days: Sequence[date], most: int = MOST_MAILS) -> Mails:
        """Return the mails of *days* that providers accepted or may have accepted, read in chunks.

        Args:
            most: how many mails are returned at most; those of the first days come first.
        """
        found: dict[str, Asked] = {}
        left = most
        for day in days:
            place, read = (NIL, NIL), self.chunk
            while read == self.chunk:
                rows = await self._db.read(feedback.ASKED, day, *place, self.chunk)
                for row in rows[:left]:
                    asked = found.setdefault(row["provider"], Asked())
                    if row["sent"]:
                        asked.sent[row["provider_message_id"]] = row["id"]
                    else:
                        asked.unknown.add(row["id"])
                if len(rows) > left:
                    return Mails(found, complete=False)
                read, left = len(rows), left - len(rows)
                if rows:
                    place = rows[-1]["office_id"], rows[-1]["staff_id"]
        return Mails(found, complete=True)

    async def keep(self, provider: str, verdicts: Sequence[Verdict]) -> None:
        """Write what *provider* reports. Of several reports of a mail the worst one stays, in whatever order they come.

        Verdicts on mails that another provider sent, or that are not in the ledger, are left out. A delivery that was
        unknown is settled as sent, with its audit row. If the database refuses the row, the delivery is marked as
        lacking it.
        """
        for start in range(0, len(verdicts), KEPT_AT_ONCE):
            rows = [
                (
                    verdict.delivery_id,
                    verdict.status.value,
                    verdict.code if _CODE.fullmatch(verdict.code) else "",
                    verdict.address if _ADDRESS.fullmatch(verdict.address) else "",
                    verdict.message_id if _MESSAGE_ID.fullmatch(verdict.message_id) else "",
                )
                for verdict in verdicts[start : start + KEPT_AT_ONCE]
            ]
            try:
                await self._db.write(feedback.KEEP[self.audit], provider, *columns(rows, 5))
            except StatementRefused as refused:
                if refused.transient or self.audit != "each":
                    raise
                await self._db.write(feedback.KEEP_BARE, provider, *columns(rows, 5))

    async def note_look(self, provider: str, complete_until: datetime | None, result: str) -> None:
        """Write how a look at *provider* ended.

        Args:
            complete_until: until then every answer was read; None if the look was not complete.
            result: the code of the reason why it was not complete; "" if it was.
        """
        await self._db.write(feedback.NOTE_LOOK, provider, complete_until, result)

    async def troubles(self, first: date) -> dict[date, Counter[MailStatus]]:
        """Return for each day since *first* how many mails of each status in TROUBLE it has."""
        found: dict[date, Counter[MailStatus]] = {}
        for row in await self._db.read(feedback.TROUBLES, first):
            found.setdefault(row["day"], Counter())[MailStatus(row["status"])] = row["mails"]
        return found

    # What follows ----------------------------------------------------------------------------------------------------

    async def hold_again(self, day: date) -> None:
        """Decide anew which mails of *day* are grounds for holding mails back, and then whose mails are held back.

        Mails are held back from the day after a mail that was complained of, or after the second of two days in a row
        on which all mails to the staff member were suppressed; for 30 days.
        """

        async def unit(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(feedback.GROUNDS, day)
                await connection.execute(feedback.HOLD, day)

        self._db.statements.write += 2
        await self._db.unit(unit)

    async def recount(self, day: date, rules: Rules) -> tuple[Untold, ...]:
        """Count the ended run of *day* again; return the offices that feedback added to those that nobody told.

        They stay marked in the run's record, so that another call returns them again. Offices of which no mail was
        lost after it was accepted keep their counts.
        """
        await self._db.write(feedback.COUNT_AGAIN, day)
        offices = {row["office_id"] for row in await self._db.read(feedback.NOT_REACHED_OFFICES, day)}
        if rules.only_offices:
            offices &= rules.only_offices
        if not offices:
            return ()
        horizon, overdue, push, _ = scope(rules)
        recount = counts.RECOUNT[rules.reminders.selective]
        (row,) = await self._db.write(recount, day, horizon, overdue, push, sorted(offices), *reminder_keys(rules))
        return untold_offices(row)

    async def lift(self, staff_id: UUID) -> bool:
        """Stop holding back the mails of a staff member; return whether any were.

        What was reported of the staff member's mails before this moment counts no more.
        """
        (row,) = await self._db.write(feedback.LIFT, staff_id)
        return bool(row["holds"])

    # For people ------------------------------------------------------------------------------------------------------

    async def held(self, day: date, limit: int = ROWS) -> tuple[Held, ...]:
        """Return the staff members whose mails are held back on *day*."""
        return tuple(Held(**dict(row)) for row in await self._db.read(feedback.HELD, day, limit))

    async def held_in(self, day: date, staff_id: UUID) -> dict[UUID, Held]:
        """Return the offices in which mails of one staff member are held back on *day*."""
        found = [dict(row) for row in await self._db.read(feedback.HELD_IN, day, staff_id)]
        return {row.pop("office_id"): Held(**row) for row in found}

    async def looks(self) -> tuple[LookState, ...]:
        """Return how far each provider has been asked."""
        return tuple(LookState(**dict(row)) for row in await self._db.read(feedback.LOOKS))

    async def days(self, last: date, limit: int) -> tuple[FeedbackDay, ...]:
        """Return what became of the mails of the last *limit* days up to *last*, the newest day first."""
        return tuple(FeedbackDay(**dict(row)) for row in await self._db.read(feedback.DAYS, last, limit))

    async def bounces(self, last: date, days: int = RATE_DAYS) -> Bounces:
        """Return how many mails of the last *days* days up to *last* bounced. Suppressed mails are left out."""
        (row,) = await self._db.read(feedback.BOUNCES, last - timedelta(days=days - 1), last)
        return Bounces(**dict(row))

    async def losses(self, day: date, office_id: UUID | None = None, limit: int = ROWS) -> tuple[Loss, ...]:
        """Return the mails of *day*, or of one office on that day, that reached nobody or were complained of."""
        rows = await self._db.read(feedback.LOSSES, day, office_id, limit, feedback.CARRIERS)
        return tuple(Loss(**dict(row) | {"status": MailStatus(row["status"])}) for row in rows)
