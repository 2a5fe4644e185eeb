"""The ledger in PostgreSQL, in the schema ``notifierd``. The contract tests run against it and an in-memory ledger."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from itertools import groupby
from uuid import UUID

import orjson
from attrs import asdict, evolve, frozen

from notifierd.config.settings import Audit
from notifierd.model.counts import Backlog, Capacity, ChannelCounts, DayCounts, Excess, Failure, Planned, Untold
from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State
from notifierd.rules.cluster.membership import ALONE, Standing, Terms, Use
from notifierd.rules.due import Rules
from notifierd.store.cluster.members import PostgresMembers
from notifierd.store.database import Connection, Database, Row, columns
from notifierd.store.ledger import AUDIT_TOGETHER, FORGET_STEP, PLAN_STEP, UNLIMITED, Ended, OfficeDay, Run
from notifierd.store.sql import counts, deliveries, history, members, plans
from notifierd.store.sql import runs as days

MOST_FAILURES = 1000


@frozen
class PostgresLedger:
    """The ledger in PostgreSQL. *audit* is `content.audit`."""

    _db: Database
    _plan_timeout: float = 300.0
    _audit: Audit = "each"
    _plan_step: int = PLAN_STEP

    @property
    def _members(self) -> PostgresMembers:
        return PostgresMembers(self._db)

    async def take_lease(self, day: date, holder: str, terms: Terms = ALONE) -> Standing:
        return await self._members.take_lease(day, holder, terms)

    async def renew_lease(self, day: date, holder: str, use: Use = Use()) -> Standing | None:  # noqa: B008 - it is frozen
        return await self._members.renew_lease(day, holder, use)

    async def leave(self, day: date, holder: str) -> bool:
        return await self._members.leave(day, holder)

    async def give_back(self, day: date, holder: str, reason: str) -> None:
        await self._members.give_back(day, holder, reason)

    async def recount_mails(self, day: date, holder: str, quota: int) -> None:
        await self._members.recount_mails(day, holder, quota)

    async def draw_mails(self, day: date, holder: str, needed: int) -> int:
        return await self._members.draw_mails(day, holder, needed)

    async def note_plan(self, day: date, holder: str, planned: Planned) -> int:
        return await self._members.note_plan(day, holder, planned)

    async def release(self, day: date, holder: str, kept: Collection[UUID]) -> None:
        await self._db.write(members.RELEASE, day, holder, list(kept))

    async def reopen(self, day: date) -> None:
        await self._db.write(members.REOPEN, day)

    async def is_open(self, day: date) -> bool:
        (row,) = await self._db.read(members.IS_OPEN, day)
        return bool(row["open"])

    async def plan(self, day: date, rules: Rules, capacity: Capacity = UNLIMITED) -> Planned:
        return await self._plan(plans.PLAN, day, rules, capacity)

    async def plan_next(self, day: date, rules: Rules, capacity: Capacity) -> Planned:
        return await self._plan(plans.PLAN_NEXT, day, rules, capacity)

    async def _plan(self, plan: Mapping[bool, str], day: date, rules: Rules, capacity: Capacity) -> Planned:
        given = *_due(rules), *_limits(capacity), self._plan_step, *reminder_keys(rules)
        (row,) = await self._db.write(plan[rules.reminders.selective], day, *given, timeout=self._plan_timeout)
        crowded = {UUID(one["staff_id"]): one["devices"] for one in json.loads(row["crowded"])}
        return Planned(**{**row, "excess": _excess(row), "crowded": crowded})

    async def resume(self, day: date) -> Planned | None:
        rows = await self._db.read(plans.RESUME, day, self._plan_step)
        return Planned(**rows[0], later=None) if rows else None

    async def count_due(self, day: date, rules: Rules, capacity: Capacity = UNLIMITED) -> DayCounts:
        """Count what would be due if the day were planned now, as if nothing had been sent yet. Writes nothing."""
        selective, keys = rules.reminders.selective, reminder_keys(rules)
        (row,) = await self._db.read(plans.COUNT_DUE[selective], day, *_due(rules), *_limits(capacity), *keys)
        (untold,) = await self._db.read(counts.REHEARSED_UNTOLD[selective], day, *scope(rules), *keys)
        email, push = (ChannelCounts(planned=row[channel], open=row[channel]) for channel in Channel)
        email = evolve(email, open=email.planned - row["held"], failed=row["held"])
        backlog = Backlog(email.open + push.open, due_now=True, next_in=None)
        return DayCounts(row["offices"], 0, email, push, backlog, untold_offices(untold), excess=_excess(row))

    async def list_due(self, day: date, rules: Rules) -> dict[UUID, tuple[Delivery, ...]]:
        """Return the deliveries that would be open if the day were planned now, by office in order of urgency."""
        list_due = plans.LIST_DUE[rules.reminders.selective]
        rows = await self._db.read(list_due, day, *_due(rules), *reminder_keys(rules))
        return {office: tuple(map(_foreseen, group)) for office, group in groupby(rows, lambda row: row["office_id"])}

    async def close_earlier(self, day: date) -> Ended:
        return _ended(await self._db.write(days.CLOSE_EARLIER, day))

    async def leave_open(self, day: date) -> int:
        (row,) = await self._db.write(days.LEAVE_OPEN, day)
        return int(row["open"])

    async def reserve(self, day: date, holder: str, reservations: Sequence[Reservation]) -> set[UUID]:
        rows = [
            (d.id, d.try_no, r.call_id, d.position, r.payload_hash, r.provider, r.expires)
            for r in reservations
            for d in r.deliveries
        ]
        reserved = await self._db.write(deliveries.RESERVE, day, holder, *columns(rows, 7))
        return {row["call_id"] for row in reserved}

    async def settle(self, settlements: Sequence[Settlement], *, without_audit: bool = False) -> set[UUID]:
        rows = [
            (
                s.delivery.id,
                s.try_no,
                s.state.value,
                s.reason,
                s.attempts,
                s.doubts,
                s.put_back,
                s.wait,
                s.provider_message_id,
                _details(s),
                s.gone_endpoint,
                s.delivery.call_id,
                s.delivery.provider,
            )
            for s in settlements
        ]
        late = await self._db.write(deliveries.SETTLE[self._audit], *columns(rows, 13), without_audit)
        return {row["delivery_id"] for row in late}

    async def settle_extras(self, settlements: Sequence[Settlement]) -> None:
        rows = [(s.delivery.id, s.try_no, _details(s), s.gone_endpoint) for s in settlements]
        await self._db.write(deliveries.SETTLE_EXTRAS[self._audit], *columns(rows, 4))

    async def unaudited_offices(self, day: date) -> list[OfficeDay]:
        return [(row["day"], row["office_id"]) for row in await self._db.read(days.UNAUDITED, day)]

    async def audit_offices(self, day: date, office: OfficeDay | None = None) -> int:
        if self._audit == "none":
            return 0
        return len(await self._db.write(days.AUDIT_OFFICES, day, *(office or (None, None)), AUDIT_TOGETHER))

    async def give_up_audit(self, office: OfficeDay) -> None:
        await self._db.write(days.GIVE_UP_AUDIT, *office)

    async def expire(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        return await self._end_planned(State.EXPIRED, day, holder, reasons)

    async def fail(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        return await self._end_planned(State.FAILED, day, holder, reasons)

    async def _end_planned(self, state: State, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        rows = [(delivery.id, delivery.try_no, reason) for delivery, reason in reasons.items()]
        return _ended(await self._db.write(deliveries.END_PLANNED, *columns(rows, 3), state.value, day, holder))

    async def fail_office(self, day: date, holder: str, office_id: UUID, reason: str) -> Ended:
        return _ended(await self._db.write(deliveries.FAIL_OFFICE, day, office_id, reason, holder))

    async def close(self, day: date, unsent_mail_reason: str | None = None) -> Ended:
        return _ended(await self._db.write(deliveries.CLOSE, day, unsent_mail_reason))

    async def counts(self, day: date, rules: Rules, *, interim: bool = False) -> DayCounts:
        statement, keys = counts.COUNTS[rules.reminders.selective], reminder_keys(rules)
        (row,) = await self._db.read(statement, day, *scope(rules), MOST_FAILURES, interim, *keys)
        email, push = (_channel_counts(row["states"], channel) for channel in Channel)
        failures = tuple(
            Failure(UUID(f["office_id"]), Channel(f["channel"]), f["reason"] or "")
            for f in json.loads(row["failures"] or "[]")
        )
        return DayCounts(
            offices=row["offices"],
            offices_failed=row["offices_failed"],
            email=email,
            push=push,
            failures=failures,
            failures_omitted=(row["failures_total"] or 0) - len(failures),
            backlog=Backlog(row["open"], row["due_now"], row["next_in"], _place(row)),
            untold=untold_offices(row) if row["untold"] else (),
            unaudited=row["unaudited"],
        )

    async def mails_given(self, day: date) -> int:
        (row,) = await self._db.read(counts.MAILS_GIVEN, day)
        return int(row["mails"])

    async def keep_counts(self, before: date) -> date | None:
        rows = await self._db.write(history.KEEP_COUNTS, before, timeout=self._plan_timeout)
        return next((row["day"] for row in rows), None)

    async def keep_interim(self, day: date, holder: str) -> int:
        (row,) = await self._db.fetch(members.COUNT_INTERIM, day)
        await self._db.fetch(members.KEEP_INTERIM, day, holder, row["interim"])
        return int(row["done"])

    async def finish(
        self, day: date, holder: str, state: str, reason: str | None, untold: Sequence[Untold] = ()
    ) -> bool:
        offices = json.dumps([asdict(office) for office in untold], default=str)

        async def unit(connection: Connection) -> list[Row]:
            async with connection.transaction():
                await connection.execute(days.LOCK_RUN, day)
                return await connection.fetch(days.FINISH, day, holder, state, reason, offices)

        self._db.statements.write += 1
        return not any(row["planned"] for row in await self._db.unit(unit))

    async def run(self, day: date) -> Run | None:
        rows = await self._db.fetch(days.RUN, day)
        return Run(**dict(rows[0])) if rows else None

    async def last_day(self, day: date) -> date | None:
        (row,) = await self._db.read(days.LAST_DAY, day)
        found: date | None = row["day"]
        return found

    async def record(self, runs: Mapping[date, tuple[str, str]]) -> list[date]:
        rows = [(day, state, reason) for day, (state, reason) in runs.items()]
        return sorted(row["day"] for row in await self._db.write(days.RECORD, *columns(rows, 3)))

    async def claim_alarm(self, day: date, cause: str) -> bool:
        return bool(await self._db.write(days.FIRST_TO_TELL, day, cause))

    async def retry(self, day: date, states: Collection[State], keyed: Collection[str] = ()) -> Planned:
        (row,) = await self._db.write(deliveries.RETRY, day, [state.value for state in states], list(keyed))
        return Planned(**dict(row))

    async def forget(self, before: date) -> bool:
        return bool(await self._db.write(days.FORGET, before, FORGET_STEP))


def _details(settlement: Settlement) -> str | None:
    """Return the details of a settlement's audit row."""
    return None if settlement.audit is None else orjson.dumps(settlement.audit).decode()


def scope(rules: Rules) -> tuple[int, bool, bool, list[UUID]]:
    """Return *rules* as the parameters $2 to $5 of the statements that decide who is due."""
    return rules.horizon_days, rules.overdue, rules.push, sorted(rules.only_offices)


def reminder_keys(rules: Rules) -> tuple[list[int], ...]:
    """Return the keys of *rules* as the last parameters of these statements; none if every day is a reason."""
    keys = rules.reminders
    if not keys.selective:
        return ()
    return tuple(map(sorted, (keys.renewal_days, keys.overdue_weekdays, keys.assessment_weekdays)))


def _due(rules: Rules) -> tuple[int, bool, bool, list[UUID], int]:
    """Return *rules* as the parameters $2 to $6 of the statements that also decide which devices get a push."""
    return *scope(rules), rules.devices_per_person


def _limits(capacity: Capacity) -> tuple[int | None, int | None, int]:
    """Return *capacity* as the parameters $7 to $9."""
    return capacity.mails, capacity.calls, capacity.batch


def _excess(row: Row) -> tuple[Excess, ...]:
    return tuple(map(Excess.of, json.loads(row["excess"])))


def _foreseen(row: Row) -> Delivery:
    channel, state = Channel(row["channel"]), State(row["state"])
    return Delivery(row["id"], row["office_id"], row["staff_id"], channel, row["device_id"], state)


def _place(row: Row) -> tuple[int, UUID] | None:
    return None if row["office_id"] is None else (row["urgency"], row["office_id"])


def _ended(rows: Sequence[Row]) -> Ended:
    return Counter((Channel(row["channel"]), State(row["state"])) for row in rows)


def _channel_counts(states: str | None, channel: Channel) -> ChannelCounts:
    return ChannelCounts.of({row["state"]: row["n"] for row in json.loads(states or "[]") if row["channel"] == channel})


def untold_offices(row: Row) -> tuple[Untold, ...]:
    """Return the offices in the column ``untold`` of the statements that count."""
    return tuple(
        Untold(UUID(office["office_id"]), office["alerts"], office["overdue"]) for office in json.loads(row["untold"])
    )
