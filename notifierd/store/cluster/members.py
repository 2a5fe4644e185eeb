"""Join a day, renew the membership, leave: each in one transaction that locks the day's row.

So the parts of the limits are granted to one member at a time. None of the statements count in the statistics: they
belong to the lease.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any, TypeVar

from attrs import asdict, frozen

from notifierd.model.counts import Excess, Planned
from notifierd.rules.cluster import membership
from notifierd.rules.cluster.grants import ClusterLimits, Grant
from notifierd.rules.cluster.membership import Day, Member, Standing, Terms, Use
from notifierd.store.database import Connection, Database, Row
from notifierd.store.ledger import LEASE_SECONDS
from notifierd.store.sql import members

T = TypeVar("T")

_COUNTED = ("offices", "email", "push", "mails_given", "calls", "later")
"""What the day's row keeps of a plan, besides what exceeds the limits: who leads next goes on from there."""


@frozen
class PostgresMembers:
    """The members of days, in PostgreSQL: see `Ledger`."""

    _db: Database

    async def take_lease(self, day: date, holder: str, terms: Terms) -> Standing:
        async def unit(connection: Connection) -> Standing:
            await connection.execute(members.OPEN_DAY, day)
            found = await _locked(connection, day)
            standing = membership.join(found, holder, terms)
            limits, grant = json.dumps(asdict(standing.limits)), _columns(standing.kept)
            run = standing.epoch, standing.begins, standing.leads, limits
            about = terms.host, terms.version, terms.config_hash, terms.shares
            await connection.execute(
                members.JOIN, day, holder, LEASE_SECONDS, *run, *about, *grant, _has(found, holder)
            )
            return standing

        return await self._in_turn(unit)

    async def renew_lease(self, day: date, holder: str, use: Use) -> Standing | None:
        async def unit(connection: Connection) -> Standing | None:
            standing = membership.renew(await _locked(connection, day), holder, use)
            if standing is not None:
                limits, grant = json.dumps(asdict(standing.limits)), _columns(standing.kept)
                now = standing.leads, limits, use.asked, use.mails_used
                told = json.dumps(use.tallies.as_json())
                await connection.execute(members.RENEW, day, holder, LEASE_SECONDS, *now, *grant, told)
            return standing

        return await self._in_turn(unit)

    async def leave(self, day: date, holder: str) -> bool:
        async def unit(connection: Connection) -> bool:
            last = (await _locked(connection, day)).is_last(holder)
            if last:
                await connection.execute(members.LEAD, day, holder, LEASE_SECONDS)
            else:
                await connection.execute(members.LEAVE, day, holder)
            return not last

        return await self._in_turn(unit)

    async def give_back(self, day: date, holder: str, reason: str) -> None:
        async def unit(connection: Connection) -> None:
            found = await _locked(connection, day)
            if not found.peers(holder):
                await connection.execute(members.INTERRUPT, day, holder, reason, found.is_last(holder))
            await connection.execute(members.LEAVE, day, holder)

        await self._in_turn(unit)

    async def recount_mails(self, day: date, holder: str, quota: int) -> None:
        async def unit(connection: Connection) -> None:
            await _locked(connection, day)
            await connection.execute(members.RECOUNT, day, holder, quota)

        await self._in_turn(unit)

    async def draw_mails(self, day: date, holder: str, needed: int) -> int:
        async def unit(connection: Connection) -> int:
            await _locked(connection, day)
            return int(await connection.fetchval(members.DRAW, day, holder, needed) or 0)

        return await self._in_turn(unit)

    async def note_plan(self, day: date, holder: str, planned: Planned) -> int:
        await self._db.write(members.REOPEN, day)  # by itself: it must not hold the day's row, which renewals need
        rows = await self._db.fetch(members.PLANNED, day, holder, _plan_json(planned))
        return int(rows[0]["members"]) if rows else 0

    async def _in_turn(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def unit(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self._db.unit(unit)


async def _locked(connection: Connection, day: date) -> Day:
    """Lock the row of *day*, and read it with its members."""
    run = await connection.fetchrow(members.DAY, day)
    if run is None:
        return Day(False, None, 0, None, None, ())  # noqa: FBT003 - there is no run
    rows = await connection.fetch(members.MEMBERS, day, run["at"], run["leader"])
    plan, limits = (json.loads(run[column]) if run[column] else None for column in ("plan", "limits"))
    return Day(
        run["running"],
        run["leader"],
        run["epoch"],
        _plan(plan) if plan else None,
        ClusterLimits(**limits) if limits else None,
        tuple(map(_member, rows)),
    )


def _plan_json(planned: Planned) -> str:
    plan = {name: getattr(planned, name) for name in (*_COUNTED, "excess")}
    return json.dumps(plan, default=lambda value: asdict(value) if isinstance(value, Excess) else str(value))


def _plan(plan: Mapping[str, Any]) -> Planned:
    """Return the plan that the day's row keeps; an older program kept less of it."""
    return Planned(
        **{name: plan.get(name, 0) for name in _COUNTED}, excess=tuple(map(Excess.of, plan.get("excess", ())))
    )


def _has(day: Day, name: str) -> bool:
    return any(member.name == name for member in day.members)


def _member(row: Row) -> Member:
    grant = Grant(row["email"], row["push"], row["per_destination"], row["per_second"])
    return Member(row["name"], row["epoch"], grant, row["shares"], row["config_hash"], row["asked"])


def _columns(grant: Grant) -> tuple[int, int, int, float]:
    return grant.email, grant.push, grant.per_destination, grant.per_second
