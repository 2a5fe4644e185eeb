"""Read the data that an office's messages are made from: open deliveries in the ledger, and the five views."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Protocol
from uuid import UUID

import orjson
import trio
from attrs import define, field, frozen

from notifierd.model.delivery import NOT_READ, Channel, Delivery, State
from notifierd.model.errors import StatementRefused
from notifierd.model.office import Alert, Device, Kind, LastRun, OfficeWork, Staff
from notifierd.rules.due import Rules
from notifierd.store.database import Database, Row, columns
from notifierd.store.sql import source

NOBODY = UUID(int=0)
CHUNK = 500
FIRST_CHUNK = 25
"""Offices that are read at once at the beginning of a run. No message leaves while they are read, and reading CHUNK of
them takes about as long as planning them."""
MOST_DEVICES = 100
"""The most devices of one staff member that are explained, the newest first: the highest number that the configuration
allows pushes to go to."""

Place = tuple[int, UUID]
"""The position of an office in the order of urgency: (urgency, office id)."""

START: Place = (-(2**31), UUID(int=0))

CHUNK_LASTS = 4.0
"""Seconds after which the rest of a chunk is read again. An office that begins within this time finds its facts fresh
for its first calls."""


@frozen
class Claim:
    """By whom the offices that are read are claimed. No other member reads them as long as its membership lasts.

    Attributes:
        holder: the member.
        members: how many members work on the day: with others, it takes no more than a part of what nobody has claimed.
        channels: those that it serves now: offices with deliveries of other channels that are due are left to others.
            None: all.
        finished: its offices that the work is finished on: those without open deliveries are done.
    """

    holder: str
    members: int = 1
    channels: Collection[Channel] | None = None
    finished: Sequence[UUID] = ()


SHORTEST = 0.001
"""Seconds: a chunk that is used up at once says nothing more of the next one."""


@define
class ChunkSize:
    """The number of offices to read at once: about as many as begin within CHUNK_LASTS seconds."""

    offices: int = FIRST_CHUNK

    def used_up(self, seconds: float) -> None:
        """Grow to what begins within half of CHUNK_LASTS, if all offices of a chunk began within *seconds*."""
        if seconds < CHUNK_LASTS / 2:
            self.offices = min(CHUNK, int(self.offices * CHUNK_LASTS / 2 / max(seconds, SHORTEST)))

    def became_old(self, begun: int) -> None:
        """Shrink to *begun*, the number of offices that began before the chunk was too old."""
        self.offices = max(1, begun)


@frozen
class Chunk:
    """Up to CHUNK offices that have something to do now, and the position to read on from; None at the end.

    The offices are built as the caller iterates, once, and are not kept. An office whose facts cannot be read along
    with the others has none. Read it again by itself: if that fails, it fails alone.

    Attributes:
        places: the position of each office, in the same order.
    """

    offices: Iterable[OfficeWork]
    places: Sequence[Place]
    after: Place | None


class Source(Protocol):
    """Where a pass reads its work."""

    async def read(self, day: date, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
        """Claim the next offices behind *after*, in order of urgency, that have deliveries whose turn has come.

        Offices that another member has claimed are left out.

        Args:
            most: how many offices are read at most.

        Raises:
            LedgerUnavailable: no answer.
            StatementRefused: the statement was refused.
        """
        ...

    async def read_again(self, work: OfficeWork, day: date, rules: Rules) -> OfficeWork:
        """Return *work* with its facts read again, all as of one moment. Its deliveries stay as they were read.

        Raises:
            LedgerUnavailable: no answer.
            StatementRefused: the statement was refused.
        """


@frozen
class PostgresSource:
    """Keyset pagination over the five views: no cursor stays open, and no transaction spans a send."""

    _db: Database
    chunk: int = field(default=CHUNK)

    async def read(self, day: date, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
        # One office beyond the chunk tells whether there are more, without another statement. If there are other
        # members, the statement decides how many it claims, and only an empty chunk is the last one.
        most, channels = min(most, self.chunk), None if claim.channels is None else [*claim.channels]
        beyond = claim.members == 1
        by_whom = claim.holder, claim.members, list(claim.finished), channels
        rows = await self._db.write(source.CLAIM, day, *after, most + beyond, *by_whom)
        chunk, more = rows[:most], not beyond or len(rows) > most
        if not chunk:
            return Chunk((), (), None)
        deliveries: dict[UUID, str] = {row["office_id"]: row["deliveries"] for row in chunk}
        devices = [
            (row["office_id"], *device)
            for row in chunk
            for device in zip(row["device_ids"] or (), row["pushed_to"] or (), strict=True)
        ]
        facts = await self._facts_or_none(list(deliveries), devices, day, rules)
        works = (
            facts.take_or_leave(office, _deliveries(office, deliveries.pop(office))) for office in tuple(deliveries)
        )
        places = [(row["urgency"], row["office_id"]) for row in chunk]
        return Chunk(works, places, places[-1] if more else None)

    async def read_again(self, work: OfficeWork, day: date, rules: Rules) -> OfficeWork:
        devices = [(d.office_id, d.device_id, d.staff_id) for d in work.deliveries if d.device_id]
        return (await self._facts([work.id], devices, day, rules)).take(work.id, work.deliveries)

    async def works(
        self, deliveries: Mapping[UUID, tuple[Delivery, ...]], day: date, rules: Rules
    ) -> Iterable[OfficeWork]:
        """Return the facts for *deliveries*, which are grouped by office; in the same order.

        As in a chunk, an office that cannot be read along with the others has no facts.
        """
        devices = [(d.office_id, d.device_id, d.staff_id) for ds in deliveries.values() for d in ds if d.device_id]
        facts = await self._facts_or_none(list(deliveries), devices, day, rules)
        return (facts.take_or_leave(office, group) for office, group in deliveries.items())

    async def works_of(self, staff_id: UUID, day: date) -> tuple[OfficeWork, ...]:
        """Return the offices of one staff member with all alerts, and the member's devices and deliveries of *day*."""
        as_of = trio.current_time()
        people = {row["office_id"]: row for row in await self._db.read(source.STAFF_MEMBER, staff_id, day)}
        until, overdue = date.max, True  # all alerts: the reason for leaving one out is explained, too
        alerts = await self._db.read(source.ALERTS, list(people), until, day, overdue)
        (devices,) = await self._db.read(source.DEVICES_OF, staff_id, MOST_DEVICES)
        rows = await self._db.read(source.DELIVERIES_OF, day, list(people), staff_id)
        deliveries = {row["office_id"]: row["deliveries"] for row in rows}
        facts = _Facts(people, _by_office(alerts, "alerts"), dict.fromkeys(people, devices["devices"]), as_of)
        return tuple(facts.take(office, _deliveries(office, deliveries.get(office))) for office in tuple(people))

    async def _facts_or_none(
        self, offices: Sequence[UUID], devices: Sequence[tuple[UUID, UUID, UUID]], day: date, rules: Rules
    ) -> "_Facts":
        """Return the facts as `_facts` does, or none, as of NOT_READ, if rows of an office prevent it."""
        try:
            return await self._facts(offices, devices, day, rules)
        except StatementRefused as refused:
            if not refused.perhaps_about_rows:
                raise
            return _Facts({}, {}, {}, NOT_READ)

    async def _facts(
        self, offices: Sequence[UUID], devices: Sequence[tuple[UUID, UUID, UUID]], day: date, rules: Rules
    ) -> "_Facts":
        """Return the facts in the views about *offices* and their *devices*: (office, device, staff member)."""
        as_of, selective = trio.current_time(), rules.reminders.selective
        rows = await self._db.read(source.FACTS, offices, *_scope(day, rules), *columns(devices, 3), selective)
        people = {row["office_id"]: row for row in rows}
        return _Facts(people, _by_office(rows, "alerts"), _by_office(rows, "devices"), as_of)


@frozen
class _Facts:
    """The rows of the views by office, as JSON: each is parsed when it is taken, and then dropped."""

    _people: dict[UUID, Row]
    _alerts: dict[UUID, str]
    _devices: dict[UUID, str]
    _as_of: float

    def take_or_leave(self, office_id: UUID, deliveries: tuple[Delivery, ...]) -> OfficeWork:
        """Return the office's work, without facts if they cannot be read.

        Reading the office by itself then raises the error.
        """
        if self._as_of == NOT_READ:
            return OfficeWork.unread(office_id, deliveries)
        try:
            return self.take(office_id, deliveries)
        except Exception:  # noqa: BLE001 - whatever a view holds: the error comes again when the office is read alone
            return OfficeWork.unread(office_id, deliveries)

    def take(self, office_id: UUID, deliveries: tuple[Delivery, ...]) -> OfficeWork:
        """Return the work of an office that has *deliveries*."""
        office = self._people.pop(office_id, None)
        name, members = (office["office_name"], office["members"]) if office else (None, None)
        return OfficeWork(
            id=office_id,
            name=name,
            deliveries=deliveries,
            staff={staff.id: staff for staff in map(_staff, _rows(members))},
            alerts=tuple(map(_alert, _rows(self._alerts.pop(office_id, None)))),
            devices={device.id: device for device in map(_device, _rows(self._devices.pop(office_id, None)))},
            as_of=self._as_of,
            last_run=_last_run(office) if office else None,
        )


def _scope(day: date, rules: Rules) -> tuple[date, date, bool]:
    """Return which alerts are read: the parameters $2 to $4 of ALERTS."""
    return day + timedelta(days=rules.horizon_days), day, rules.overdue


def _by_office(rows: Iterable[Row], column: str) -> dict[UUID, str]:
    return {row["office_id"]: row[column] for row in rows}


def _rows(text: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(text) if text else []
    return found


def _last_run(office: Row) -> LastRun:
    missed: list[tuple[str, str]] = orjson.loads(office["missed"]) if office["missed"] else []
    return LastRun(office["previous"], frozenset((UUID(staff_id), Channel(channel)) for staff_id, channel in missed))


def _staff(row: Mapping[str, Any]) -> Staff:
    return Staff(**{**row, "id": UUID(row["id"])})


def _device(row: Mapping[str, Any]) -> Device:
    return Device(UUID(row["id"]), UUID(row["staff_id"]), row["endpoint"] or "", row["p256dh"] or "", row["auth"] or "")


def _alert(row: Mapping[str, Any]) -> Alert:
    due_on = date.fromisoformat(row["due_on"]) if row["due_on"] else None
    if unlisted := row.get("unlisted"):
        return Alert(NOBODY, "", Kind(row["kind"]), due_on, None, unlisted)
    return Alert(UUID(row["recipient_id"]), row["recipient_name"], Kind(row["kind"]), due_on, row["cycle"])


def _deliveries(office_id: UUID, text: str | None) -> tuple[Delivery, ...]:
    return tuple(_delivery(office_id, row) for row in _rows(text))


def _delivery(office_id: UUID, row: Mapping[str, Any]) -> Delivery:
    return Delivery(
        id=UUID(row["id"]),
        office_id=office_id,
        staff_id=UUID(row["staff_id"]),
        channel=Channel(row["channel"]),
        device_id=_uuid(row["device_id"]),
        state=State(row["state"]),
        attempts=row["attempts"],
        try_no=row["try"],
        call_id=_uuid(row["call_id"]),
        call_tries=row["call_tries"],
        position=row["position"],
        payload_hash=bytes.fromhex(row["payload_hash"]) if row["payload_hash"] else None,
        doubts=row["doubts"],
        put_back=row["put_back"],
        provider=row["provider"],
        reason=row["reason"],
        due=row["due"],
    )


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
