"""Check the database: that it is the right one, its views, privileges and indexes, and the limits against what is due.

How the views behave is found by EXPLAIN of the actual statements, which applies the same rules, defaults and privileges
but writes nothing, and by reading a row.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from notifierd.commands.check_server import look_at_row_security, look_at_server
from notifierd.commands.finding import Finding, Level
from notifierd.config.settings import Audit, Settings
from notifierd.model.counts import counted
from notifierd.model.errors import ConfigError, LedgerUnavailable, SchemaMissing, StatementRefused
from notifierd.model.message import Push
from notifierd.model.office import Device
from notifierd.model.reasons import Reason
from notifierd.rules.calendar import Calendar
from notifierd.rules.due import Rules
from notifierd.send._http import parse_url
from notifierd.send.open import mail_capacity, open_push
from notifierd.store.connection.advice import advice
from notifierd.store.contract import (
    RIGHTS,
    functions_called,
    missing_rights,
    missing_tables,
    needless_rights,
    passed_over,
    problems_by_view,
    uses,
)
from notifierd.store.database import Database, open_database
from notifierd.store.migrations.versions import require_current
from notifierd.store.postgres import PostgresLedger

MOST_HOSTS: Final = 5
"""The most push services in a line."""

MOST_OFFICES: Final = 10
"""The most offices in a line."""

_KNOWN_LIMITS: Final[Mapping[str, Mapping[str, str]]] = {
    # https://developers.google.com/workspace/gmail/api/reference/quota, https://support.google.com/a/answer/166852
    "gmail": {"email_per_second": "60 mails a minute (1.0)", "email_per_day": "2,000 mails a day and user (2000)"},
}
"""Providers with quotas so small that a plan easily exceeds them."""

_ADVISED_INDEXES: Final = (
    ("alerts", "support_plan_cycles", "office_id", "is_latest_cycle"),
    ("alerts", "plan_deliverables", "plan_cycle_id", ""),
    ("staff", "office_staffs", "office_id, staff_id", ""),
    ("staff", "office_staffs", "staff_id", ""),
    ("devices", "push_subscriptions", "staff_id", ""),
)
"""View, its table, the columns that an index should begin with, and the index's condition: a column that the index may
also contain. With an index on office_id alone, PostgreSQL compares all pairs of an office's rows in office_staffs."""

_UNQUALIFIED: Final = (
    "a function that it calls names an object without its schema: add the schema, or give the function a path "
    "(alter function ... set search_path = ...)"
)

_UNUSABLE: Final = {
    "42501": "the view's owner lacks that privilege on the tables behind it",
    "55000": "the view must read one table, without join, grouping or distinct, or have an INSTEAD OF trigger",
    "0A000": "a column of the contract is an expression: it must be the table's own column, without a cast",
    "22001": "a column is too narrow for the values that are written",
    "42P01": _UNQUALIFIED,
    "42883": _UNQUALIFIED,
    "42704": _UNQUALIFIED,
}

_ON_OUR_PATH: Final = (
    "a write calls {}, which runs with search_path = pg_catalog: "
    "name tables in it with their schema, or give it a path (alter function ... set search_path = ...)"
)

_NOBODY: Final = UUID(int=0)


async def look_at_database(settings: Settings) -> list[Finding]:
    """Return the findings about the database that *settings* name, and about its content."""
    findings = []
    try:
        async with open_database(settings.database.dsn, pool_size=1, pooler=settings.database.pooler) as db:
            findings += await look_at_server(db, settings, _now)
            audit = settings.content.audit
            findings += await _schema(db, audit)
            findings += await _indexes(db)
            views = [*await _views(db, audit), *await look_at_row_security(db, audit)]
            findings += views
            if all(finding.ok for finding in views):
                findings += await _only_offices(db, settings.safety.only_offices)
                findings += await _push_hosts(db, settings)
                findings += await _room(db, settings)
    except LedgerUnavailable as error:
        findings.append(_out_of_reach(error))
    except StatementRefused as error:
        text = f"refused a check ({error.sqlstate}): {advice(error.sqlstate)}"
        findings.append(Finding("database", Level.BAD, text))
    except ConfigError as error:
        findings += [Finding("database.dsn", Level.BAD, line.removeprefix("database.dsn: ")) for line in error.problems]
    return findings


async def _schema(db: Database, audit: Audit) -> list[Finding]:
    try:
        await require_current(db)
    except SchemaMissing as error:
        findings = [Finding("schema", Level.BAD, str(error))]
    else:
        restore = "restore it from a backup of the schema, or drop the schema and run `notifierd db init`"
        findings = [
            Finding("schema", Level.BAD, f"the table notifierd.{table} is missing: {restore}")
            for table in await missing_tables(db)
        ] or [Finding("schema", Level.OK, "has the version that this program needs")]
    lacking = await missing_rights(db, audit=audit)
    remedy = "`notifierd db init --dsn ADMIN --role NAME`"
    findings += [Finding("rights", Level.BAD, f"the role lacks {line} ({remedy})") for line in lacking]
    findings += [
        Finding("rights", Level.WARN, f"the role has {line} and does not need it ({remedy})")
        for line in await needless_rights(db)
    ]
    return findings if lacking else [*findings, Finding("rights", Level.OK, "the role has every privilege it needs")]


async def _views(db: Database, audit: Audit) -> list[Finding]:
    lacking = await missing_rights(db, audit=audit)
    findings = []
    for view, problems in (await problems_by_view(db, audit)).items():
        found = [Finding(f"notifierd.{view}", Level.BAD, problem) for problem in problems]
        if not problems:
            used = [(right, statement) for name, right, statement in uses(audit) if name == view]
            found = await _uses(db, view, used, lacking)
            found += [Finding(f"notifierd.{view}", Level.WARN, line) for line in await passed_over(db, view)]
        findings += found or [Finding(f"notifierd.{view}", Level.OK, f"good for {RIGHTS[view]}")]
    return findings


async def _uses(db: Database, view: str, used: Sequence[tuple[str, str]], lacking: Collection[str]) -> list[Finding]:
    """Return what is wrong with the way that *view* is *used*: the privileges with their statements."""
    subject = f"notifierd.{view}"
    findings: dict[Finding, None] = {}
    for right, statement in used:
        if {f"{right} on {subject}", "usage on schema notifierd"} & {*lacking}:
            findings[Finding(subject, Level.BAD, f"the role may not {right}")] = None
            continue
        try:
            (row,) = await db.fetch(f"explain (verbose, format json) {statement}")
            if right == "select":  # only a real read calls the view's functions
                await db.fetch(f"{statement} limit 1")
        except StatementRefused as error:
            why = f"{_UNUSABLE.get(error.sqlstate, 'for another reason')} (SQLSTATE {error.sqlstate})"
            findings[Finding(subject, Level.BAD, f"{right} would be refused: {why}")] = None
            continue
        if right != "select":
            findings |= dict.fromkeys(
                [Finding(subject, Level.WARN, _ON_OUR_PATH.format(name)) for name in await functions_called(db, view)]
            )
        if right == "insert":
            findings |= dict.fromkeys(await _unfilled(db, subject, json.loads(row[0])[0]["Plan"]))
    return list(findings)


async def _unfilled(db: Database, subject: str, plan: Mapping[str, Any]) -> list[Finding]:
    """Return the columns of the view's table that must not be null and get no value from an insert's *plan*.

    The plan has one expression for each column of the table, in order, with all defaults filled in: the view's defaults
    take precedence over the table's.
    """
    rows = await db.fetch(
        """
        select a.attname as column, c.oid::regclass::text as table,
               a.attnotnull and a.attgenerated = '' as demanded,
               exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgtype & 7 = 7) as triggered
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where n.nspname = $1::text and c.relname = $2::text
        order by a.attnum
        """,
        plan.get("Schema"),
        plan.get("Relation Name"),
    )
    values = plan.get("Plans", [{}])[0].get("Output", [])
    findings = []
    for row, value in zip(rows, values, strict=False):
        if row["demanded"] and value.partition("::")[0].lstrip("(") == "NULL":
            text = f"{row['table']}.{row['column']} must not be null, but gets no value"
            if row["triggered"]:  # a trigger before the insert may fill them
                findings.append(Finding(subject, Level.WARN, f"{text}, unless a trigger gives it one"))
            else:
                remedy = "give it a default in the table, or in the view as a further column"
                findings.append(Finding(subject, Level.BAD, f"insert would fail: {text} ({remedy})"))
    return findings


async def _indexes(db: Database) -> list[Finding]:
    """Advise on indexes for the tables of the applications that have a preset."""
    rows = await db.fetch(
        """
        select w.column, w.condition, t.oid::regclass::text as table, exists (
            select from pg_index i
            where i.indrelid = t.oid and i.indisvalid and (
                select string_agg(a.attname, ', ' order by k.place)
                from unnest(i.indkey::int[]) with ordinality as k (number, place)
                join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                where k.place <= cardinality(string_to_array(w.column, ', '))
            ) = w.column and (
                coalesce(pg_get_expr(i.indpred, i.indrelid), '') in (w.condition, '(' || w.condition || ')')
                or i.indpred is null and exists (
                    select from pg_attribute k
                    where k.attrelid = i.indrelid and k.attnum = any (i.indkey) and k.attname = w.condition
                )
            )
        ) as there
        from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality
            as w (view, "table", "column", condition, place)
        join pg_class v on v.relname = w.view
        join pg_namespace n on n.oid = v.relnamespace and n.nspname = 'notifierd'
        join pg_class t on t.relname = w.table
        where exists (
            select from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
            where r.ev_class = v.oid and d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid
        )
        order by w.place
        """,
        *map(list, zip(*_ADVISED_INDEXES, strict=True)),
    )
    findings = []
    for row in rows:
        index = f"{row['table']} ({row['column']})" + (f" where {row['condition']}" if row["condition"] else "")
        if row["there"]:
            findings.append(Finding("index", Level.OK, f"on {index}"))
        else:
            advice = f"advised for many offices: create index concurrently on {index}"
            findings.append(Finding("index", Level.WARN, advice))
    return findings


async def _only_offices(db: Database, wanted: Sequence[UUID]) -> list[Finding]:
    if not wanted:
        return []
    subject = "safety.only_offices"
    rows = await db.fetch("select id from notifierd.offices where id = any ($1::uuid[])", list(wanted))
    absent = {str(office) for office in wanted} - {str(row["id"]) for row in rows}
    return [
        Finding(subject, Level.WARN, f"only {counted(len(set(wanted)) - len(absent), 'office')} can be notified"),
        *(Finding(subject, Level.BAD, f"{office} is not in notifierd.offices") for office in sorted(absent)),
    ]


async def _push_hosts(db: Database, settings: Settings) -> list[Finding]:
    """Count the devices whose endpoint the sender would refuse to call.

    Endpoints are secrets, so only their origins are shown.
    """
    if not (settings.push.enabled and settings.push.vapid_private_key):
        return []
    # The part of an endpoint before its path says where it leads.
    rows = await db.fetch(
        """
        select coalesce(substring(endpoint from '^[^/]*//[^/?#]*'), '') as endpoint, count(*) as devices
        from notifierd.devices group by 1
        """
    )
    allowed, refused = 0, Counter[str]()
    async with open_push(settings, now=_now) as sender:
        for row in rows:
            device = Device(_NOBODY, _NOBODY, row["endpoint"], "", "")
            if sender.destination(Push(_NOBODY, _NOBODY, device, b"", "", 0)) != Reason.ENDPOINT_REFUSED:
                allowed += row["devices"]
            else:
                url = parse_url(device.endpoint)
                refused[url.origin if url else "no URL"] += row["devices"]
    if not refused:
        return [Finding("push.allowed_hosts", Level.OK, f"covers all devices ({allowed})")]
    by_count = sorted(refused.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{origin} ({count})" for origin, count in by_count[:MOST_HOSTS])
    more = f" and {len(refused) - MOST_HOSTS} more" if len(refused) > MOST_HOSTS else ""
    text = f"{refused.total()} of {counted(allowed + refused.total(), 'device')} will get no push, at {shown}{more}"
    return [Finding("push.allowed_hosts", Level.WARN, text)]


async def _room(db: Database, settings: Settings) -> list[Finding]:
    """Compare the mails of the next day, as far as they are due by now, with the limits."""
    limits = settings.limits
    findings = [
        Finding(f"limits.{key}", Level.WARN, f"is 0, but {settings.email.provider} allows only {allowed}: set it")
        for key, allowed in _KNOWN_LIMITS.get(settings.email.provider, {}).items()
        if not getattr(limits, key)
    ]
    if not (limits.email_per_day or limits.email_per_second):
        return findings
    window = Calendar(settings.window).next_window(_now())
    capacity = mail_capacity(settings, (window.ends - window.opens).total_seconds())
    ledger = PostgresLedger(db)
    counts = await ledger.count_due(window.day, Rules.of(settings), capacity)
    for over in counts.excess:
        offices = ", ".join(map(str, over.first[:MOST_OFFICES])) + (", ..." if over.offices > MOST_OFFICES else "")
        text = f"on {window.day}, over the limit: {over.words} out of {counted(counts.email.open, 'mail')}: {offices}"
        findings.append(Finding(f"limits.{over.limit}", Level.BAD, text))
    return findings or [Finding("limits", Level.OK, f"allow the {counted(counts.email.open, 'mail')} of {window.day}")]


def _out_of_reach(error: LedgerUnavailable) -> Finding:
    return Finding("database", Level.AWAY, f"unreachable ({error.sqlstate}): {advice(error.sqlstate)}")


def _now() -> datetime:
    return datetime.now(UTC)
