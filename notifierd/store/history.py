"""Read the ledger for people: how each day went, what failed and why, what is open, and which alerts reached nobody.

These statements run beside a live run: they take no lock, write nothing, and return at most as many rows as their limit
says. Offices appear by the names that the application gives them. No other names are read.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from attrs import asdict, frozen

from notifierd.model.counts import ChannelCounts, Tallies
from notifierd.model.delivery import Channel, State
from notifierd.rules.report import channels_json
from notifierd.store.database import Database, Row
from notifierd.store.sql import history, members

ROWS = 1000
FIRST_DAY = date(1, 1, 1)
NIL = UUID(int=0)


@frozen
class UntoldTotal:
    """How many alerts reached nobody, how many of those are overdue, and in how many offices."""

    alerts: int
    overdue: int
    offices: int


@frozen
class Day:
    """One day, as one line of the history.

    Attributes:
        holder: the process that has the day's lease now.
        offices: the offices with something due; of a day that goes on, the counts may be some seconds old.
        offices_done: how many of them are done; None unless the day goes on and was counted since it began.
        untold: None while the run is in progress, and on a day without a run.
    """

    day: date
    state: str
    reason: str | None
    holder: str | None
    started_at: datetime | None
    finished_at: datetime | None
    offices: int
    offices_failed: int
    email: ChannelCounts
    push: ChannelCounts
    untold: UntoldTotal | None
    offices_done: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the day as one JSON object, with the keys of a run's report; times in ISO 8601."""
        return {
            "day": str(self.day),
            "state": self.state,
            "reason": self.reason,
            "holder": self.holder,
            "started_at": self.started_at and self.started_at.isoformat(),
            "finished_at": self.finished_at and self.finished_at.isoformat(),
            "offices": {"total": self.offices, "ok": self.offices - self.offices_failed, "failed": self.offices_failed},
            **channels_json(self.email, self.push),
            "untold": asdict(self.untold) if self.untold else None,
        }


@frozen
class ReasonCount:
    """A reason why deliveries of one channel and state reached nobody, with the number of deliveries and of offices."""

    channel: Channel
    state: State
    reason: str
    deliveries: int
    offices: int


@frozen
class FailureLine:
    """A delivery that reached nobody. ``office_name`` is None if the office no longer exists."""

    id: UUID
    office_id: UUID
    office_name: str | None
    staff_id: UUID
    channel: Channel
    state: State
    reason: str
    provider: str | None
    updated_at: datetime


@frozen
class TroubledOffice:
    """An office with deliveries that reached nobody.

    Attributes:
        error: why the office failed as a whole, if it did.
    """

    office_id: UUID
    office_name: str | None
    failed: int
    unknown: int
    expired: int
    error: str | None


@frozen
class UntoldOffice:
    """An office with alerts that reached nobody, and how many of them are overdue."""

    office_id: UUID
    office_name: str | None
    alerts: int
    overdue: int


@frozen
class DeliveryLine:
    """One delivery in its present state. ``tries`` counts the calls that included it."""

    id: UUID
    office_id: UUID
    staff_id: UUID
    channel: Channel
    device_id: UUID | None
    state: State
    reason: str | None
    attempts: int
    tries: int
    provider: str | None
    provider_message_id: str | None
    not_before: datetime | None
    updated_at: datetime


@frozen
class OfficeDay:
    """What was sent to one office on one day."""

    day: date
    email: ChannelCounts
    push: ChannelCounts


@frozen
class Open:
    """The open deliveries of one channel on one day.

    Attributes:
        waiting: how many of *planned* and *sending* are not due yet: they were postponed, or are in flight.
        next_turn: when the first of the waiting deliveries has its turn.
    """

    day: date
    channel: Channel
    planned: int
    sending: int
    waiting: int
    next_turn: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as one JSON object."""
        turn = self.next_turn and self.next_turn.isoformat()
        return asdict(self) | {"day": str(self.day), "channel": self.channel.value, "next_turn": turn}


@frozen
class MemberLine:
    """A process that works on a day, as it told when it last renewed its lease.

    Attributes:
        leads: whether it plans, closes and ends the day.
        email, push: how many calls at once it may make.
        per_second: how many mail calls it may begin in a second; 0: no limit, or none.
        done: what it has done since it joined.
    """

    day: date
    name: str
    host: str
    version: str
    leads: bool
    email: int
    push: int
    per_second: float
    joined_at: datetime
    renewed_at: datetime
    done: Tallies

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object; times in ISO 8601."""
        return {
            "name": self.name,
            "host": self.host,
            "version": self.version,
            "leads": self.leads,
            "slots": {"email": self.email, "push": self.push},
            "per_second": self.per_second,
            "rate": self.done.rate,
            "settled": {channel.value: self.done.of(channel) for channel in Channel},
            "offices_done": self.done.offices_done,
            "offices_in_hand": self.done.offices_in_hand,
            "joined_at": self.joined_at.isoformat(),
            "renewed_at": self.renewed_at.isoformat(),
        }


@frozen
class FailureFilter:
    """A filter for failures; a field that is None filters nothing."""

    channel: Channel | None = None
    state: State | None = None
    reason: str | None = None
    office_id: UUID | None = None


ALL = FailureFilter()


@frozen
class Overview:
    """Read-only queries of the ledger; each is one statement.

    Every method raises LedgerUnavailable or StatementRefused.
    """

    _db: Database

    async def days(self, last: date, limit: int = 30, first: date = FIRST_DAY) -> tuple[Day, ...]:
        """Return the days with a record from *last* back to *first*, the newest first."""
        return tuple(map(_day, await self._db.read(history.DAYS, first, last, limit)))

    async def uncounted(self, last: date, limit: int = 30) -> int:
        """Return how many of `days` before *last* have no counts that were kept: see `Ledger.keep_counts`."""
        (row,) = await self._db.read(history.UNCOUNTED, last, limit)
        return int(row["days"])

    async def members(self) -> tuple[MemberLine, ...]:
        """Return who works on the day that goes on, the eldest first."""
        return tuple(map(_member, await self._db.read(members.AT_WORK)))

    async def last_run(self, last: date) -> date | None:
        """Return the last day up to *last* that had a run."""
        (row,) = await self._db.read(history.LAST_RUN, last)
        found: date | None = row["day"]
        return found

    async def day(self, day: date) -> Day | None:
        """Return one day; None if it has no record."""
        return next(iter(await self.days(day, 1, day)), None)

    async def reasons(self, day: date, of: FailureFilter = ALL, limit: int = ROWS) -> tuple[ReasonCount, ...]:
        """Return why deliveries of *day* reached nobody, the most frequent reason first."""
        rows = await self._db.read(history.REASONS, day, *_filter_values(of), limit)
        return tuple(ReasonCount(**_typed(row)) for row in rows)

    async def failures(
        self, day: date, of: FailureFilter = ALL, after: FailureLine | None = None, limit: int = ROWS
    ) -> tuple[FailureLine, ...]:
        """Return the deliveries of *day* that reached nobody, office by office, starting behind *after*."""
        place = (after.office_id, after.id) if after else (NIL, NIL)
        rows = await self._db.read(history.FAILURES, day, *_filter_values(of), *place, limit)
        return tuple(FailureLine(**_typed(row)) for row in rows)

    async def troubled_offices(self, day: date, limit: int = ROWS) -> tuple[TroubledOffice, ...]:
        """Return the offices with deliveries of *day* that reached nobody, those with the most first."""
        return tuple(TroubledOffice(**dict(row)) for row in await self._db.read(history.OFFICES, day, limit))

    async def untold(self, day: date, limit: int = ROWS) -> tuple[UntoldOffice, ...]:
        """Return the offices whose alerts had reached nobody when the run of *day* ended, the most overdue first."""
        return tuple(UntoldOffice(**dict(row)) for row in await self._db.read(history.UNTOLD, day, limit))

    async def office_name(self, office_id: UUID) -> str | None:
        """Return the name of an office; None if it no longer exists."""
        rows = await self._db.read(history.NAME_OF_OFFICE, office_id)
        return str(rows[0]["name"]) if rows else None

    async def office(self, day: date, office_id: UUID, limit: int = ROWS) -> tuple[DeliveryLine, ...]:
        """Return the deliveries of one office on *day*."""
        rows = await self._db.read(history.OFFICE, day, office_id, limit)
        return tuple(DeliveryLine(**_typed(row)) for row in rows)

    async def office_days(self, office_id: UUID, last: date, limit: int = 30) -> tuple[OfficeDay, ...]:
        """Return what was sent to one office on the last *limit* days on which something was due, the newest first."""
        rows = await self._db.read(history.OFFICE_DAYS, office_id, last, limit)
        return tuple(OfficeDay(row["day"], *_channels(json.loads(row["states"]))) for row in rows)

    async def open(self) -> tuple[Open, ...]:
        """Return the open deliveries by day and channel."""
        return tuple(Open(**_typed(row)) for row in await self._db.read(history.OPEN))


def _day(row: Row) -> Day:
    counts = json.loads(row["counts"])
    untold = json.loads(row["untold"]) if row["untold"] else None
    email, push = _channels(counts["states"])
    return Day(
        day=row["day"],
        state=row["state"],
        reason=row["reason"],
        holder=row["holder"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        offices=counts["offices"],
        offices_failed=counts["offices_failed"],
        email=email,
        push=push,
        untold=UntoldTotal(**untold) if untold else None,
        offices_done=counts.get("offices_done"),
    )


def _member(row: Row) -> MemberLine:
    fields = dict(row)
    told = fields.pop("tallies")
    return MemberLine(**fields, done=Tallies.from_json(json.loads(told)) if told else Tallies())


def _channels(states: Sequence[Mapping[str, Any]]) -> tuple[ChannelCounts, ChannelCounts]:
    """Return the counts of mails and of pushes from the rows of a jsonb list."""
    of = {channel: {row["state"]: row["n"] for row in states if row["channel"] == channel} for channel in Channel}
    return ChannelCounts.of(of[Channel.EMAIL]), ChannelCounts.of(of[Channel.PUSH])


def _filter_values(of: FailureFilter) -> tuple[str | None, str | None, str | None, UUID | None]:
    return of.channel, of.state, of.reason, of.office_id


def _typed(row: Row) -> dict[str, Any]:
    """Return *row* with its texts converted to channels and states."""
    kinds = {"channel": Channel, "state": State}
    return {key: kinds[key](value) if key in kinds else value for key, value in row.items()}
