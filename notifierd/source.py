"""Reading what an office's messages are made from: the open deliveries of the ledger and the five views."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby
from typing import Protocol
from uuid import UUID

from attrs import field, frozen

from notifierd.choose import Rules
from notifierd.db import Database, Row
from notifierd.model import Alert, Channel, Delivery, Device, Kind, OfficeWork, Staff, State
from notifierd.statements import reading

CHUNK = 500

Place = tuple[int, UUID]
"""Where a reading stands in the order of urgency: (urgency, office id)."""

START: Place = (-(2**31), UUID(int=0))


@frozen
class Chunk:
    """Up to CHUNK offices that have something to do now, and where to read on; None at the end."""

    offices: tuple[OfficeWork, ...]
    after: Place | None


class Source(Protocol):
    """Where a pass finds its work."""

    async def read(self, day: date, after: Place, rules: Rules) -> Chunk:
        """The next offices in order of urgency, behind *after*, that have deliveries whose turn has come.

        Raises:
            LedgerUnavailable: no answer.
        """


@frozen
class PostgresSource:
    """Keyset chunks over the five views: no cursor stays open, no transaction spans a send."""

    _db: Database
    chunk: int = field(default=CHUNK)

    async def read(self, day: date, after: Place, rules: Rules) -> Chunk:
        # One office more than the chunk tells, without another statement, whether to read on.
        rows = await self._db.read(reading.WORK, day, *after, self.chunk + 1)
        found = [(place, tuple(map(_delivery, group))) for place, group in groupby(rows, _place)]
        chunk, more = found[: self.chunk], len(found) > self.chunk
        if not chunk:
            return Chunk((), None)
        works = await self.works({place[1]: deliveries for place, deliveries in chunk}, day, rules)
        return Chunk(works, chunk[-1][0] if more else None)

    async def works(
        self, deliveries: Mapping[UUID, tuple[Delivery, ...]], day: date, rules: Rules
    ) -> tuple[OfficeWork, ...]:
        """All that the messages of *deliveries*, given by their office, are made from; in the same order."""
        ids = list(deliveries)
        people = _by_office(await self._db.read(reading.STAFF, ids))
        alerts = _by_office(await self._db.read(reading.ALERTS, ids, day + timedelta(days=rules.horizon_days)))
        devices = await self._devices([delivery for group in deliveries.values() for delivery in group])
        return tuple(_work(office, group, people, alerts, devices) for office, group in deliveries.items())

    async def works_of(self, staff_id: UUID, day: date) -> tuple[OfficeWork, ...]:
        """Each office of one staff member, with all its alerts, their devices, and their deliveries of *day*."""
        people = await self._db.read(reading.STAFF_MEMBER, staff_id)
        offices = [row["office_id"] for row in people]
        alerts = _by_office(await self._db.read(reading.ALERTS, offices, date.max))
        devices = await self._db.read(reading.DEVICES_OF, staff_id)
        deliveries = _by_office(await self._db.read(reading.DELIVERIES_OF, day, offices, staff_id))
        return tuple(
            OfficeWork(
                id=row["office_id"],
                name=row["office_name"],
                deliveries=tuple(map(_delivery, deliveries.get(row["office_id"], ()))),
                staff={staff_id: _staff(row)},
                alerts=tuple(map(_alert, alerts.get(row["office_id"], ()))),
                devices={device["id"]: Device(**dict(device)) for device in devices},
            )
            for row in people
        )

    async def _devices(self, deliveries: Sequence[Delivery]) -> dict[UUID, Device]:
        pushes = [d for d in deliveries if d.channel is Channel.PUSH]
        if not pushes:
            return {}
        rows = await self._db.read(reading.DEVICES, [d.device_id for d in pushes], [d.staff_id for d in pushes])
        return {row["id"]: _device(row) for row in rows}


def _place(row: Row) -> Place:
    return row["urgency"], row["office_id"]


def _by_office(rows: Iterable[Row]) -> dict[UUID, list[Row]]:
    found: dict[UUID, list[Row]] = {}
    for row in rows:
        found.setdefault(row["office_id"], []).append(row)
    return found


def _work(
    office_id: UUID,
    deliveries: tuple[Delivery, ...],
    people: Mapping[UUID, Sequence[Row]],
    alerts: Mapping[UUID, Sequence[Row]],
    devices: Mapping[UUID, Device],
) -> OfficeWork:
    rows = people.get(office_id, ())
    return OfficeWork(
        id=office_id,
        name=rows[0]["office_name"] if rows else None,
        deliveries=deliveries,
        staff={row["id"]: _staff(row) for row in rows if row["id"] is not None},
        alerts=tuple(map(_alert, alerts.get(office_id, ()))),
        devices={d.device_id: devices[d.device_id] for d in deliveries if d.device_id and d.device_id in devices},
    )


def _staff(row: Row) -> Staff:
    return Staff(
        id=row["id"],
        name=row["name"] or "",
        email=row["email"],
        email_enabled=row["email_enabled"],
        email_days=row["email_days"],
        push_enabled=row["push_enabled"],
        push_days=row["push_days"],
    )


def _device(row: Row) -> Device:
    return Device(row["id"], row["staff_id"], row["endpoint"] or "", row["p256dh"] or "", row["auth"] or "")


def _alert(row: Row) -> Alert:
    return Alert(row["recipient_id"], row["recipient_name"] or "", Kind(row["kind"]), row["due_on"], row["cycle"])


def _delivery(row: Row) -> Delivery:
    return Delivery(
        id=row["id"],
        office_id=row["office_id"],
        staff_id=row["staff_id"],
        channel=Channel(row["channel"]),
        device_id=row["device_id"],
        state=State(row["state"]),
        attempts=row["attempts"],
        try_no=row["try"],
        call_id=row["call_id"],
        call_tries=row["call_tries"],
        position=row["position"],
        payload_hash=row["payload_hash"],
        doubts=row["doubts"],
        provider=row["provider"],
        reason=row["reason"],
        due=row["due"],
    )
