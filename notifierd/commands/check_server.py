"""The checks of the server and the connection: writes, row level security, limits, TLS and clocks."""

import os
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import trio

from notifierd.commands.finding import Finding, Level
from notifierd.config.checks import is_loopback
from notifierd.config.dsn import Dsn, read_dsn
from notifierd.config.settings import Audit, Settings
from notifierd.model.errors import StatementRefused
from notifierd.store.connection.advice import advice
from notifierd.store.contract import RIGHTS, needed_views, system_identifier
from notifierd.store.database import Connection, Database
from notifierd.store.rights import missing_limits

OLDEST_SERVER: Final = 140_000

CLOCKS_APART: Final = 2.0
"""The most seconds between this machine's clock and the database's; a lease is renewed at this interval."""

EXPIRES_SOON: Final = timedelta(days=14)

_CERTIFICATE_SECONDS: Final = 10.0
_SSL_REQUEST: Final = bytes.fromhex("0000000804d2162f")
"""PostgreSQL, 55.7: SSLRequest."""

_COMMANDS: Final = {"select": "r", "insert": "a", "delete": "d"}
"""The letter of pg_policy.polcmd for each privilege that the views need."""

Now = Callable[[], datetime]


async def look_at_server(db: Database, settings: Settings, now: Now) -> list[Finding]:
    """Return the findings about the server that *db* is connected to, and about the connection."""
    return [
        *await _server(db),
        await _encoding(db),
        await _clock(db, now),
        *await _connection(db),
        *await _role_limits(db),
        *await _certificate(read_dsn(settings.database.dsn, os.environ), now),
        await _identity(db, settings.safety.database_id),
    ]


async def look_at_row_security(db: Database, audit: Audit) -> list[Finding]:
    """Return a finding for each table behind a view whose row level security hides rows from the view's owner.

    The views are those that *audit* needs.
    """
    asked = [(view, right) for view in needed_views(audit) for right in RIGHTS[view].split(", ")]
    rows = await db.fetch(
        """
        with recursive reads as (
            select v.relname as view, v.oid, case when v.reloptions @> '{security_invoker=true}'
                then current_user::text::regrole::oid else v.relowner end as reader
            from pg_class v join pg_namespace n on n.oid = v.relnamespace
            where n.nspname = 'notifierd' and v.relname = any ($1::text[])
            union
            select r.view, c.oid, case when c.relkind = 'v' and not coalesce(c.reloptions @> '{security_invoker=true}',
                false) then c.relowner else r.reader end
            from reads r
            join pg_rewrite w on w.ev_class = r.oid
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.oid
            join pg_class c on c.oid = d.refobjid
        )
        select distinct a.place, a.view, a.privilege, c.oid::regclass::text as table, o.rolname::text as reader,
            array(
                select p.polname::text from pg_policy p
                where p.polrelid = c.oid and p.polpermissive and p.polcmd::text in ('*', a.command)
                  and exists (
                      select from unnest(p.polroles) as given
                      where given = 0 or pg_has_role(r.reader, given, 'usage')
                  )
                order by 1
            ) as policies
        from reads r
        join unnest($1::text[], $2::text[], $3::text[]) with ordinality as a (view, privilege, command, place)
            on a.view = r.view
        join pg_class c on c.oid = r.oid
        join pg_roles o on o.oid = r.reader
        where c.relkind in ('r', 'p') and c.relrowsecurity and not o.rolsuper and not o.rolbypassrls
          and (c.relforcerowsecurity or not pg_has_role(r.reader, c.relowner, 'usage'))
        order by a.place, 4
        """,
        [view for view, _right in asked],
        [right for _view, right in asked],
        [_COMMANDS[right] for _view, right in asked],
    )
    findings = []
    for row in rows:
        what = f"row level security of {row['table']}"
        remedy = f"alter role {row['reader']} bypassrls, or give it a policy for {row['privilege']} there"
        if row["policies"]:
            level, text = (
                Level.WARN,
                f"{what} lets {row['reader']} {row['privilege']} by {', '.join(row['policies'])} only",
            )
            text += f": make sure that these are all rows, or {remedy}"
        else:
            level, text = (
                Level.BAD,
                f"{what} hides every row from {row['reader']}, with whose privileges the view reads: {remedy}",
            )
        findings.append(Finding(f"notifierd.{row['view']}", level, text))
    return findings


async def _server(db: Database) -> list[Finding]:
    (row,) = await db.fetch(
        """
        select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
               pg_is_in_recovery() as standby, current_setting('transaction_read_only') = 'on' as read_only,
               r.rolname::text as role, r.rolsuper as superuser
        from pg_roles r where r.rolname = current_user
        """
    )
    findings = []
    if row["number"] < OLDEST_SERVER:
        findings.append(
            Finding("database", Level.BAD, f"PostgreSQL {row['version']} is too old: 14 or newer is needed")
        )
    elif row["standby"]:
        findings.append(Finding("database", Level.BAD, f"is a standby: {advice('25006')}"))
    elif row["read_only"]:
        findings.append(Finding("database", Level.BAD, f"is read-only: {advice('25006')}"))
    else:
        findings.append(Finding("database", Level.OK, f"PostgreSQL {row['version']}, as role {row['role']}"))
    if row["superuser"]:
        remedy = "use another role, to which `notifierd db init --role NAME` grants what it needs"
        findings.append(Finding("role", Level.WARN, f"{row['role']} is a superuser: {remedy}"))
    return findings


async def _encoding(db: Database) -> Finding:
    (row,) = await db.fetch("select current_setting('server_encoding') as encoding")
    if row["encoding"] == "UTF8":
        return Finding("encoding", Level.OK, "UTF8")
    text = f"the database's encoding is {row['encoding']}: an office fails if a name cannot be encoded or decoded"
    return Finding("encoding", Level.WARN, f"{text}; use UTF8")


async def _clock(db: Database, now: Now) -> Finding:
    before = now()
    (row,) = await db.fetch("select clock_timestamp() as clock")
    half = (now() - before) / 2
    apart = (before + half - row["clock"]).total_seconds()
    if abs(apart) <= CLOCKS_APART + half.total_seconds():
        return Finding("clock", Level.OK, "this machine's clock and the database's agree")
    text = f"this machine is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the database"
    return Finding("clock", Level.WARN, f"{text}: synchronise both with NTP")


async def _connection(db: Database) -> list[Finding]:
    """Return whether database.pooler fits the connection, and whether the limits are in force."""

    async def unit(connection: Connection) -> tuple[bool, list[str]]:
        (row,) = await connection.fetch("select pg_backend_pid() as pid")
        wrong = []
        for name, wanted in db.guards.settings.items():
            (found,) = await connection.fetch("select current_setting($1::text) as value", name)
            if name.endswith("_timeout"):
                same = "select where $1::text::interval = $2::text::interval"
                good = bool(await connection.fetch(same, found["value"], wanted))
            else:
                good = found["value"] == wanted
            if not good:
                wrong.append(f"{name} is {found['value']} and must be {wanted}")
        return row["pid"] != connection.get_server_pid(), wrong

    seen, wrong = await db.unit(unit)
    if not db.pooled:
        pooler = Finding("database.pooler", Level.OK, "a direct connection, or a pooler that keeps the settings")
    elif seen:
        pooler = Finding("database.pooler", Level.OK, "there is a pooler: each transaction sets its own limits")
    else:
        text = "is true, but there is no pooler: with false, most statements need four round trips less"
        pooler = Finding("database.pooler", Level.WARN, text)
    limits = [Finding("connection", Level.BAD, f"{each}: {advice('pooler')}") for each in wrong]
    good = Finding("connection", Level.OK, "limits on locks, statements and idle transactions are in force")
    return [pooler, *(limits or [good])]


async def _role_limits(db: Database) -> list[Finding]:
    """Return whether the role's own limits hold behind a pooler, until a transaction has set its limits."""
    if not db.pooled or not (missing := await missing_limits(db)):
        return []
    remedy = "run `notifierd db init --dsn ADMIN --role NAME`, and reconnect the pooler"
    return [Finding("role", Level.WARN, f"its limits are not in force ({'; '.join(missing)}): {remedy}")]


async def _identity(db: Database, wanted: str) -> Finding:
    subject = "safety.database_id"
    try:
        found = await system_identifier(db)
    except StatementRefused as error:
        text = f"the role may not read the cluster's identifier ({error.reason}): grant execute on pg_control_system()"
        return Finding(subject, Level.BAD if wanted else Level.WARN, text)
    if not wanted:
        return Finding(subject, Level.OK, f"not set; the identifier of this cluster is {found}")
    if found != wanted:
        return Finding(
            subject, Level.BAD, f"is {wanted}, but the identifier of this cluster is {found}: nothing will be sent"
        )
    return Finding(subject, Level.OK, "is the identifier of this cluster")


async def _certificate(dsn: Dsn, now: Now) -> list[Finding]:
    """Return for each host whether the connection is encrypted, and how long the certificate is valid."""
    findings = []
    for host, port in zip(dsn.hosts, dsn.ports, strict=True):
        if host.startswith("/"):
            continue
        shown = None
        if dsn.sslmode not in {"disable", "allow"}:
            with trio.move_on_after(_CERTIFICATE_SECONDS):
                try:
                    shown = await _shown_by(host, port, direct=dsn.sslnegotiation == "direct")
                except (OSError, trio.BrokenResourceError):
                    continue  # one of several hosts may be unreachable
        if shown:
            findings.append(_judged(host, shown, now(), is_verified=dsn.is_verified))
        elif not is_loopback(host):
            text = f"the connection to {host} is not encrypted: enable TLS on the server, and use sslmode=verify-full"
            findings.append(Finding("database.dsn", Level.WARN, text))
    return findings


async def _shown_by(host: str, port: int, *, direct: bool) -> bytes | None:
    """Return the server's certificate (DER), or None if it does not offer TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only the certificate is read; nothing is sent
    context.set_alpn_protocols(["postgresql"])
    async with await trio.open_tcp_stream(host, port) as stream:
        if not direct:
            await stream.send_all(_SSL_REQUEST)
            if await stream.receive_some(1) != b"S":
                return None
        tls = trio.SSLStream(stream, context, server_hostname=host)
        await tls.do_handshake()
        shown: bytes | None = tls.getpeercert(binary_form=True)
        return shown


def _judged(host: str, shown: bytes, now: datetime, *, is_verified: bool) -> Finding:
    from cryptography import x509  # noqa: PLC0415 - many checks need no certificate

    until = x509.load_der_x509_certificate(shown).not_valid_after_utc
    subject = "database.dsn"
    if until <= now:
        return Finding(subject, Level.WARN, f"the certificate of {host} expired on {until:%Y-%m-%d}: renew it")
    if until - now < EXPIRES_SOON:
        return Finding(subject, Level.WARN, f"the certificate of {host} expires on {until:%Y-%m-%d}: renew it")
    proof = "" if is_verified else ", but is not verified (use sslmode=verify-full)"
    return Finding(subject, Level.OK, f"the certificate of {host} is valid until {until:%Y-%m-%d}{proof}")
